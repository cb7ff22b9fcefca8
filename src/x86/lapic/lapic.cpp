#include "x86/lapic/lapic.h"

#include <algorithm>
#include <bit>

#include "x86/lapic/registers.h"

namespace doppel::x86 {

using namespace apic;

namespace {

constexpr std::uint64_t mode_bits = base_msr::EN | base_msr::EXTD;

}  // namespace

std::optional<ApicMessage> decode_msi(std::uint64_t address, std::uint32_t data)
{
    if (address >> 20 != 0xfee) return std::nullopt;
    const bool level = (data & (1u << 15)) != 0;
    if (level && (data & (1u << 14)) == 0) return std::nullopt;
    ApicMessage message;
    message.mode = static_cast<DeliveryMode>((data >> 8) & 7);
    message.vector = static_cast<std::uint8_t>(data);
    message.level_triggered = level;
    message.logical = (address & (1u << 2)) != 0;
    message.destination = static_cast<std::uint32_t>(address >> 12) & 0xff;
    if (!message.logical && message.destination == 0xff) {
        message.destination = ApicMessage::broadcast;
    }
    const bool redirection_hint = (address & (1u << 3)) != 0;
    if (redirection_hint && message.mode == DeliveryMode::fixed) {
        message.mode = DeliveryMode::lowest_priority;
    }
    return message;
}

LocalApic::LocalApic(const LapicConfig& config) : config_(config)
{
    ASSERT(config.tsc_hz != 0);
    ASSERT(config.physical_address_bits >= 32 && config.physical_address_bits <= 52);
    reset();
}

void LocalApic::reset()
{
    state_ = State{};
    state_.apic_base = apic_default_base | base_msr::EN | (config_.bootstrap ? base_msr::BSP : 0);
    clear_registers();
}

void LocalApic::init()
{
    const std::uint64_t base = state_.apic_base;
    const auto levels = state_.lint_level;
    state_ = State{};
    state_.apic_base = base;
    state_.lint_level = levels;
    clear_registers();
}

void LocalApic::clear_registers()
{
    state_.registers = {};
    state_.registers[DFR] = 0xffffffff;
    state_.registers[SVR] = 0xff;
    for (unsigned i = LVT_TIMER; i <= LVT_ERROR; ++i) state_.registers[i] = lvt::MASKED;
    if (config_.bootstrap) {
        state_.registers[LVT_LINT0] = static_cast<std::uint32_t>(DeliveryMode::external) << 8;
        state_.registers[LVT_LINT1] = static_cast<std::uint32_t>(DeliveryMode::nmi) << 8;
    }
    state_.tsc_deadline = 0;
    state_.timer_count = 0;
    state_.pending_errors = 0;
}

// ---- IA32_APIC_BASE ---------------------------------------------------------------------

bool LocalApic::write_apic_base(std::uint64_t value, const ApicTime& time)
{
    const std::uint64_t address = ((std::uint64_t{1} << config_.physical_address_bits) - 1) & ~0xfffull;
    if ((value & ~(address | base_msr::BSP | mode_bits)) != 0) return false;
    const std::uint64_t from = state_.apic_base & mode_bits;
    const std::uint64_t to = value & mode_bits;
    if (to == base_msr::EXTD) return false;
    if (from == 0 && to == mode_bits) return false;
    if (from == mode_bits && to == base_msr::EN) return false;
    static_cast<void>(on_time(time));
    if (from != to && to == 0) {
        // The registers do not survive (SDM 11.4.3, 11.12.5.1).
        clear_registers();
    }
    if (from != to && to == mode_bits) state_.registers[ICR_HIGH] = 0;
    state_.apic_base = value;
    return true;
}

void LocalApic::load_apic_base(std::uint64_t value)
{
    const std::uint64_t address = ((std::uint64_t{1} << config_.physical_address_bits) - 1) & ~0xfffull;
    value &= address | base_msr::BSP | mode_bits;
    if ((value & base_msr::EN) == 0) value &= ~mode_bits;
    state_.apic_base = value;
}

// ---- vectors ------------------------------------------------------------------------------

int LocalApic::highest(unsigned first_register) const
{
    for (unsigned i = 8; i-- > 0;) {
        const std::uint32_t word = reg(first_register + i);
        if (word != 0) return static_cast<int>(i * 32 + 31) - std::countl_zero(word);
    }
    return -1;
}

bool LocalApic::test(unsigned first_register, unsigned vector) const
{
    return (reg(first_register + vector / 32) >> (vector % 32) & 1) != 0;
}

void LocalApic::assign(unsigned first_register, unsigned vector, bool value)
{
    std::uint32_t& word = state_.registers[first_register + vector / 32];
    const std::uint32_t bit = 1u << (vector % 32);
    word = value ? word | bit : word & ~bit;
}

// SDM 11.8.3.1.
std::uint8_t LocalApic::ppr() const
{
    const std::uint32_t tpr = reg(TPR) & 0xff;
    const int in_service = highest(ISR);
    const std::uint32_t service = in_service < 0 ? 0 : static_cast<std::uint32_t>(in_service) & 0xf0;
    return static_cast<std::uint8_t>((tpr & 0xf0) >= service ? tpr : service);
}

std::uint8_t LocalApic::arbitration_priority() const
{
    const std::uint32_t tpr = reg(TPR) & 0xff;
    const auto irr = static_cast<std::uint32_t>(std::max(highest(IRR), 0));
    const auto isr = static_cast<std::uint32_t>(std::max(highest(ISR), 0));
    if ((tpr & 0xf0) >= (irr & 0xf0) && (tpr & 0xf0) > (isr & 0xf0)) {
        return static_cast<std::uint8_t>(tpr);
    }
    return static_cast<std::uint8_t>(std::max({tpr & 0xf0, irr & 0xf0, isr & 0xf0}));
}

std::optional<std::uint8_t> LocalApic::pending_interrupt() const
{
    if (!enabled()) return std::nullopt;
    const int vector = highest(IRR);
    if (vector < 0 || (vector & 0xf0) <= (ppr() & 0xf0)) return std::nullopt;
    return static_cast<std::uint8_t>(vector);
}

std::uint8_t LocalApic::acknowledge()
{
    const auto vector = pending_interrupt();
    if (!vector) return static_cast<std::uint8_t>(reg(SVR) & svr::VECTOR);
    assign(IRR, *vector, false);
    assign(ISR, *vector, true);
    return *vector;
}

bool LocalApic::eoi_is_silent() const
{
    const int in_service = highest(ISR);
    return enabled() && in_service >= 0 && !test(TMR, static_cast<unsigned>(in_service)) &&
           highest(IRR) < 0;
}

void LocalApic::silent_eoi()
{
    const int in_service = highest(ISR);
    if (in_service >= 0) assign(ISR, static_cast<unsigned>(in_service), false);
}

Effects LocalApic::end_of_interrupt()
{
    Effects effects;
    const int in_service = highest(ISR);
    if (in_service < 0) return effects;
    const auto vector = static_cast<std::uint8_t>(in_service);
    assign(ISR, vector, false);
    if (!test(TMR, vector)) return effects;
    if ((reg(SVR) & svr::SUPPRESS_BROADCAST) == 0) effects.end_of_interrupt = vector;
    for (const unsigned pin : {LVT_LINT0, LVT_LINT1}) {
        std::uint32_t& entry = state_.registers[pin];
        if ((entry & lvt::REMOTE_IRR) != 0 && (entry & lvt::VECTOR) == vector) {
            entry &= ~lvt::REMOTE_IRR;
        }
    }
    repeat_level_lint();
    return effects;
}

// ---- messages -------------------------------------------------------------------------------

bool LocalApic::software_enabled() const { return (reg(SVR) & svr::ENABLE) != 0; }

// SDM 11.12.10.2: derived from the ID in x2APIC mode.
std::uint32_t LocalApic::ldr() const
{
    if (x2apic()) return (config_.id >> 4) << 16 | 1u << (config_.id & 0xf);
    return reg(LDR);
}

LocalApic::Address LocalApic::address() const
{
    Address address;
    address.id = config_.id;
    address.logical_id = x2apic() ? ldr() : reg(LDR) >> 24;
    address.model = static_cast<std::uint8_t>(reg(DFR) >> 28);
    address.enabled = enabled();
    address.x2apic = x2apic();
    address.accepts = software_enabled();
    return address;
}

bool LocalApic::matches(const ApicMessage& message, const Address& address, bool sender)
{
    if (!address.enabled) return false;
    switch (message.shorthand) {
    case Shorthand::self: return sender;
    case Shorthand::all: return true;
    case Shorthand::others: return !sender;
    case Shorthand::none: break;
    }
    const std::uint32_t destination = message.destination;
    if (destination == ApicMessage::broadcast) return true;
    if (!message.logical) return destination == address.id;
    const std::uint32_t logical_id = address.logical_id;
    if (address.x2apic) {
        return destination >> 16 == logical_id >> 16 && (destination & logical_id & 0xffff) != 0;
    }
    if (destination > 0xff) return false;
    switch (address.model) {
    case 0xf:
        return (destination & logical_id) != 0;
    case 0x0:
        if (destination == 0xff) return true;
        return destination >> 4 == logical_id >> 4 && (destination & logical_id & 0xf) != 0;
    default:
        return false;
    }
}

Accepted LocalApic::accept(const ApicMessage& message)
{
    if (!enabled()) return Accepted::ignored;
    switch (message.mode) {
    case DeliveryMode::fixed:
    case DeliveryMode::lowest_priority:
        if (!software_enabled()) return Accepted::ignored;
        return request(message.vector, message.level_triggered);
    case DeliveryMode::smi: return Accepted::smi;
    case DeliveryMode::nmi: return Accepted::nmi;
    case DeliveryMode::init: return Accepted::init;
    case DeliveryMode::startup: return Accepted::startup;
    case DeliveryMode::external:
        return software_enabled() ? Accepted::external : Accepted::ignored;
    case DeliveryMode::reserved: break;
    }
    return Accepted::ignored;
}

Accepted LocalApic::request(std::uint8_t vector, bool level_triggered)
{
    if (vector < 16) {
        raise_error(esr::RECEIVE_ILLEGAL_VECTOR);
        return Accepted::ignored;
    }
    assign(TMR, vector, level_triggered);
    if (test(IRR, vector)) return Accepted::ignored;
    assign(IRR, vector, true);
    return Accepted::interrupt;
}

void LocalApic::raise_error(std::uint32_t bit)
{
    // One interrupt until ESR is written again (SDM 11.5.3). An illegal vector in the error
    // entry itself therefore ends here, too.
    const bool armed = state_.pending_errors == 0;
    state_.pending_errors |= bit;
    if (armed) static_cast<void>(trigger_lvt(LVT_ERROR));
}

// ---- local sources ----------------------------------------------------------------------------

Accepted LocalApic::trigger_lvt(unsigned index)
{
    const std::uint32_t entry = reg(index);
    if (!enabled() || (entry & lvt::MASKED) != 0) return Accepted::ignored;
    const bool lint = index == LVT_LINT0 || index == LVT_LINT1;
    const bool modal = lint || index == LVT_THERMAL || index == LVT_PERFORMANCE;
    const auto mode = modal ? static_cast<DeliveryMode>((entry & lvt::MODE) >> 8) : DeliveryMode::fixed;
    switch (mode) {
    case DeliveryMode::fixed: {
        const bool level = index == LVT_LINT0 && (entry & lvt::LEVEL) != 0;
        if (level && (entry & lvt::REMOTE_IRR) != 0) return Accepted::ignored;
        const auto vector = static_cast<std::uint8_t>(entry & lvt::VECTOR);
        const Accepted accepted = request(vector, level);
        if (level && vector >= 16) state_.registers[index] |= lvt::REMOTE_IRR;
        return accepted;
    }
    case DeliveryMode::smi: return Accepted::smi;
    case DeliveryMode::nmi: return Accepted::nmi;
    case DeliveryMode::init: return Accepted::init;
    case DeliveryMode::external: return Accepted::external;
    case DeliveryMode::lowest_priority:
    case DeliveryMode::startup:
    case DeliveryMode::reserved: break;
    }
    return Accepted::ignored;
}

Accepted LocalApic::set_lint(unsigned pin, bool level)
{
    ASSERT(pin < 2);
    const bool rising = level && state_.lint_level[pin] == 0;
    state_.lint_level[pin] = level ? 1 : 0;
    if (!rising) return Accepted::ignored;
    // SDM 11.4.3: disabled, the pins are the processor's INTR and NMI.
    if (!enabled()) return pin == 0 ? Accepted::external : Accepted::nmi;
    return trigger_lvt(pin == 0 ? LVT_LINT0 : LVT_LINT1);
}

void LocalApic::repeat_level_lint()
{
    const std::uint32_t entry = reg(LVT_LINT0);
    const bool level_fixed = (entry & lvt::LEVEL) != 0 && (entry & lvt::MODE) == 0;
    if (level_fixed && state_.lint_level[0] != 0) static_cast<void>(trigger_lvt(LVT_LINT0));
}

bool LocalApic::external_pending() const
{
    if (!enabled()) return state_.lint_level[0] != 0;
    for (unsigned pin = 0; pin < 2; ++pin) {
        const std::uint32_t entry = reg(LVT_LINT0 + pin);
        const bool external = static_cast<DeliveryMode>((entry & lvt::MODE) >> 8) == DeliveryMode::external;
        if (state_.lint_level[pin] != 0 && external && (entry & lvt::MASKED) == 0) return true;
    }
    return false;
}

// ---- saved state ---------------------------------------------------------------------------------

std::string LocalApic::section_name() const { return "lapic." + std::to_string(config_.id); }

void LocalApic::save(base::StateWriter& writer) const
{
    writer.section(section_name(), 1, state_);
}

base::Result<void> LocalApic::load(const base::StateReader& reader)
{
    return load(TRY(reader.section_as<State>(section_name(), 1)));
}

base::Result<void> LocalApic::load(const State& from)
{
    State state = from;
    const std::uint64_t mode = state.apic_base & mode_bits;
    if (mode == base_msr::EXTD || (state.apic_base & 0x2ff) != 0 ||
        state.apic_base >> config_.physical_address_bits != 0) {
        return base::io_error("The state of the local APIC has an impossible IA32_APIC_BASE");
    }
    if ((state.registers[LVT_TIMER] & lvt::TIMER_MODE) == lvt::TIMER_MODE) {
        return base::io_error("The state of the local APIC has an impossible timer mode");
    }
    for (const unsigned first : {ISR, IRR, TMR}) {
        // Vectors 0-15 cannot be accepted.
        if ((state.registers[first] & 0xffff) != 0) {
            return base::io_error("The state of the local APIC has an impossible vector");
        }
    }
    for (auto& level : state.lint_level) level = level != 0 ? 1 : 0;
    state.reserved = {};
    state_ = state;
    return {};
}

}  // namespace doppel::x86
