#include "engine/kvm/fallback.h"

#include <algorithm>

#include "x86/msr.h"

namespace doppel::engine::kvm {

using Clock = std::chrono::steady_clock;
using interpret::Interpreter;

namespace {

// Devices that KVM_CREATE_IRQCHIP puts into the kernel: an access to them has to be KVM's.
bool in_kernel_port(std::uint16_t port)
{
    return port == 0x20 || port == 0x21 || port == 0xa0 || port == 0xa1 || port == 0x4d0 ||
           port == 0x4d1;
}
bool in_kernel_page(base::Gpa gpa) { return gpa.value >= 0xfec00000 && gpa.value < 0xfec00100; }

bool in_kernel(const Exit& exit)
{
    if (const auto* io = std::get_if<IoReadExit>(&exit)) return in_kernel_port(io->port);
    if (const auto* io = std::get_if<IoWriteExit>(&exit)) return in_kernel_port(io->port);
    if (const auto* mmio = std::get_if<MmioReadExit>(&exit)) return in_kernel_page(mmio->gpa);
    if (const auto* mmio = std::get_if<MmioWriteExit>(&exit)) return in_kernel_page(mmio->gpa);
    return false;
}

}  // namespace

std::uint64_t StayLength::begin(Time now)
{
    const bool run = !first_ && now - last_end_ < run_gap;
    first_ = false;
    length_ = run ? std::min(length_ * 2, maximum) : std::max(length_ / 2, minimum);
    return length_;
}

base::Result<std::unique_ptr<Fallback>> Fallback::create(memory::GuestMemory& memory,
                                                         bus::VmClock& clock,
                                                         const x86::CpuidPolicy& cpuid,
                                                         VcpuState& kvm, unsigned index)
{
    std::unique_ptr<Fallback> fallback{new Fallback{kvm, index}};
    fallback->interpreter_ = TRY(Interpreter::create(memory, clock, cpuid, *fallback));
    return fallback;
}

void Fallback::begin(const VcpuSnapshot& snapshot)
{
    begun_ = Clock::now();
    deadline_ = begun_ + StayLength::slice;
    left_ = length_.begin(begun_);
    ++stays_;
    before_ = snapshot;
    cr8_ = snapshot.sregs.cr8;
    active_ = true;
    in_device_ = false;
    interpreter_->forget_code();
    interpreter_->set_state(snapshot.state);
    first_instruction_ = interpreter_->instructions();
    // What KVM had already taken from the local APIC comes before the instruction.
    if (snapshot.events.nmi.injected != 0) interpreter_->deliver_nmi();
    if (snapshot.events.interrupt.injected != 0 && snapshot.events.interrupt.soft == 0) {
        interpreter_->deliver_interrupt(snapshot.events.interrupt.nr);
    }
}

bool Fallback::moved() const
{
    return interpreter_->instructions() != first_instruction_ ||
           interpreter_->state().rip != before_.state.rip;
}

Fallback::Outcome Fallback::run()
{
    for (;;) {
        if (left_ == 0 || Clock::now() >= deadline_) {
            // Half an instruction cannot go back.
            if (!in_device_) return Outcome::back;
            left_ = 1;
        }
        const std::uint64_t count = in_device_ ? 1 : std::min(left_, chunk);
        const std::uint64_t start = interpreter_->instructions();
        const Interpreter::Stop stop = interpreter_->execute(count);
        const std::uint64_t done = interpreter_->instructions() - start;
        left_ -= std::min(left_, done);
        switch (stop) {
        case Interpreter::Stop::budget:
            in_device_ = false;
            break;
        case Interpreter::Stop::attention:
            return Outcome::kick;
        case Interpreter::Stop::environment:
            ++refusals_;
            return moved() ? Outcome::back : Outcome::stuck;
        case Interpreter::Stop::exit:
            if (std::holds_alternative<HaltExit>(exit())) {
                in_device_ = false;
                return Outcome::back;
            }
            // The instruction has done nothing yet, so KVM can start it anew.
            if (!in_device_ && in_kernel(exit())) {
                ++refusals_;
                return moved() ? Outcome::back : Outcome::stuck;
            }
            in_device_ = true;
            return Outcome::exit;
        }
    }
}

bool Fallback::leave()
{
    active_ = false;
    const bool stored = kvm_.store_changes(before_, interpreter_->state(), cr8_);
    const auto now = Clock::now();
    nanoseconds_ += static_cast<std::uint64_t>((now - begun_).count());
    length_.end(now);
    return stored;
}

void Fallback::set_apic_base(std::uint64_t value) noexcept
{
    rejected_ = !kvm_.set_msr(x86::msr::IA32_APIC_BASE, value);
}

void Fallback::set_tsc_deadline(std::uint64_t value) noexcept
{
    static_cast<void>(kvm_.set_msr(x86::msr::IA32_TSC_DEADLINE, value));
}

std::uint64_t Fallback::tsc_deadline() noexcept
{
    std::uint64_t value = 0;
    static_cast<void>(kvm_.get_msr(x86::msr::IA32_TSC_DEADLINE, value));
    return value;
}

void Fallback::counters(base::CounterList& list) const
{
    list.add("kvm.emulation_failures", stays_);
    list.add("kvm.interpreter_refusals", refusals_);
    list.add("kvm.interpreter_us", nanoseconds_ / 1000);
    interpreter_->counters(list);
}

}  // namespace doppel::engine::kvm
