// Register reads and writes, by MMIO, MSR and CR8.
#include "x86/lapic/lapic.h"
#include "x86/lapic/registers.h"
#include "x86/msr.h"

namespace doppel::x86 {

using namespace apic;

namespace {

constexpr bool in_vectors(unsigned index) { return index >= ISR && index < IRR + 8; }
constexpr bool is_lvt(unsigned index) { return index >= LVT_TIMER && index <= LVT_ERROR; }

// Registers that exist in xAPIC mode.
constexpr bool exists_xapic(unsigned index)
{
    switch (index) {
    case ID: case VERSION: case TPR: case APR: case PPR: case EOI: case RRD: case LDR: case DFR:
    case SVR: case ESR: case ICR_LOW: case ICR_HIGH: case INITIAL_COUNT: case CURRENT_COUNT:
    case DIVIDE:
        return true;
    default:
        return in_vectors(index) || is_lvt(index);
    }
}

// SDM table 11-6. ICR is one 64-bit register there; APR, RRD and DFR do not exist.
constexpr bool readable_x2apic(unsigned index)
{
    switch (index) {
    case EOI: case SELF_IPI: case APR: case RRD: case DFR: case ICR_HIGH: return false;
    default: return exists_xapic(index);
    }
}
constexpr bool writable_x2apic(unsigned index)
{
    switch (index) {
    case TPR: case EOI: case SVR: case ESR: case ICR_LOW: case INITIAL_COUNT: case DIVIDE:
    case SELF_IPI:
        return true;
    default:
        return is_lvt(index);
    }
}

// Bits of an LVT entry that software may write.
constexpr std::uint32_t lvt_writable(unsigned index)
{
    switch (index) {
    case LVT_TIMER: return lvt::VECTOR | lvt::MASKED | lvt::TIMER_MODE;
    case LVT_LINT0: case LVT_LINT1:
        return lvt::VECTOR | lvt::MODE | lvt::MASKED | lvt::LOW | lvt::LEVEL;
    case LVT_ERROR: return lvt::VECTOR | lvt::MASKED;
    default: return lvt::VECTOR | lvt::MODE | lvt::MASKED;
    }
}
// Read-only rather than reserved.
constexpr std::uint32_t lvt_read_only(unsigned index)
{
    return index == LVT_LINT0 || index == LVT_LINT1 ? lvt::STATUS | lvt::REMOTE_IRR : lvt::STATUS;
}

constexpr std::uint32_t svr_writable(bool suppression)
{
    return svr::VECTOR | svr::ENABLE | svr::FOCUS | (suppression ? svr::SUPPRESS_BROADCAST : 0);
}

constexpr std::uint32_t divide_writable = 0b1011;

// Reserved bits of the low half, whose writing is #GP in x2APIC mode.
constexpr std::uint32_t reserved_x2apic(unsigned index, bool suppression)
{
    switch (index) {
    case TPR: case SELF_IPI: return ~0xffu;
    case EOI: case ESR: return ~0u;
    case SVR: return ~svr_writable(suppression);
    case ICR_LOW: return icr::RESERVED;
    case INITIAL_COUNT: return 0;
    case DIVIDE: return ~divide_writable;
    default: return ~(lvt_writable(index) | lvt_read_only(index));
    }
}

}  // namespace

// ---- entry points -------------------------------------------------------------------------

std::uint64_t LocalApic::read_mmio(std::uint32_t offset, unsigned size, const ApicTime& time)
{
    const unsigned byte = offset & 0xf;
    if (offset > 0xfff || byte > 3) return 0;
    const std::uint64_t value = std::uint64_t{read_register(offset >> 4, time)} >> (8 * byte);
    return size >= 4 ? value : value & ((std::uint64_t{1} << (8 * size)) - 1);
}

Effects LocalApic::write_mmio(std::uint32_t offset, unsigned size, std::uint64_t value,
                              const ApicTime& time)
{
    if (offset > 0xfff || (offset & 0xf) != 0 || size < 4) return {};
    return write_register(offset >> 4, static_cast<std::uint32_t>(value), time);
}

std::optional<std::uint64_t> LocalApic::read_msr(std::uint32_t number, const ApicTime& time)
{
    if (!x2apic() || number < msr::IA32_X2APIC_FIRST || number > msr::IA32_X2APIC_LAST) {
        return std::nullopt;
    }
    const unsigned index = number - msr::IA32_X2APIC_FIRST;
    if (!readable_x2apic(index)) return std::nullopt;
    const std::uint64_t low = read_register(index, time);
    return index == ICR_LOW ? low | std::uint64_t{reg(ICR_HIGH)} << 32 : low;
}

std::optional<Effects> LocalApic::write_msr(std::uint32_t number, std::uint64_t value,
                                            const ApicTime& time)
{
    if (!x2apic() || number < msr::IA32_X2APIC_FIRST || number > msr::IA32_X2APIC_LAST) {
        return std::nullopt;
    }
    const unsigned index = number - msr::IA32_X2APIC_FIRST;
    if (!writable_x2apic(index)) return std::nullopt;
    const auto low = static_cast<std::uint32_t>(value);
    const auto high = static_cast<std::uint32_t>(value >> 32);
    if (index != ICR_LOW && high != 0) return std::nullopt;
    if ((low & reserved_x2apic(index, config_.eoi_broadcast_suppression)) != 0) return std::nullopt;
    if (index == LVT_TIMER && (low & lvt::TIMER_MODE) == lvt::TIMER_MODE) return std::nullopt;
    if (index == ICR_LOW) {
        state_.registers[ICR_HIGH] = high;
    } else if (index == SELF_IPI) {
        ApicMessage message;
        message.vector = static_cast<std::uint8_t>(low);
        message.shorthand = Shorthand::self;
        if (message.vector < 16) {
            raise_error(esr::SEND_ILLEGAL_VECTOR);
            return Effects{};
        }
        return Effects{message, std::nullopt};
    }
    return write_register(index, low, time);
}

std::uint64_t LocalApic::cr8() const { return (reg(TPR) & 0xff) >> 4; }

void LocalApic::set_cr8(std::uint64_t value)
{
    state_.registers[TPR] = static_cast<std::uint32_t>(value & 0xf) << 4;
}

// ---- registers -------------------------------------------------------------------------------

std::uint32_t LocalApic::read_register(unsigned index, const ApicTime& time)
{
    static_cast<void>(on_time(time));
    switch (index) {
    case ID: return x2apic() ? config_.id : config_.id << 24;
    case VERSION:
        return version::VALUE | version::MAX_LVT |
               (config_.eoi_broadcast_suppression ? version::SUPPRESS_BROADCAST : 0);
    case APR: return arbitration_priority();
    case PPR: return ppr();
    case EOI: case RRD: return 0;
    case LDR: return ldr();
    case INITIAL_COUNT:
        return reg(INITIAL_COUNT);
    case CURRENT_COUNT: return current_count(time.now_ns);
    default: break;
    }
    if (!exists_xapic(index)) {
        raise_error(esr::ILLEGAL_REGISTER);
        return 0;
    }
    return reg(index);
}

Effects LocalApic::write_register(unsigned index, std::uint32_t value, const ApicTime& time)
{
    static_cast<void>(on_time(time));
    switch (index) {
    case TPR:
        state_.registers[TPR] = value & 0xff;
        return {};
    case EOI: return end_of_interrupt();
    case LDR:
        state_.registers[LDR] = value & 0xff000000;
        return {};
    case DFR:
        state_.registers[DFR] = value | 0x0fffffff;
        return {};
    case SVR:
        write_svr(value);
        return {};
    case ESR:
        state_.registers[ESR] = state_.pending_errors;
        state_.pending_errors = 0;
        return {};
    case ICR_HIGH:
        state_.registers[ICR_HIGH] = value & 0xff000000;
        return {};
    case ICR_LOW:
        // Delivery is instant, so the status bit always reads as idle.
        state_.registers[ICR_LOW] = value & ~(icr::STATUS | icr::RESERVED);
        return send_ipi(value, reg(ICR_HIGH));
    case INITIAL_COUNT:
        if ((reg(LVT_TIMER) & lvt::TIMER_MODE) == lvt::TSC_DEADLINE) return {};
        state_.registers[INITIAL_COUNT] = value;
        state_.timer_count = value;
        state_.timer_start_ns = time.now_ns;
        return {};
    case DIVIDE:
        // The count goes on from where it is, at the new pace.
        state_.timer_count = current_count(time.now_ns);
        state_.timer_start_ns = time.now_ns;
        state_.registers[DIVIDE] = value & divide_writable;
        return {};
    default: break;
    }
    if (is_lvt(index)) {
        write_lvt(index, value, time);
    } else if (!exists_xapic(index)) {
        raise_error(esr::ILLEGAL_REGISTER);
    }
    return {};  // the others are read-only
}

void LocalApic::write_svr(std::uint32_t value)
{
    state_.registers[SVR] = value & svr_writable(config_.eoi_broadcast_suppression);
    // SDM 11.4.7.2: a software-disabled APIC keeps its LVT masked.
    if (!software_enabled()) mask_lvts();
}

void LocalApic::mask_lvts()
{
    for (unsigned i = LVT_TIMER; i <= LVT_ERROR; ++i) state_.registers[i] |= lvt::MASKED;
}

void LocalApic::write_lvt(unsigned index, std::uint32_t value, const ApicTime& time)
{
    const std::uint32_t old = reg(index);
    std::uint32_t entry = (value & lvt_writable(index)) | (old & lvt_read_only(index));
    if (!software_enabled()) entry |= lvt::MASKED;
    if (index == LVT_TIMER) {
        if ((entry & lvt::TIMER_MODE) == lvt::TIMER_MODE) {
            entry = (entry & ~lvt::TIMER_MODE) | (old & lvt::TIMER_MODE);  // reserved encoding
        }
        const bool was_deadline = (old & lvt::TIMER_MODE) == lvt::TSC_DEADLINE;
        const bool is_deadline = (entry & lvt::TIMER_MODE) == lvt::TSC_DEADLINE;
        if (was_deadline != is_deadline) {
            // SDM 11.5.4.1: going to or from TSC-deadline mode disarms the timer.
            state_.tsc_deadline = 0;
            state_.timer_count = 0;
            state_.registers[INITIAL_COUNT] = 0;
        } else if (((old ^ entry) & lvt::PERIODIC) != 0) {
            state_.timer_count = current_count(time.now_ns);
            state_.timer_start_ns = time.now_ns;
        }
    }
    // Remote IRR means something only for level-triggered fixed interrupts.
    if ((entry & lvt::LEVEL) == 0 || (entry & lvt::MODE) != 0) entry &= ~lvt::REMOTE_IRR;
    state_.registers[index] = entry;
    if (index == LVT_LINT0) repeat_level_lint();
}

// SDM 11.6.1.
Effects LocalApic::send_ipi(std::uint32_t low, std::uint32_t destination)
{
    ApicMessage message;
    message.mode = static_cast<DeliveryMode>((low >> 8) & 7);
    message.vector = static_cast<std::uint8_t>(low & icr::VECTOR);
    message.shorthand = static_cast<Shorthand>((low >> 18) & 3);
    message.logical = (low & icr::LOGICAL) != 0;
    if (x2apic()) {
        message.destination = destination;
    } else {
        message.destination = destination >> 24;
        if (!message.logical && message.destination == 0xff) {
            message.destination = ApicMessage::broadcast;
        }
    }
    switch (message.mode) {
    case DeliveryMode::fixed:
    case DeliveryMode::lowest_priority:
        if (message.vector < 16) {
            raise_error(esr::SEND_ILLEGAL_VECTOR);
            return {};
        }
        break;
    case DeliveryMode::init:
        // INIT level de-assert only synchronised the arbitration IDs of old APICs.
        if ((low & icr::LEVEL) != 0 && (low & icr::ASSERT_LEVEL) == 0) return {};
        break;
    case DeliveryMode::smi:
    case DeliveryMode::nmi:
    case DeliveryMode::startup: break;
    case DeliveryMode::reserved:
    case DeliveryMode::external: return {};
    }
    // SDM table 11-3: INIT, SMI and SIPI do not go to the sender itself.
    const bool to_processor = message.mode == DeliveryMode::init ||
                              message.mode == DeliveryMode::smi || message.mode == DeliveryMode::startup;
    if (to_processor && message.shorthand == Shorthand::self) return {};
    return {message, std::nullopt};
}

}  // namespace doppel::x86
