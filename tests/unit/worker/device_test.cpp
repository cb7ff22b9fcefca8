// The translate engine: accesses to devices, and what they cost.
#include "worker_guest.h"

namespace doppel::engine {
namespace {

constexpr std::uint64_t high = 0xffff800000000000, code = 0x6000;
constexpr std::uint64_t device = 0x180000;  // mapped, and no RAM

class DeviceGuest : public WorkerGuest {
protected:
    // 64-bit supervisor code in the upper half, RBX at the device.
    void start_at_device(std::initializer_list<unsigned> bytes)
    {
        start64(high + code, bytes);
        x86::CpuState state = vcpu_->state();
        state.gpr[x86::RBX] = high + device;
        vcpu_->set_state(state);
    }
    template <typename Round>
    void measure(const char* what, Round round)
    {
        constexpr unsigned rounds = 20000;
        for (unsigned i = 0; i < 100; ++i) round();
        std::uint64_t best = ~std::uint64_t{0};
        for (unsigned batch = 0; batch < 5; ++batch) {
            const std::uint64_t begin = translate::monotonic_ns();
            for (unsigned i = 0; i < rounds / 5; ++i) round();
            best = std::min(best, (translate::monotonic_ns() - begin) / (rounds / 5));
        }
        RecordProperty(what, std::to_string(best));
        std::printf("%llu ns for %s\n", static_cast<unsigned long long>(best), what);
    }
};

TEST_F(DeviceGuest, WhatAnAccessCosts)
{
    start_at_device({0xe6, 0x10, 0xeb, 0xfc});  // 1: out 0x10, al; jmp 1b
    measure("out", [this] { ASSERT_EQ(vcpu_->run(), (Exit{IoWriteExit{0x10, 1, 0}})); });
    start_at_device({0xe4, 0x10, 0xeb, 0xfc});  // 1: in al, 0x10; jmp 1b
    measure("in", [this] {
        ASSERT_EQ(vcpu_->run(), (Exit{IoReadExit{0x10, 1}}));
        vcpu_->complete_read(0);
    });
    start_at_device({0x89, 0x03, 0xeb, 0xfc});  // 1: mov [rbx], eax; jmp 1b
    measure("mmio_write",
            [this] { ASSERT_EQ(vcpu_->run(), (Exit{MmioWriteExit{base::Gpa{device}, 4, 0}})); });
    start_at_device({0x8b, 0x03, 0xeb, 0xfc});  // 1: mov eax, [rbx]; jmp 1b
    measure("mmio_read", [this] {
        ASSERT_EQ(vcpu_->run(), (Exit{MmioReadExit{base::Gpa{device}, 4}}));
        vcpu_->complete_read(0);
    });
}

}  // namespace
}  // namespace doppel::engine
