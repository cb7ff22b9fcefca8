// From a fault to its handler, by way of double and triple faults. SDM volume 3 section 6.15
// (interrupt 8) and table 6-5.
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret {

namespace {

using namespace privileged;

enum class FaultClass : std::uint8_t { benign, contributory, page_fault, double_fault };

FaultClass classify(const Event& event)
{
    if (event.kind != InterruptKind::fault) return FaultClass::benign;
    switch (static_cast<Vector>(event.vector)) {
    case Vector::DE: case Vector::TS: case Vector::NP: case Vector::SS: case Vector::GP:
        return FaultClass::contributory;
    case Vector::PF: return FaultClass::page_fault;
    case Vector::DF: return FaultClass::double_fault;
    default: return FaultClass::benign;
    }
}

// Faults proper, whose handler is to get RF = 1. SDM 17.3.1.1: #DB sets it by itself.
bool sets_resume_flag(Vector vector)
{
    switch (vector) {
    case Vector::DB: case Vector::BP: case Vector::OF: case Vector::NMI: case Vector::DF:
    case Vector::MC:
        return false;
    default: return true;
    }
}

Event event_of(const Fault& fault, std::uint64_t rip)
{
    Event event;
    event.vector = static_cast<std::uint8_t>(fault.vector);
    event.kind = InterruptKind::fault;
    event.has_error_code = fault.has_error_code;
    event.error_code = fault.error_code;
    event.return_rip = rip;
    event.resume_flag = sets_resume_flag(fault.vector);
    return event;
}

constexpr std::uint64_t dr6_written = 0xf | x86::dr6::BD | x86::dr6::BS | x86::dr6::BT;

}  // namespace

void System::note_fault(const Fault& fault)
{
    const auto index = static_cast<std::size_t>(fault.vector);
    if (index < core_.exceptions.size()) ++core_.exceptions[index];
    if (fault.vector == Vector::PF) core_.state.cr2 = fault.address;
    if (fault.vector == Vector::DB) {
        core_.state.dr6 = (core_.state.dr6 & ~std::uint64_t{0xf}) | (fault.address & dr6_written);
        core_.state.dr7 &= ~x86::dr7::GD;
        core_.update_mode();
    }
}

bool System::shutdown()
{
    core_.state.events.activity = x86::Activity::shutdown;
    core_.exit = ShutdownExit{"triple fault"};
    return false;
}

bool System::deliver(Event event)
{
    const std::uint64_t rip = core_.state.rip;
    for (;;) {
        const Flow flow = deliver_once(event);
        if (flow == Flow::leave) return true;
        if (core_.state.events.activity == x86::Activity::shutdown) return false;
        if (flow == Flow::exit) {
            // A table or stack in a device's range: no processor promises anything here.
            core_.retire_device_log();
            return shutdown();
        }
        const FaultClass first = classify(event);
        Event next = event_of(core_.fault, rip);
        const FaultClass second = classify(next);
        note_fault(core_.fault);
        const bool severe = second != FaultClass::benign;
        if (first == FaultClass::double_fault && severe) return shutdown();
        if ((first == FaultClass::page_fault && severe) ||
            (first == FaultClass::contributory && second == FaultClass::contributory)) {
            const Fault fault = x86::make_fault(Vector::DF);
            note_fault(fault);
            next = event_of(fault, rip);
        }
        event = next;
    }
}

bool System::deliver_fault(const Fault& fault)
{
    note_fault(fault);
    Event event = event_of(fault, core_.state.rip);
    // An instruction restarted by a debug fault keeps RF as it was.
    if (fault.vector == Vector::DB) event.resume_flag = (core_.state.rflags & rflags::RF) != 0;
    return deliver(event);
}

bool System::deliver_interrupt(std::uint8_t vector, InterruptKind kind)
{
    Event event;
    event.vector = vector;
    event.kind = kind;
    event.return_rip = core_.state.rip;
    return deliver(event);
}

Flow System::fault_in_new_task(Flow stopped)
{
    // Each task gate on the way makes another task busy; a guest that remaps its tables
    // meanwhile could go on for long.
    constexpr unsigned deepest = 8;
    if (stopped != Flow::fault || task_depth_ >= deepest) {
        core_.retire_device_log();
        static_cast<void>(shutdown());
        return Flow::exit;
    }
    ++task_depth_;
    const bool delivered = deliver_fault(core_.fault);
    --task_depth_;
    return delivered ? Flow::next : Flow::exit;
}

void System::set_tsc(std::uint64_t value) { set_tsc_offset(value - core_.clock.tsc()); }

void System::set_tsc_offset(std::uint64_t offset)
{
    tsc_offset_ = offset;
    environment_.tsc_offset_changed(tsc_offset_);
    refresh_system_time();
}

void System::state_imported()
{
    set_tsc(core_.state.tsc);
    if ((core_.state.kvm_steal_time & 1) != 0) steal_seen_ = environment_.steal_ns();
    eoi_offered_at_ = nowhere;
    stopped_ = true;
}

}  // namespace doppel::engine::interpret
