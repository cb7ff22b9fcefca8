// A vCPU with descriptor tables in guest memory, for the tests of system instructions: every
// IDT vector leads to a HLT of its own, so that where the processor halts says what happened.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "bus/manual_clock.h"
#include "engine/interpret/interpreter.h"
#include "memory/guest_memory.h"
#include "x86/cpuid.h"
#include "x86/descriptors.h"

namespace doppel::engine::interpret {

class FakeEnvironment : public Environment {
public:
    bool apic_read(std::uint32_t, std::uint64_t&) noexcept override { return false; }
    bool apic_write(std::uint32_t, std::uint64_t) noexcept override { return false; }
    std::uint64_t cr8() noexcept override { return tpr; }
    void set_cr8(std::uint64_t value) noexcept override { tpr = value; }
    void set_apic_base(std::uint64_t value) noexcept override { apic_base = value; }
    void set_tsc_deadline(std::uint64_t value) noexcept override { deadline = value; }
    std::uint64_t tsc_deadline() noexcept override { return deadline; }
    std::uint32_t apic_id() noexcept override { return 0; }
    bool rejected() noexcept override { return reject; }
    std::uint64_t realtime_ns() noexcept override { return realtime; }
    std::uint64_t steal_ns() noexcept override { return steal; }

    bool hypercalls_elsewhere() noexcept override { return elsewhere; }
    void kick_cpu(std::uint32_t apic_id) noexcept override { kicked.push_back(apic_id); }
    unsigned send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept override
    {
        ipis.push_back({apic_ids, message});
        return taken;
    }
    void yield_to(std::uint32_t apic_id) noexcept override { yielded.push_back(apic_id); }

    struct Ipi {
        std::uint64_t apic_ids;
        x86::ApicMessage message;
    };
    std::vector<Ipi> ipis;
    std::vector<std::uint32_t> kicked, yielded;
    unsigned taken = 0;
    bool elsewhere = false;
    std::uint64_t realtime = 0, steal = 0;
    std::uint64_t tpr = 0, apic_base = 0, deadline = 0;
    bool reject = false;
};

class SystemMachine {
public:
    static constexpr std::uint64_t ram = 2u << 20;
    static constexpr std::uint64_t gdt = 0x1000, idt = 0x2000, tss = 0x4000, tss_b = 0x4400,
                                   page_tables = 0x5000, handlers = 0x10000, code = 0x20000,
                                   user_code = 0x28000, stack0 = 0x31000, stack3 = 0x32000,
                                   ist_stack = 0x33000, data = 0x40000;
    // Selectors.
    static constexpr std::uint16_t code0 = 0x08, data0 = 0x10, code3_32 = 0x1b, data3 = 0x23,
                                   code3_64 = 0x2b, tss_selector = 0x30, spare = 0x40,
                                   code16 = 0x50, data16 = 0x58, tss_b_selector = 0x60,
                                   conforming = 0x68, absent = 0x70, code32 = 0x78;

    enum class Mode { real, protected32, long64 };

    explicit SystemMachine(Mode mode)
        : memory(std::move(memory::GuestMemory::create(ram)).value()),
          cpuid(x86::CpuidPolicy::create(x86::this_host(), 1, 1'000'000'000)), mode_(mode)
    {
        EXPECT_TRUE(memory->add_slot(base::Gpa{0}, ram, 0));
        interpreter =
            std::move(Interpreter::create(*memory, clock, cpuid, environment)).value();
        state = x86::reset_state(true);
        for (unsigned vector = 0; vector < 256; ++vector) put(handlers + vector, std::uint8_t{0xf4});
        if (mode == Mode::real) {
            set_up_real();
        } else {
            set_up_tables();
            set_up_protected();
        }
    }

    template <typename T>
    void put(std::uint64_t at, T value)
    {
        ASSERT_TRUE(memory->write_value(base::Gpa{at}, value));
    }
    template <typename T>
    T get(std::uint64_t at) const
    {
        T value{};
        EXPECT_TRUE(memory->read_value(base::Gpa{at}, value));
        return value;
    }
    std::uint32_t word32(std::uint64_t at) const { return get<std::uint32_t>(at); }
    std::uint64_t word64(std::uint64_t at) const { return get<std::uint64_t>(at); }
    std::uint16_t word16(std::uint64_t at) const { return get<std::uint16_t>(at); }

    void put_code(std::uint64_t at, std::initializer_list<unsigned> bytes)
    {
        for (const unsigned byte : bytes) put(at++, static_cast<std::uint8_t>(byte));
    }
    void set_descriptor(std::uint16_t selector, std::uint32_t base, std::uint32_t limit,
                        std::uint32_t access, std::uint32_t flags)
    {
        put(gdt + (selector & 0xfff8u),
            (limit & 0xffffull) | (base & 0xffffffull) << 16 | std::uint64_t{access} << 40 |
                (limit >> 16 & 0xfull) << 48 | std::uint64_t{flags} << 52 |
                std::uint64_t{base >> 24} << 56);
    }
    // type 0xe interrupt, 0xf trap, 5 task; dpl.
    void set_gate(unsigned vector, std::uint16_t selector, unsigned type, unsigned dpl,
                  unsigned ist = 0, bool present = true)
    {
        const std::uint64_t offset = handlers + vector;
        const std::uint64_t raw = (offset & 0xffff) | std::uint64_t{selector} << 16 |
                                  std::uint64_t{ist} << 32 | std::uint64_t{type} << 40 |
                                  std::uint64_t{dpl} << 45 | std::uint64_t{present} << 47 |
                                  (offset >> 16 & 0xffff) << 48;
        const std::uint64_t size = long_mode() ? 16 : 8;
        put(idt + vector * size, raw);
        if (long_mode()) put(idt + vector * size + 8, std::uint64_t{0});
    }

    // Runs until HLT (or another exit, or `limit` instructions).
    Interpreter::Stop run(std::uint64_t limit = 100)
    {
        interpreter->set_state(state);
        return go_on(limit);
    }
    Interpreter::Stop go_on(std::uint64_t limit = 100)
    {
        // The test's own writes to code ask for attention.
        auto stop = interpreter->execute(limit);
        while (stop == Interpreter::Stop::attention) stop = interpreter->execute(limit);
        state = interpreter->state();
        return stop;
    }
    // The vector whose handler halted, or nothing.
    [[nodiscard]] std::optional<unsigned> vector() const
    {
        if (state.events.activity != x86::Activity::halted) return std::nullopt;
        const std::uint64_t linear = state.code64() ? state.rip : state.rip + state.segments[x86::CS].base;
        const std::uint64_t at = linear - 1;
        if (at < handlers || at >= handlers + 256) return std::nullopt;
        return static_cast<unsigned>(at - handlers);
    }
    [[nodiscard]] bool shut_down() const
    {
        return std::holds_alternative<ShutdownExit>(interpreter->exit());
    }
    [[nodiscard]] bool long_mode() const { return mode_ == Mode::long64; }

    // Segment registers of a flat program in ring 3.
    void enter_user()
    {
        load(x86::CS, long_mode() ? code3_64 : code3_32);
        load(x86::SS, data3);
        load(x86::DS, data3);
        load(x86::ES, data3);
        state.gpr[x86::RSP] = stack3;
        state.rip = user_code;
    }
    void load(x86::SegmentRegister reg, std::uint16_t selector)
    {
        state.segments[reg] = x86::decode_segment(selector, word64(gdt + (selector & 0xfff8u)));
    }

    std::unique_ptr<memory::GuestMemory> memory;
    bus::ManualClock clock;
    x86::CpuidPolicy cpuid;
    FakeEnvironment environment;
    std::unique_ptr<Interpreter> interpreter;
    x86::CpuState state;

private:
    void set_up_real()
    {
        for (unsigned vector = 0; vector < 256; ++vector) {
            put(vector * 4, static_cast<std::uint32_t>((handlers >> 4) << 16 | vector));
        }
        state.idtr.limit = 0x3ff;
        state.segments[x86::CS].selector = code >> 4;
        state.segments[x86::CS].base = code;
        state.rip = 0;
        state.gpr[x86::RSP] = 0x8000;
        state.cr0 = x86::cr0::ET;
    }
    void set_up_tables()
    {
        const bool wide = long_mode();
        set_descriptor(code0, 0, 0xfffff, 0x9b, wide ? 0xa : 0xc);
        set_descriptor(data0, 0, 0xfffff, 0x93, 0xc);
        set_descriptor(code3_32, 0, 0xfffff, 0xfb, 0xc);
        set_descriptor(data3, 0, 0xfffff, 0xf3, 0xc);
        set_descriptor(code3_64, 0, 0xfffff, 0xfb, 0xa);
        set_descriptor(tss_selector, tss, 0x3ff, 0x8b, 0);
        set_descriptor(code16, 0, 0xffff, 0x9b, 0);
        set_descriptor(data16, 0, 0xffff, 0x93, 0);
        set_descriptor(tss_b_selector, tss_b, 0x67, 0x89, 0);
        set_descriptor(conforming, 0, 0xfffff, 0x9f, wide ? 0xa : 0xc);
        set_descriptor(absent, 0, 0xfffff, 0x13, 0xc);
        if (!wide) set_descriptor(code32, 0, 0xfffff, 0x9b, 0xc);
        for (unsigned vector = 0; vector < 256; ++vector) set_gate(vector, code0, 0xe, 0);
        put(tss + x86::tss64::IO_MAP_BASE, std::uint16_t{0x100});
        if (wide) {
            put(tss + x86::tss64::rsp(0), stack0);
            put(tss + x86::tss64::ist(1), ist_stack);
        } else {
            put(tss + x86::tss32::ESP0, static_cast<std::uint32_t>(stack0));
            put(tss + x86::tss32::SS0, data0);
        }
    }
    void set_up_protected()
    {
        state.gdtr = {gdt, 0xff, 0};
        state.idtr = {idt, 0xfff, 0};
        state.cr0 = x86::cr0::PE | x86::cr0::ET | x86::cr0::NE;
        if (long_mode()) {
            put(page_tables, page_tables + 0x1000 + 7);
            put(page_tables + 0x1000, page_tables + 0x2000 + 7);
            put(page_tables + 0x2000, std::uint64_t{0x87});  // 0-2 MiB, user
            state.cr0 |= x86::cr0::PG;
            state.cr3 = page_tables;
            state.cr4 = x86::cr4::PAE;
            state.efer = x86::efer::LME | x86::efer::LMA | x86::efer::SCE;
        }
        load(x86::CS, code0);
        for (const auto reg : {x86::ES, x86::SS, x86::DS, x86::FS, x86::GS}) load(reg, data0);
        state.tr = x86::decode_segment(tss_selector, word64(gdt + tss_selector));
        state.ldtr = x86::null_segment(0);
        state.rip = code;
        state.gpr[x86::RSP] = 0x30000;
    }

    Mode mode_;
};

}  // namespace doppel::engine::interpret
