// What the interpreter asks of a virtual CPU's surroundings: APIC, clocks, doorbells.
#include <unistd.h>

#include <algorithm>

#include "engine/translate/link/arena.h"
#include "engine/translate/worker/virtual_cpu.h"
#include "x86/msr.h"

namespace doppel::engine::translate {

using interpret::EoiOffer;

namespace {

constexpr std::uint32_t eoi_register = 0x0b;  // of Environment::apic_write()

}  // namespace

bool VirtualCpu::apic_read(std::uint32_t reg, std::uint64_t& value) noexcept
{
    settle_eoi(EoiOffer::keep);
    rejected_ = false;
    if (reg < x86::msr::IA32_X2APIC_FIRST) {
        value = apic_.read_mmio(reg << 4, 4, now());
        return true;
    }
    const auto read = apic_.read_msr(reg, now());
    rejected_ = !read.has_value();
    value = read.value_or(0);
    return read.has_value();
}

bool VirtualCpu::apic_write(std::uint32_t reg, std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    if ((reg & 0xff) == eoi_register) ++counts_.eoi_writes;
    x86::Effects effects;
    rejected_ = false;
    if (reg < x86::msr::IA32_X2APIC_FIRST) {
        effects = apic_.write_mmio(reg << 4, 4, value, now());
    } else {
        const auto written = apic_.write_msr(reg, value, now());
        rejected_ = !written.has_value();
        if (rejected_) return false;
        effects = *written;
    }
    apic_changed();
    carry_out(effects);
    // TPR, EOI and self-IPIs may have made something deliverable.
    want_interrupt_window(something_pending());
    return true;
}

unsigned VirtualCpu::send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    unsigned taken = resources_.siblings.send(message, apic_ids);
    if ((apic_ids >> apic_.id() & 1) != 0 && apic_.address().takes(message.mode)) {
        accept_own(message);
        ++taken;
    }
    want_interrupt_window(something_pending());
    return taken;
}

void VirtualCpu::set_cr8(std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::keep);
    apic_.set_cr8(value);
    want_interrupt_window(something_pending());
}

void VirtualCpu::set_apic_base(std::uint64_t value) noexcept
{
    settle_eoi(EoiOffer::withdraw);
    rejected_ = !apic_.write_apic_base(value, now());
    apic_changed();
}

void VirtualCpu::set_tsc_deadline(std::uint64_t value) noexcept
{
    apic_.write_tsc_deadline(value, now());
    arm_timer();
    // A deadline in the past fires at the next look.
    const auto deadline = apic_.next_deadline(now());
    if (deadline && *deadline <= resources_.clock.now_ns()) interpreter_->request_attention();
}

bool VirtualCpu::ring(bus::Space space, std::uint64_t address, unsigned size,
                      std::uint64_t value) noexcept
{
    const auto index = doorbells_.find(space, address, size, value);
    if (!index) return false;
    ++counts_.doorbells;
    // While there are many rings, the device's thread stays away from this processor; among several
    // vCPUs it would go from one to the next.
    const std::uint64_t tsc = __builtin_ia32_rdtsc();
    device_load_.rang(tsc);
    const bool alone = resources_.siblings.inside().load(std::memory_order_relaxed) <= 1;
    const std::uint64_t ring = bus::ring_value(alone && device_load_.busy(tsc) ? this_processor() : 0);
    // EAGAIN: nobody has looked for very many rings, and it is readable.
    static_cast<void>(::write(doorbell_fd + static_cast<int>(*index), &ring, sizeof ring));
    return true;
}

void VirtualCpu::tsc_offset_changed(std::uint64_t offset) noexcept
{
    tsc_offset_ = offset;
    if (timer_ != nullptr) arm_timer();
}

std::uint64_t VirtualCpu::steal_ns() noexcept
{
    // The VMM measures ten times a second. A guest that counts by its ticks expects no more of a
    // tick to be stolen than there was of it: what is left is for the next ones.
    const std::uint64_t now_ns = resources_.clock.now_ns();
    const std::uint64_t measured = mailbox_.steal_ns.load(std::memory_order_relaxed);
    steal_told_ += std::min(measured - steal_told_, now_ns - steal_told_at_ns_);
    steal_told_at_ns_ = now_ns;
    return steal_told_;
}

}  // namespace doppel::engine::translate
