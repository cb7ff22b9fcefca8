#include "machine/acpi/aml.h"

#include "base/assert.h"
#include "base/bytes.h"

namespace doppel::machine::acpi::aml {

namespace {

// ACPI 6.5 table 20.2: opcodes.
enum Opcode : std::uint8_t {
    zero_op = 0x00, one_op = 0x01, name_op = 0x08, byte_prefix = 0x0a, word_prefix = 0x0b,
    dword_prefix = 0x0c, string_prefix = 0x0d, qword_prefix = 0x0e, scope_op = 0x10,
    buffer_op = 0x11, package_op = 0x12, method_op = 0x14, dual_name_prefix = 0x2e,
    multi_name_prefix = 0x2f, ext_prefix = 0x5b, local0_op = 0x60, arg0_op = 0x68, store_op = 0x70,
    and_op = 0x7b, or_op = 0x7d, lequal_op = 0x93, if_op = 0xa0, else_op = 0xa1, return_op = 0xa4,
};
enum ExtendedOpcode : std::uint8_t { opregion_op = 0x80, field_op = 0x81, device_op = 0x82 };

// Large resource descriptors, ACPI 6.5 section 6.4.3.
constexpr std::uint8_t word_address = 0x88, dword_address = 0x87, qword_address = 0x8a,
                       memory32_fixed_tag = 0x86;
constexpr std::uint8_t type_memory = 0, type_io = 1, type_bus = 2;
constexpr std::uint8_t min_max_fixed = 0x0c;  // both ends fixed, positive decode, producer

template <typename T>
void put(Bytes& out, T value)
{
    const std::size_t at = out.size();
    out.resize(at + sizeof(T));
    base::store_le(out.data() + at, value);
}

void put_bytes(Bytes& out, const Bytes& more) { out.insert(out.end(), more.begin(), more.end()); }

Bytes op(std::uint8_t opcode, std::initializer_list<Bytes> operands)
{
    Bytes out;
    put(out, opcode);
    for (const Bytes& operand : operands) put_bytes(out, operand);
    return out;
}

Bytes extended(std::uint8_t opcode) { return op(ext_prefix, {op(opcode, {})}); }

// PkgLength counts itself: 1 byte up to 63, else 4 bits and 1 to 3 more bytes.
Bytes with_length(const Bytes& content)
{
    Bytes out;
    if (content.size() + 1 <= 63) {
        put(out, static_cast<std::uint8_t>(content.size() + 1));
    } else {
        unsigned more = 1;
        while (content.size() + 1 + more >= (std::size_t{1} << (4 + 8 * more))) ++more;
        ASSERT(more <= 3);
        const std::size_t length = content.size() + 1 + more;
        put(out, static_cast<std::uint8_t>((more << 6) | (length & 0xf)));
        for (unsigned i = 0; i < more; ++i) {
            put(out, static_cast<std::uint8_t>(length >> (4 + 8 * i)));
        }
    }
    put_bytes(out, content);
    return out;
}

Bytes named_block(Bytes head, std::string_view name_path, const Bytes& middle,
                  std::initializer_list<Bytes> terms)
{
    Bytes content = path(name_path);
    put_bytes(content, middle);
    put_bytes(content, concat(terms));
    put_bytes(head, with_length(content));
    return head;
}

void put_segment(Bytes& out, std::string_view segment)
{
    ASSERT(!segment.empty() && segment.size() <= 4);
    for (std::size_t i = 0; i < 4; ++i) put(out, i < segment.size() ? segment[i] : '_');
}

template <typename T>
Bytes address_space(std::uint8_t tag, std::uint8_t type, std::uint8_t type_flags, T first, T last)
{
    Bytes out;
    put(out, tag);
    put(out, static_cast<std::uint16_t>(3 + 5 * sizeof(T)));
    put(out, type);
    put(out, min_max_fixed);
    put(out, type_flags);
    put(out, T{0});  // granularity
    put(out, first);
    put(out, last);
    put(out, T{0});  // translation
    put(out, static_cast<T>(last - first + 1));
    return out;
}

}  // namespace

Bytes concat(std::initializer_list<Bytes> parts)
{
    Bytes out;
    for (const Bytes& part : parts) put_bytes(out, part);
    return out;
}

Bytes integer(std::uint64_t value)
{
    if (value == 0) return op(zero_op, {});
    if (value == 1) return op(one_op, {});
    Bytes out;
    if (value <= 0xff) {
        put(out, byte_prefix);
        put(out, static_cast<std::uint8_t>(value));
    } else if (value <= 0xffff) {
        put(out, word_prefix);
        put(out, static_cast<std::uint16_t>(value));
    } else if (value <= 0xffffffff) {
        put(out, dword_prefix);
        put(out, static_cast<std::uint32_t>(value));
    } else {
        put(out, qword_prefix);
        put(out, value);
    }
    return out;
}

Bytes string(std::string_view text)
{
    Bytes out = op(string_prefix, {});
    for (const char c : text) {
        ASSERT(c > 0);
        put(out, c);
    }
    put(out, '\0');
    return out;
}

Bytes buffer(const Bytes& content)
{
    return op(buffer_op, {with_length(concat({integer(content.size()), content}))});
}

Bytes eisa_id(std::string_view id)
{
    ASSERT(id.size() == 7);
    const auto letter = [&](std::size_t i) { return static_cast<unsigned>(id[i] - 0x40) & 0x1f; };
    const auto digit = [&](std::size_t i) {
        const char c = id[i];
        return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'A' + 10) & 0xf;
    };
    // Big-endian: three 5-bit letters, four hexadecimal digits.
    const unsigned high = (letter(0) << 10) | (letter(1) << 5) | letter(2);
    const unsigned low = (digit(3) << 12) | (digit(4) << 8) | (digit(5) << 4) | digit(6);
    return integer(__builtin_bswap32((high << 16) | low));
}

Bytes package(const std::vector<Bytes>& elements)
{
    ASSERT(elements.size() <= 255);
    Bytes content;
    put(content, static_cast<std::uint8_t>(elements.size()));
    for (const Bytes& element : elements) put_bytes(content, element);
    return op(package_op, {with_length(content)});
}

Bytes package(std::initializer_list<Bytes> elements) { return package(std::vector<Bytes>{elements}); }

Bytes path(std::string_view text)
{
    Bytes out;
    while (!text.empty() && (text.front() == '\\' || text.front() == '^')) {
        put(out, text.front());
        text.remove_prefix(1);
    }
    std::vector<std::string_view> segments;
    while (!text.empty()) {
        const std::size_t dot = std::min(text.find('.'), text.size());
        segments.push_back(text.substr(0, dot));
        text.remove_prefix(std::min(dot + 1, text.size()));
    }
    if (segments.empty()) {
        put(out, zero_op);
    } else if (segments.size() == 2) {
        put(out, dual_name_prefix);
    } else if (segments.size() > 2) {
        ASSERT(segments.size() <= 255);
        put(out, multi_name_prefix);
        put(out, static_cast<std::uint8_t>(segments.size()));
    }
    for (const std::string_view segment : segments) put_segment(out, segment);
    return out;
}

Bytes name(std::string_view name_path, const Bytes& value)
{
    return op(name_op, {path(name_path), value});
}

Bytes scope(std::string_view name_path, std::initializer_list<Bytes> terms)
{
    return named_block(op(scope_op, {}), name_path, {}, terms);
}

Bytes device(std::string_view name_path, std::initializer_list<Bytes> terms)
{
    return named_block(extended(device_op), name_path, {}, terms);
}

Bytes method(std::string_view name_path, unsigned arguments, std::initializer_list<Bytes> terms)
{
    ASSERT(arguments <= 7);
    Bytes flags;
    put(flags, static_cast<std::uint8_t>(arguments));
    return named_block(op(method_op, {}), name_path, flags, terms);
}

Bytes operation_region(std::string_view name_path, RegionSpace space, std::uint64_t offset,
                       std::uint64_t length)
{
    Bytes out = concat({extended(opregion_op), path(name_path)});
    put(out, space);
    return concat({out, integer(offset), integer(length)});
}

Bytes field(std::string_view region, FieldAccess access,
            std::initializer_list<FieldElement> elements)
{
    Bytes content;
    put(content, access);  // no lock, preserve
    for (const FieldElement& element : elements) {
        if (element.name.empty()) {
            put(content, std::uint8_t{0});
        } else {
            put_segment(content, element.name);
        }
        // A PkgLength that counts bits and not itself.
        if (element.bits <= 63) {
            put(content, static_cast<std::uint8_t>(element.bits));
        } else {
            ASSERT(element.bits < (1u << 12));
            put(content, static_cast<std::uint8_t>((1u << 6) | (element.bits & 0xf)));
            put(content, static_cast<std::uint8_t>(element.bits >> 4));
        }
    }
    return concat({extended(field_op), with_length(concat({path(region), content}))});
}

Bytes argument(unsigned index)
{
    ASSERT(index <= 6);
    return op(static_cast<std::uint8_t>(arg0_op + index), {});
}

Bytes local(unsigned index)
{
    ASSERT(index <= 7);
    return op(static_cast<std::uint8_t>(local0_op + index), {});
}

Bytes store(const Bytes& value, const Bytes& target) { return op(store_op, {value, target}); }

Bytes return_value(const Bytes& value) { return op(return_op, {value}); }

Bytes if_true(const Bytes& condition, std::initializer_list<Bytes> terms)
{
    return op(if_op, {with_length(concat({condition, concat(terms)}))});
}

Bytes otherwise(std::initializer_list<Bytes> terms)
{
    return op(else_op, {with_length(concat(terms))});
}

Bytes equal(const Bytes& left, const Bytes& right) { return op(lequal_op, {left, right}); }

Bytes bit_and(const Bytes& left, const Bytes& right, const Bytes& target)
{
    return op(and_op, {left, right, target});
}

Bytes bit_or(const Bytes& left, const Bytes& right, const Bytes& target)
{
    return op(or_op, {left, right, target});
}

Bytes no_target() { return op(zero_op, {}); }

Bytes resource_template(std::initializer_list<Bytes> descriptors)
{
    Bytes content = concat(descriptors);
    put(content, std::uint8_t{0x79});  // end tag
    put(content, std::uint8_t{0});     // checksum: none
    return buffer(content);
}

Bytes io_ports(std::uint16_t start, std::uint8_t length)
{
    Bytes out;
    put(out, std::uint8_t{0x47});
    put(out, std::uint8_t{1});  // decodes 16 bits
    put(out, start);
    put(out, start);
    put(out, std::uint8_t{1});  // alignment
    put(out, length);
    return out;
}

Bytes irq_edge(unsigned irq)
{
    ASSERT(irq < 16);
    Bytes out;
    put(out, std::uint8_t{0x22});
    put(out, static_cast<std::uint16_t>(1u << irq));
    return out;
}

Bytes interrupt_level(unsigned gsi)
{
    constexpr std::uint8_t extended_interrupt_tag = 0x89, consumer = 1, shared = 8;
    Bytes out;
    put(out, extended_interrupt_tag);
    put(out, std::uint16_t{6});
    put(out, static_cast<std::uint8_t>(consumer | shared));
    put(out, std::uint8_t{1});
    put(out, std::uint32_t{gsi});
    return out;
}

Bytes memory32_fixed(std::uint32_t start, std::uint32_t size)
{
    Bytes out;
    put(out, memory32_fixed_tag);
    put(out, std::uint16_t{9});
    put(out, std::uint8_t{1});
    put(out, start);
    put(out, size);
    return out;
}

Bytes bus_numbers(std::uint16_t first, std::uint16_t last)
{
    return address_space<std::uint16_t>(word_address, type_bus, 0, first, last);
}

Bytes io_window(std::uint16_t first, std::uint16_t last)
{
    return address_space<std::uint16_t>(word_address, type_io, 3 /* whole range */, first, last);
}

Bytes memory_window32(std::uint32_t first, std::uint32_t last)
{
    return address_space<std::uint32_t>(dword_address, type_memory, 1 /* writable */, first, last);
}

Bytes memory_window64(std::uint64_t first, std::uint64_t last)
{
    return address_space<std::uint64_t>(qword_address, type_memory, 1 /* writable */, first, last);
}

}  // namespace doppel::machine::acpi::aml
