// VMCALL and VMMCALL, KVM's hypercalls: what one vCPU asks of others. See x86/paravirt.h and
// docs/paravirtual.md. Whichever of the two the guest's processor has, both are served.
#include <optional>

#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"
#include "x86/paravirt.h"

namespace doppel::engine::interpret::privileged {

namespace {

namespace feature = x86::paravirt::feature;
using x86::ApicMessage;
using x86::DeliveryMode;
using x86::paravirt::Hypercall;
using x86::paravirt::KVM_EINVAL;
using x86::paravirt::KVM_ENOSYS;
using x86::paravirt::KVM_EPERM;

// Of the ICR, whose other fields the hypercall leaves out (SDM volume 3 section 11.6.1).
constexpr std::uint64_t icr_logical = 1u << 11, icr_shorthand = 3u << 18;
constexpr unsigned first_legal_vector = 16;

// The message, for each of several destinations.
std::optional<ApicMessage> decode_icr(std::uint64_t icr)
{
    if ((icr & (icr_logical | icr_shorthand)) != 0) return std::nullopt;
    ApicMessage message;
    message.mode = static_cast<DeliveryMode>((icr >> 8) & 7);
    message.vector = static_cast<std::uint8_t>(icr);
    if (message.mode == DeliveryMode::nmi) return message;
    if (message.mode != DeliveryMode::fixed || message.vector < first_legal_vector) {
        return std::nullopt;
    }
    return message;
}

// APIC IDs from `lowest` on: `low` has the first of them, `high` those that follow. There are no
// vCPUs beyond the 64 of the answer.
std::uint64_t apic_ids(bool wide, std::uint64_t low, std::uint64_t high, std::uint32_t lowest)
{
    if (lowest >= 64) return 0;
    return (wide ? low : low | high << 32) << lowest;
}

std::int64_t send_ipi(System& system, bool wide, const std::uint64_t (&arguments)[4])
{
    const auto message = decode_icr(arguments[3]);
    if (!message) return -KVM_EINVAL;
    ++system.hypercalls.ipis;
    const auto lowest = static_cast<std::uint32_t>(arguments[2]);
    const std::uint64_t to = apic_ids(wide, arguments[0], arguments[1], lowest);
    return system.environment().send_ipis(to, *message);
}

std::int64_t serve(Core& core, System& system, bool wide)
{
    const unsigned size = wide ? 8 : 4;
    const std::uint64_t arguments[4] = {
        read_gpr(core, x86::RBX, size), read_gpr(core, x86::RCX, size),
        read_gpr(core, x86::RDX, size), read_gpr(core, x86::RSI, size)};
    if (core.cpl != 0) return -KVM_EPERM;
    switch (static_cast<Hypercall>(read_gpr(core, x86::RAX, size))) {
    case Hypercall::KICK_CPU:
        if (!system.offers(feature::PV_UNHALT)) break;
        ++system.hypercalls.kicks;
        system.environment().kick_cpu(static_cast<std::uint32_t>(arguments[1]));
        return 0;
    case Hypercall::SEND_IPI:
        if (!system.offers(feature::PV_SEND_IPI)) break;
        return send_ipi(system, wide, arguments);
    case Hypercall::SCHED_YIELD:
        if (!system.offers(feature::PV_SCHED_YIELD)) break;
        ++system.hypercalls.yields;
        system.environment().yield_to(static_cast<std::uint32_t>(arguments[0]));
        return 0;
    }
    return -KVM_ENOSYS;
}

Flow hypercall(Core& core, const Op& op) noexcept
{
    System& system = *core.system;
    if (system.environment().hypercalls_elsewhere()) {
        system.environment_refused = true;
        return Flow::exit;
    }
    const bool wide = code64(core);
    const auto answer = static_cast<std::uint64_t>(serve(core, system, wide));
    write_gpr(core, x86::RAX, wide ? 8 : 4, answer);
    // An interrupt to itself may be deliverable now.
    return finish(core, op);
}

}  // namespace

bool lower_hypercall(const Decoded& decoded, Op& op, Core& core)
{
    static_cast<void>(core);
    const auto mnemonic = decoded.instruction.mnemonic;
    if (mnemonic != ZYDIS_MNEMONIC_VMCALL && mnemonic != ZYDIS_MNEMONIC_VMMCALL) return false;
    op.run = hypercall;
    return true;
}

}  // namespace doppel::engine::interpret::privileged
