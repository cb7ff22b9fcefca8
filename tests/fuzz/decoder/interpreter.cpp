// Any bytes as guest code, in any mode, with registers and tables that are mostly valid:
// the interpreter must neither crash nor hang, whatever the guest does. The first byte
// picks the mode, the next bytes seed registers, the rest is code.
#include <x86intrin.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "engine/engine.h"

namespace doppel {
namespace {

constexpr std::uint64_t memory_size = 1u << 20;
constexpr std::uint64_t code_at = 0x10000;

class FuzzClock final : public bus::VmClock {
public:
    std::uint64_t now_ns() const override { return ++now_; }
    std::uint64_t tsc() const override { return ++now_; }
    std::uint64_t tsc_hz() const override { return 1'000'000'000; }
    std::unique_ptr<bus::Timer> create_timer(std::function<void()>) override
    {
        struct NeverTimer final : bus::Timer {
            void arm(std::uint64_t) override {}
            void cancel() override {}
        };
        return std::make_unique<NeverTimer>();
    }

private:
    mutable std::uint64_t now_ = 0;
};

struct World {
    std::unique_ptr<memory::GuestMemory> memory;
    FuzzClock clock;
    x86::CpuidPolicy cpuid = x86::CpuidPolicy::create(x86::this_host(), 1, 1'000'000'000);
    std::unique_ptr<engine::Engine> engine;
    std::unique_ptr<engine::Vcpu> vcpu;

    World()
    {
        memory = std::move(*memory::GuestMemory::create(memory_size));
        static_cast<void>(memory->add_slot(base::Gpa{0}, memory_size, 0));
        engine = std::move(*engine::create_interpret_engine({*memory, clock, cpuid, 1}));
        vcpu = std::move(*engine->create_vcpu(0));
        vcpu->set_budget(2000);
    }
};

x86::Segment flat(std::uint16_t selector, std::uint32_t attributes)
{
    x86::Segment segment;
    segment.selector = selector;
    segment.attributes = attributes;
    segment.limit = 0xffffffff;
    return segment;
}

x86::CpuState start_state(unsigned mode)
{
    using namespace x86;
    CpuState state = reset_state(true);
    state.gdtr = {0x8000, 0xff, 0};
    state.idtr = {0x9000, 0xfff, 0};
    state.gpr[RSP] = 0x8000;
    if (mode == 0) {
        state.segments[CS].selector = 0x1000;
        state.segments[CS].base = code_at;
        state.rip = 0;
        state.idtr = {0, 0x3ff, 0};
        return state;
    }
    state.rip = code_at;
    state.cr0 = cr0::PE | cr0::ET | cr0::NE;
    state.cr4 = cr4::OSFXSR | cr4::OSXSAVE | cr4::OSXMMEXCPT;
    state.xcr0 = this_host().query(0xd, 0).eax & xcr0::SUPPORTED;
    state.segments.fill(flat(0x10, 0xc093));
    state.segments[CS] = flat(0x08, mode == 1 ? 0xc09b : 0xa09b);
    if (mode == 1) return state;
    state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
    state.cr4 |= cr4::PAE;
    state.cr3 = 0x1000;
    state.cr0 |= cr0::PG;
    if (mode == 3) {
        state.segments.fill(flat(0x1b, 0xc0f3));
        state.segments[CS] = flat(0x23, 0xa0fb);
    }
    return state;
}

void put(memory::GuestMemory& memory, std::uint64_t at, std::uint64_t value)
{
    static_cast<void>(memory.write_value(base::Gpa{at}, value));
}

void run(std::span<const std::uint8_t> data)
{
    static World world;
    if (data.size() < 18) return;
    world.memory->clear();
    put(*world.memory, 0x1000, 0x2007);
    put(*world.memory, 0x2000, 0x87);  // 1 GiB page
    for (std::uint64_t i = 1; i < 16; ++i) put(*world.memory, 0x8000 + 8 * i, 0x00af9b000000ffff);
    for (std::uint64_t i = 0; i < 128; ++i) put(*world.memory, 0x9000 + 16 * i, 0x00008e0000080000 | (0xa000 + i));
    x86::CpuState state = start_state(data[0] & 3);
    for (std::size_t i = 0; i < 16; ++i) {
        if (i != x86::RSP) state.gpr[i] = std::uint64_t{data[1 + i]} << (data[1 + i] & 15);
    }
    data = data.subspan(17);
    if (data.size() > 4096) data = data.first(4096);
    static_cast<void>(world.memory->write(base::Gpa{code_at}, std::as_bytes(data)));
    world.vcpu->set_state(state);
    // A budgeted run always ends; exits are answered and go on.
    for (unsigned exits = 0; exits < 64; ++exits) {
        const engine::Exit exit = world.vcpu->run();
        if (std::holds_alternative<engine::IoReadExit>(exit) ||
            std::holds_alternative<engine::MmioReadExit>(exit)) {
            world.vcpu->complete_read(0x1234567890abcdef);
        } else if (!std::holds_alternative<engine::IoWriteExit>(exit) &&
                   !std::holds_alternative<engine::MmioWriteExit>(exit)) {
            break;
        }
    }
}

}  // namespace
}  // namespace doppel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    doppel::run({data, size});
    return 0;
}
