// AML, the byte code of ACPI definition blocks, written piece by piece: each function gives
// the encoding of one term, and terms nest as arguments. ACPI specification 6.5, chapter 20
// (AML) and section 6.4 (resource descriptors).
//
// What is passed in is our own text, so malformed names are asserted, not reported.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace doppel::machine::acpi::aml {

using Bytes = std::vector<std::byte>;

Bytes concat(std::initializer_list<Bytes> parts);

// ---- data ------------------------------------------------------------------------------
Bytes integer(std::uint64_t value);  // the shortest encoding
Bytes string(std::string_view text);  // ASCII
Bytes buffer(const Bytes& content);
Bytes eisa_id(std::string_view id);  // "PNP0A08"
Bytes package(std::initializer_list<Bytes> elements);
Bytes package(const std::vector<Bytes>& elements);  // at most 255

// ---- names -----------------------------------------------------------------------------
// "\\_SB.PCI0", "^X", "COM1": segments of at most 4 characters, padded with '_'.
Bytes path(std::string_view text);
Bytes name(std::string_view path, const Bytes& value);
Bytes scope(std::string_view path, std::initializer_list<Bytes> terms);
Bytes device(std::string_view path, std::initializer_list<Bytes> terms);
Bytes method(std::string_view path, unsigned arguments, std::initializer_list<Bytes> terms);

// ---- fields ----------------------------------------------------------------------------
enum class RegionSpace : std::uint8_t { system_memory = 0, system_io = 1, pci_config = 2 };
Bytes operation_region(std::string_view path, RegionSpace space, std::uint64_t offset,
                       std::uint64_t length);
enum class FieldAccess : std::uint8_t { any = 0, byte = 1, word = 2, dword = 3 };
struct FieldElement {
    std::string_view name;  // empty: bits to skip
    unsigned bits;
};
Bytes field(std::string_view region, FieldAccess access,
            std::initializer_list<FieldElement> elements);

// ---- statements and expressions --------------------------------------------------------
Bytes argument(unsigned index);  // Arg0-Arg6
Bytes local(unsigned index);     // Local0-Local7
Bytes store(const Bytes& value, const Bytes& target);
Bytes return_value(const Bytes& value);
Bytes if_true(const Bytes& condition, std::initializer_list<Bytes> terms);
Bytes otherwise(std::initializer_list<Bytes> terms);  // directly after if_true
Bytes equal(const Bytes& left, const Bytes& right);
Bytes bit_and(const Bytes& left, const Bytes& right, const Bytes& target);
Bytes bit_or(const Bytes& left, const Bytes& right, const Bytes& target);
Bytes no_target();  // for operators whose result is only used as a value

// ---- resources -------------------------------------------------------------------------
Bytes resource_template(std::initializer_list<Bytes> descriptors);  // adds the end tag
Bytes io_ports(std::uint16_t start, std::uint8_t length);           // fixed, 16-bit decode
Bytes irq_edge(unsigned irq);                                       // ISA, active high
Bytes interrupt_level(unsigned gsi);                                // active high, shared
Bytes memory32_fixed(std::uint32_t start, std::uint32_t size);      // writable
Bytes bus_numbers(std::uint16_t first, std::uint16_t last);
// Producer windows of a bridge, inclusive ends.
Bytes io_window(std::uint16_t first, std::uint16_t last);
Bytes memory_window32(std::uint32_t first, std::uint32_t last);  // non-cacheable
Bytes memory_window64(std::uint64_t first, std::uint64_t last);  // non-cacheable

}  // namespace doppel::machine::acpi::aml
