#include "bare_machine.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "x86/fault.h"

namespace doppel::conformance {

using base::Gpa;
using x86::CpuState;
using x86::Segment;

namespace {

constexpr std::uint64_t present = 1, writable = 2, user = 4, large = 0x80, no_execute = 1ull << 63;
constexpr std::uint8_t end_code[] = {0xe6, 0xf4};  // out 0xf4, al
constexpr std::uint16_t end_port = 0xf4;

template <typename T>
void put(memory::GuestMemory& memory, std::uint64_t at, T value)
{
    ASSERT(memory.write_value(Gpa{at}, value));
}

// Entries of one 4 KiB table level that maps the first 2 MiB; 4-level and PAE share it.
void build_page_tables(memory::GuestMemory& memory, bool seen_high)
{
    using namespace layout;
    put(memory, pml4, pdpt | present | writable | user);
    put(memory, pdpt, page_directory | present | writable | user);
    put(memory, pae_pdpt, page_directory | present);
    if (seen_high) {
        put(memory, pml4 + 8 * 511, pdpt | present | writable | user);
        put(memory, pdpt + 8 * 510, page_directory | present | writable | user);
    }
    put(memory, page_directory, page_table | present | writable | user);
    put(memory, page_directory + 8, 0x200000 | present | writable | user | large);
    put(memory, directory32, static_cast<std::uint32_t>(table32 | present | writable | user));
    for (std::uint64_t page = 0; page < 512; ++page) {
        const std::uint64_t at = page << 12;
        std::uint64_t rights = present | writable;
        std::uint64_t nx = 0;
        if (at >= code && at < 0x40000) rights |= user;
        if (at >= data && at < 0x40000) nx = no_execute;
        if (at == hole) rights = 0;
        if (at == read_only) rights = present | user;
        if (at == supervisor) rights = present | writable;
        put(memory, page_table + 8 * page, rights == 0 ? 0 : at | rights | nx);
        put(memory, table32 + 4 * page, static_cast<std::uint32_t>(rights == 0 ? 0 : at | rights));
    }
}

constexpr std::uint64_t descriptor(std::uint32_t base, std::uint32_t limit, std::uint32_t access,
                                   std::uint32_t flags)
{
    return (limit & 0xffffull) | (base & 0xffffffull) << 16 | std::uint64_t{access} << 40 |
           (limit >> 16 & 0xfull) << 48 | std::uint64_t{flags} << 52 |
           std::uint64_t{base >> 24} << 56;
}

// Selectors are named in docs/testing.md; order also satisfies SYSCALL and SYSRET.
void build_gdt(memory::GuestMemory& memory, bool long_mode)
{
    const std::array<std::uint64_t, 22> entries{
        0,
        descriptor(0, 0xfffff, 0x9b, 0xa),    // 08 code64, ring 0
        descriptor(0, 0xfffff, 0x93, 0xc),    // 10 data, ring 0
        descriptor(0, 0xfffff, 0x9b, 0xc),    // 18 code32, ring 0
        descriptor(0, 0xffff, 0x93, 0x0),     // 20 data16, ring 0
        descriptor(0, 0xffff, 0x9b, 0x0),     // 28 code16, ring 0 (base 0)
        descriptor(0, 0xfffff, 0xfb, 0xc),    // 30 code32, ring 3
        descriptor(0, 0xfffff, 0xf3, 0xc),    // 38 data, ring 3
        descriptor(0, 0xfffff, 0xfb, 0xa),    // 40 code64, ring 3
        descriptor(layout::tss, 0x1fff, long_mode ? 0x8b : 0x8b, 0x0),  // 48 TSS (16 bytes long)
        0,                                    // 50 its upper half
        descriptor(0, 0xfffff, 0x9f, 0xc),    // 58 code32, ring 0, conforming
        descriptor(0, 0xfffff, 0x73, 0xc),    // 60 data, ring 3, not present
        descriptor(0, 0xfffff, 0xf1, 0xc),    // 68 data, ring 3, read-only
        descriptor(0, 0x1ffff, 0xf7, 0x4),    // 70 data, ring 3, expand-down: above 0x1ffff
        descriptor(layout::ldt, 0xfff, 0x82, 0x0),   // 78 LDT
        0,                                    // 80
        0,                                    // 88 free: call gates of cases
        0,                                    // 90
        descriptor(layout::tss2, 0x67, 0x89, 0x0),   // 98 second TSS32, available
        descriptor(0, 0xfffff, 0xf9, 0xc),    // a0 code32, ring 3, execute-only
        descriptor(0x20000, 0xfff, 0xf3, 0x4),  // a8 data, ring 3, base 0x20000, limit 0xfff
    };
    for (std::size_t i = 0; i < entries.size(); ++i) put(memory, layout::gdt + 8 * i, entries[i]);
}

bool in_long_mode(Mode mode)
{
    return mode == Mode::kernel64 || mode == Mode::user64 || mode == Mode::compat32;
}

// Every vector leads to a stub of 16 bytes that reports through the end port.
void build_exception_table(memory::GuestMemory& memory, Mode mode)
{
    for (std::uint64_t vector = 0; vector < 256; ++vector) {
        const std::uint64_t stub = layout::stubs + 16 * vector;
        ASSERT(memory.write(Gpa{stub}, std::as_bytes(std::span{end_code})));
        const bool from_user = vector == 3 || vector == 4 || vector == 0x80;
        const std::uint64_t access = (from_user ? 0xe0ull : 0x80ull) | 0xe;
        if (mode == Mode::real16) {
            if (vector < 64) put(memory, 4 * vector, static_cast<std::uint32_t>(stub));
        } else if (in_long_mode(mode)) {
            put(memory, layout::idt + 16 * vector, stub | 0x08ull << 16 | access << 40);
            put(memory, layout::idt + 16 * vector + 8, std::uint64_t{0});
        } else {
            put(memory, layout::idt + 8 * vector, stub | 0x18ull << 16 | access << 40);
        }
    }
}

void build_tss(memory::GuestMemory& memory, Mode mode)
{
    if (in_long_mode(mode)) {
        put(memory, layout::tss + 4, layout::ring0_stack);
        put(memory, layout::tss + 0x66, std::uint16_t{0x2000});  // no I/O bitmap
    } else {
        put(memory, layout::tss + 4, static_cast<std::uint32_t>(layout::ring0_stack));
        put(memory, layout::tss + 8, std::uint32_t{0x10});
        put(memory, layout::tss + 0x66, std::uint16_t{0x2000});
    }
}

Segment segment(std::uint16_t selector, std::uint32_t attributes, std::uint64_t base = 0,
                std::uint32_t limit = 0xffffffff)
{
    Segment s;
    s.selector = selector;
    s.attributes = attributes;
    s.base = base;
    s.limit = limit;
    return s;
}

void set_segments(CpuState& state, const Segment& code, const Segment& data)
{
    state.segments.fill(data);
    state.segments[x86::CS] = code;
}

void set_mode_segments(CpuState& state, Mode mode)
{
    switch (mode) {
    case Mode::real16:
        set_segments(state, segment(0x1000, 0x9b, 0x10000, 0xffff), segment(0x2000, 0x93, 0x20000, 0xffff));
        state.segments[x86::SS] = segment(0x3000, 0x93, 0x30000, 0xffff);
        break;
    case Mode::vm86:
        set_segments(state, segment(0x1000, 0xf3, 0x10000, 0xffff), segment(0x2000, 0xf3, 0x20000, 0xffff));
        state.segments[x86::SS] = segment(0x3000, 0xf3, 0x30000, 0xffff);
        break;
    case Mode::prot16:
        // Code at linear 0x10000 lies at offset 0 of a 64 KiB segment.
        set_segments(state, segment(0x28, 0x9b, 0x10000, 0xffff), segment(0x20, 0x93, 0x20000, 0xffff));
        state.segments[x86::SS] = segment(0x20, 0x93, 0x30000, 0xffff);
        break;
    case Mode::prot32:
        set_segments(state, segment(0x18, 0xc09b), segment(0x10, 0xc093));
        break;
    case Mode::user32:
    case Mode::compat32:
        set_segments(state, segment(0x33, 0xc0fb), segment(0x3b, 0xc0f3));
        break;
    case Mode::kernel64:
        set_segments(state, segment(0x08, 0xa09b), segment(0x10, 0xc093));
        break;
    case Mode::user64:
        set_segments(state, segment(0x43, 0xa0fb), segment(0x3b, 0xc0f3));
        break;
    }
}

void set_paging(CpuState& state, Mode mode, Paging paging)
{
    using namespace x86;
    switch (paging) {
    case Paging::none: return;
    case Paging::bits32: state.cr3 = layout::directory32; break;
    case Paging::pae:
        state.cr3 = layout::pae_pdpt;
        state.cr4 |= cr4::PAE;
        state.efer |= efer::NXE;
        break;
    case Paging::level4:
        state.cr3 = layout::pml4;
        state.cr4 |= cr4::PAE;
        state.efer |= efer::NXE | efer::LME | efer::SCE;
        if (in_long_mode(mode)) state.efer |= efer::LMA;
        break;
    }
    state.cr0 |= cr0::PG;
}

}  // namespace

CpuState initial_state(Mode mode, Paging paging)
{
    using namespace x86;
    CpuState state = reset_state(true);
    for (std::size_t i = 0; i < 16; ++i) state.gpr[i] = 0x1111111111111111ull * i;
    const bool wide = mode == Mode::kernel64 || mode == Mode::user64;
    for (std::size_t i = 0; i < 16 && !wide; ++i) {
        state.gpr[i] = i < 8 ? static_cast<std::uint32_t>(state.gpr[i]) : 0;
    }
    const bool segmented = mode == Mode::real16 || mode == Mode::vm86 || mode == Mode::prot16;
    state.gpr[RSP] = segmented ? layout::stack & 0xffff : layout::stack;
    state.rip = segmented ? 0 : layout::code;
    state.rflags = rflags::RESERVED1;
    state.cr0 = cr0::ET | cr0::NE | cr0::MP | cr0::WP;
    if (mode != Mode::real16) state.cr0 |= cr0::PE;
    if (mode == Mode::vm86) state.rflags |= rflags::VM;
    state.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    state.xcr0 = this_host().query(0xd, 0).eax & xcr0::SUPPORTED;
    state.gdtr = {layout::gdt, 0xff, 0};
    state.idtr = mode == Mode::real16 ? TableRegister{0, 0x3ff, 0} : TableRegister{layout::idt, 0xfff, 0};
    state.tr = segment(0x48, segment_attributes::TSS32_BUSY, layout::tss, 0x1fff);
    state.ldtr = segment(0, segment_attributes::UNUSABLE, 0, 0);
    set_mode_segments(state, mode);
    set_paging(state, mode, paging);
    return state;
}

void build_world(memory::GuestMemory& memory, const Case& c, bool seen_high)
{
    std::vector<std::byte> zeros(layout::stack + 0x10000);
    ASSERT(memory.write(Gpa{0}, zeros));
    build_page_tables(memory, seen_high);
    build_gdt(memory, in_long_mode(c.mode));
    build_exception_table(memory, c.mode);
    build_tss(memory, c.mode);
    ASSERT(memory.write(Gpa{layout::code}, std::as_bytes(c.code)));
    ASSERT(memory.write(Gpa{layout::code + c.code.size()}, std::as_bytes(std::span{end_code})));
    for (const MemoryValue& value : c.initial_memory) {
        ASSERT(memory.write(Gpa{value.address}, std::as_bytes(value.bytes)));
    }
}

namespace {

std::uint64_t read_stack(const memory::GuestMemory& memory, std::uint64_t at, unsigned size)
{
    std::uint64_t value = 0;
    static_cast<void>(memory.read(Gpa{at}, std::as_writable_bytes(std::span{&value, 1}).first(size)));
    return value;
}

// The stub found an exception frame on the stack: undoes the delivery.
SeenFault unwind(const memory::GuestMemory& memory, Mode mode, std::uint8_t vector, CpuState& state)
{
    SeenFault seen;
    seen.vector = vector;
    seen.cr2 = state.cr2;
    const unsigned word = mode == Mode::real16 ? 2 : in_long_mode(mode) ? 8 : 4;
    std::uint64_t at = mode == Mode::real16
                           ? (state.gpr[x86::RSP] & 0xffff) + state.segments[x86::SS].base
                           : layout::without_high(state.gpr[x86::RSP]) & (word == 8 ? ~0ull : 0xffffffffull);
    const std::uint64_t start = at;
    const auto pop = [&] {
        const std::uint64_t value = read_stack(memory, at, word);
        at += word;
        return value;
    };
    if (mode != Mode::real16 && x86::pushes_error_code(static_cast<x86::Vector>(vector))) {
        seen.error_code = static_cast<std::uint32_t>(pop());
    }
    seen.rip = pop();
    const std::uint64_t cs = pop();
    state.rflags = pop();
    if (mode == Mode::real16) state.rflags = (state.rflags & 0xffff) | x86::rflags::RESERVED1;
    const bool outer = (state.rflags & x86::rflags::VM) != 0 || (cs & 3) != 0;
    if (word == 8 || (word == 4 && outer)) {
        state.gpr[x86::RSP] = pop();
        state.segments[x86::SS].selector = static_cast<std::uint16_t>(pop());
    } else {
        state.gpr[x86::RSP] += at - start;
    }
    state.rip = seen.rip;
    state.segments[x86::CS].selector = static_cast<std::uint16_t>(cs);
    return seen;
}

std::uint64_t linear_rip(const CpuState& state)
{
    return state.code64() ? state.rip : state.rip + state.segments[x86::CS].base;
}

}  // namespace

namespace {

Outcome run_from(TestEngine& engine, const Case& c, const CpuState& start)
{
    Outcome outcome;
    engine.vcpu().set_state(start);
    for (unsigned tries = 0;; ++tries) {
        const engine::Exit exit = engine.vcpu().run();
        const auto* write = std::get_if<engine::IoWriteExit>(&exit);
        if (write != nullptr && write->port == end_port) break;
        if (std::holds_alternative<engine::IoReadExit>(exit) ||
            std::holds_alternative<engine::MmioReadExit>(exit)) {
            engine.vcpu().complete_read(0xa5a5a5a5a5a5a5a5);
        } else if (const auto* shutdown = std::get_if<engine::ShutdownExit>(&exit)) {
            outcome.problem = "shutdown: " + shutdown->reason;
            return outcome;
        } else if (const auto* error = std::get_if<engine::ErrorExit>(&exit)) {
            outcome.problem = "error: " + error->reason;
            return outcome;
        } else if (tries > 1000 || std::holds_alternative<engine::HaltExit>(exit)) {
            outcome.problem = fmt::format("unexpected exit {}", exit.index());
            return outcome;
        }
    }
    outcome.state = engine.vcpu().state();
    const std::uint64_t at = layout::without_high(linear_rip(outcome.state));
    const std::uint64_t end = layout::code + c.code.size();
    if (at >= layout::stubs && at < layout::stubs + 0x1000) {
        const auto vector = static_cast<std::uint8_t>((at - layout::stubs) / 16);
        const SeenFault seen = unwind(engine.memory(), c.mode, vector, outcome.state);
        // Outside ring 0 the terminating OUT raises #GP itself.
        const bool segmented = c.mode == Mode::vm86 || c.mode == Mode::prot16;
        const std::uint64_t end_rip = segmented ? end - layout::code : end;
        if (!(vector == 13 && layout::without_high(seen.rip) == end_rip)) outcome.fault = seen;
    } else if (at < end || at > end + sizeof end_code) {
        outcome.problem = fmt::format("ended at {:#x}", at);
    }
    return outcome;
}

}  // namespace

Outcome run_on_engine(TestEngine& engine, const Case& c, Placement placement)
{
    const bool moved = placement == Placement::moved_high;
    build_world(engine.memory(), c, c.seen_high || moved);
    CpuState start = initial_state(c.mode, c.paging);
    for (const RegisterValue& value : c.initial_registers) {
        if (!set_register(start, value.name, value.value)) {
            Outcome outcome;
            outcome.problem = fmt::format("unknown register {}", value.name);
            return outcome;
        }
    }
    if (c.high || moved) {
        start.rip = layout::without_high(start.rip) + layout::high;
        start.gpr[x86::RSP] = layout::without_high(start.gpr[x86::RSP]) + layout::high;
    }
    engine.reset();
    Outcome outcome = run_from(engine, c, start);
    if (!moved) return outcome;
    for (std::uint64_t& value : outcome.state.gpr) value = layout::without_high(value);
    outcome.state.rip = layout::without_high(outcome.state.rip);
    outcome.state.cr2 = layout::without_high(outcome.state.cr2);
    if (outcome.fault) {
        outcome.fault->rip = layout::without_high(outcome.fault->rip);
        outcome.fault->cr2 = layout::without_high(outcome.fault->cr2);
    }
    return outcome;
}

void build_stream_world(memory::GuestMemory& memory, Place place)
{
    Case nothing{};
    nothing.mode = mode_of(place);
    build_world(memory, nothing, place == Place::supervisor_high);
    put(memory, layout::page_directory + 8, std::uint64_t{0});
    for (std::uint64_t page = 0; page < 512; ++page) {
        const std::uint64_t at = page << 12;
        const bool of_stream = (at >= layout::code && at < layout::code + 0x2000) ||
                               (at >= layout::data && at < layout::data + 0x2000) ||
                               at == layout::read_only || at == 0x30000;
        // What the processor needs for an exception, out of reach of supervisor streams.
        const bool of_processor = at >= layout::gdt && at < layout::stubs + 0x1000;
        const std::uint64_t entry = layout::page_table + 8 * page;
        if (of_processor) put(memory, entry, at | present);
        if (!of_stream && !of_processor && at != layout::ring0_stack - 0x1000) put(memory, entry, std::uint64_t{0});
    }
    constexpr std::uint8_t first_ist = 1;
    put(memory, layout::tss + 0x24, layout::ring0_stack);
    for (std::uint64_t vector = 0; vector < 256; ++vector) {
        put(memory, layout::idt + 16 * vector + 4, first_ist);
    }
}

Outcome run_stream(TestEngine& engine, const Case& c, const CpuState& start, std::uint64_t code_at)
{
    memory::GuestMemory& memory = engine.memory();
    const std::vector<std::byte> zeros(0x2000);
    ASSERT(memory.write(Gpa{layout::stack & ~0xfffull}, std::span{zeros}.first(0x1000)));
    ASSERT(memory.write(Gpa{code_at}, zeros));
    ASSERT(memory.write(Gpa{code_at}, std::as_bytes(c.code)));
    ASSERT(memory.write(Gpa{code_at + c.code.size()}, std::as_bytes(std::span{end_code})));
    for (const MemoryValue& value : c.initial_memory) {
        ASSERT(memory.write(Gpa{value.address}, std::as_bytes(value.bytes)));
    }
    for (const std::uint64_t page : {0x0ull, 0x1000ull}) {
        put(memory, layout::page_table + (layout::code + page) / 512,
            (code_at + page) | present | writable | user);
    }
    return run_from(engine, c, start);
}

std::vector<std::string> differences(
    const Case& c, const Outcome& outcome,
    const std::function<bool(std::uint64_t, std::span<std::byte>)>& read_memory)
{
    std::vector<std::string> out;
    if (!outcome.problem.empty()) return {outcome.problem};
    if (outcome.fault.has_value() != c.fault.has_value()) {
        if (outcome.fault) {
            return {fmt::format("unexpected exception {} error {:#x} cr2 {:#x} rip {:#x}",
                                outcome.fault->vector, outcome.fault->error_code,
                                outcome.fault->cr2, outcome.fault->rip)};
        }
        return {fmt::format("expected exception {}, ran to the end", c.fault->vector)};
    }
    const auto compare = [&](std::string_view what, std::uint64_t expected, std::uint64_t actual) {
        if (expected != actual) {
            out.push_back(fmt::format("{}: expected {:#x}, is {:#x}", what, expected, actual));
        }
    };
    if (c.fault) {
        compare("vector", c.fault->vector, outcome.fault->vector);
        if (c.fault->error_code) compare("error code", *c.fault->error_code, outcome.fault->error_code);
        if (c.fault->cr2) compare("cr2", *c.fault->cr2, outcome.fault->cr2);
        if (c.fault->rip) compare("rip", *c.fault->rip, outcome.fault->rip);
    }
    for (const RegisterValue& value : c.expected_registers) {
        const auto actual = get_register(outcome.state, value.name);
        if (!actual) {
            out.push_back(fmt::format("unknown register {}", value.name));
        } else {
            compare(value.name, value.value, *actual);
        }
    }
    compare("flags set", c.flags_set, outcome.state.rflags & c.flags_set);
    compare("flags clear", 0, outcome.state.rflags & c.flags_clear);
    for (const MemoryValue& value : c.expected_memory) {
        std::vector<std::byte> actual(value.bytes.size());
        if (!read_memory(value.address, actual) ||
            std::memcmp(actual.data(), value.bytes.data(), actual.size()) != 0) {
            std::string text = fmt::format("memory at {:#x} is", value.address);
            for (const std::byte byte : actual) text += fmt::format(" {:02x}", static_cast<unsigned>(byte));
            out.push_back(text);
        }
    }
    return out;
}

}  // namespace doppel::conformance
