// One local APIC as a pure model: xAPIC and x2APIC registers, interrupt acceptance and
// the timer. SDM volume 3 chapter 11: registers 11.4, x2APIC 11.12, timer 11.5.4, IPIs
// 11.6, acceptance 11.8, EOI 11.8.5, spurious 11.9, MSI 11.11.
//
//   other vCPUs, I/O APIC ──ApicMessage──▶ matches()? accept() ──▶ Accepted
//                                                                   │ interrupt: IRR
//                                                                   └ nmi, init, ...: the vCPU
//   guest ──read/write──▶ registers ──▶ Effects{ipi, end_of_interrupt} for the owner to route
//   vCPU  ──pending_interrupt()/acknowledge()──▶ vector
//   owner ──next_deadline()──▶ sleeps ──▶ on_time()
//
// It calls nobody and knows no clock: time is an argument, messages are return values.
//
// The timer counts a bus clock of apic_bus_hz, divided as the guest says; one tick of the
// undivided clock is one nanosecond. CPUID leaf 0x15 and the signature leaf say the same.
//
// The model reports version 0x14 with six LVT entries. The ID register is read-only, as
// on processors of today.
//
// Threads: none here; the owner serialises all calls.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/address.h"
#include "base/result.h"
#include "base/state/state_stream.h"

namespace doppel::x86 {

inline constexpr std::uint64_t apic_bus_hz = 1'000'000'000;
inline constexpr std::uint64_t apic_default_base = 0xfee00000;

// SDM table 11-1 and ICR bits 10:8.
enum class DeliveryMode : std::uint8_t {
    fixed = 0,
    lowest_priority = 1,
    smi = 2,
    reserved = 3,
    nmi = 4,
    init = 5,
    startup = 6,
    external = 7,  // ExtINT: the vector comes from the PIC
};

// ICR bits 19:18.
enum class Shorthand : std::uint8_t { none = 0, self = 1, all = 2, others = 3 };

// What travels between APICs: an IPI, an MSI, or an I/O APIC message.
struct ApicMessage {
    // Physical broadcast, whatever the width of the field it was sent in.
    static constexpr std::uint32_t broadcast = 0xffffffff;

    DeliveryMode mode = DeliveryMode::fixed;
    std::uint8_t vector = 0;
    Shorthand shorthand = Shorthand::none;
    bool logical = false;
    bool level_triggered = false;
    std::uint32_t destination = 0;

    bool operator==(const ApicMessage&) const = default;
};

// From the address and data of an MSI write (SDM 11.11); nothing when the address is not
// in the interrupt range or the message says nothing (level de-assert). A redirection
// hint makes a fixed message lowest-priority.
std::optional<ApicMessage> decode_msi(std::uint64_t address, std::uint32_t data);

// What accept() or a local source means for the processor.
enum class Accepted : std::uint8_t {
    ignored,    // masked, disabled, merged or illegal
    interrupt,  // in IRR: look at pending_interrupt()
    nmi,
    smi,
    init,
    startup,    // SIPI: CS:IP is vector << 8 : 0, and only in wait-for-SIPI
    external,   // ExtINT: ask the PIC for the vector
};

// What a register write asks of the owner. Both at once do not happen.
struct Effects {
    // To every local APIC of the VM for which matches() holds, the sender included; for
    // lowest_priority to the one of them with the smallest arbitration_priority().
    std::optional<ApicMessage> ipi;
    // EOI of a level-triggered vector, to be told to the I/O APICs.
    std::optional<std::uint8_t> end_of_interrupt;

    bool operator==(const Effects&) const = default;
};

// The moment of an access, on the VM's clock. tsc is the guest's IA32_TIME_STAMP_COUNTER,
// so TSC-deadline follows a guest that writes its TSC.
struct ApicTime {
    std::uint64_t now_ns = 0;
    std::uint64_t tsc = 0;
};

struct LapicConfig {
    std::uint32_t id = 0;        // xAPIC shows the low 8 bits
    bool bootstrap = false;
    std::uint64_t tsc_hz = 0;    // of ApicTime::tsc, not zero
    unsigned physical_address_bits = 46;
    // Version bit 24 and SVR bit 12. Only with I/O APICs that have an EOI register: a guest
    // that suppresses the broadcast has no other way to end a level interrupt.
    bool eoi_broadcast_suppression = false;
};

class LocalApic {
public:
    explicit LocalApic(const LapicConfig& config);

    // Power-up (SDM 11.4.7.1). The bootstrap processor's LINT0 is ExtINT and LINT1 NMI, both
    // unmasked: what PC firmware leaves behind ("virtual wire"), since guests are loaded
    // without one and PIC-only guests never touch the APIC.
    void reset();
    // INIT: as reset(), but IA32_APIC_BASE and thereby the mode stay (SDM 11.4.7.3).
    void init();

    // ---- IA32_APIC_BASE -----------------------------------------------------------------
    [[nodiscard]] std::uint64_t apic_base() const { return state_.apic_base; }
    // False: #GP (reserved bits, or a transition that SDM figure 11-27 does not have).
    [[nodiscard]] bool write_apic_base(std::uint64_t value, const ApicTime& time);
    // Whole-state load (CpuState); no transition is checked, an impossible mode is disabled.
    void load_apic_base(std::uint64_t value);
    [[nodiscard]] bool enabled() const { return (state_.apic_base & (1u << 11)) != 0; }
    [[nodiscard]] bool x2apic() const { return (state_.apic_base & (3u << 10)) == (3u << 10); }
    // xAPIC mode and gpa in its 4 KiB page.
    [[nodiscard]] bool claims(base::Gpa gpa) const
    {
        return enabled() && !x2apic() && gpa.page() == state_.apic_base >> base::page_shift;
    }
    [[nodiscard]] std::uint32_t id() const { return config_.id; }

    // ---- registers ------------------------------------------------------------------------
    // MMIO: offset within the page, size 1, 2, 4 or 8. Only aligned 32-bit accesses at 16-byte
    // steps are defined; other writes are dropped, reads outside the 32 bits give zero.
    std::uint64_t read_mmio(std::uint32_t offset, unsigned size, const ApicTime& time);
    Effects write_mmio(std::uint32_t offset, unsigned size, std::uint64_t value,
                       const ApicTime& time);
    // MSRs 0x800-0x8ff. Nothing: #GP (not in x2APIC mode, no such register, reserved bits).
    std::optional<std::uint64_t> read_msr(std::uint32_t msr, const ApicTime& time);
    std::optional<Effects> write_msr(std::uint32_t msr, std::uint64_t value, const ApicTime& time);
    // CR8: bits 3:0 (the caller has checked the others).
    [[nodiscard]] std::uint64_t cr8() const;
    void set_cr8(std::uint64_t value);
    // IA32_TSC_DEADLINE.
    [[nodiscard]] std::uint64_t tsc_deadline(const ApicTime& time);
    void write_tsc_deadline(std::uint64_t value, const ApicTime& time);
    // Whole-state load: arms without regard to the timer's mode or to what has passed.
    void load_tsc_deadline(std::uint64_t value) { state_.tsc_deadline = value; }

    // ---- messages ---------------------------------------------------------------------------
    // Is this one of its destinations? `sender`: it sent the message itself.
    [[nodiscard]] bool matches(const ApicMessage& message, bool sender) const
    {
        return matches(message, address(), sender);
    }
    // What decides that: for a sender who has no other view of the APIC.
    struct Address {
        std::uint32_t id = 0;
        std::uint32_t logical_id = 0;  // xAPIC: 8 bits
        std::uint8_t model = 0;        // xAPIC: DFR bits 31:28
        bool enabled = false, x2apic = false;
        bool accepts = false;          // software-enabled: accept() takes interrupts

        bool operator==(const Address&) const = default;
        // accept() would take a message of this mode.
        [[nodiscard]] bool takes(DeliveryMode mode) const
        {
            return enabled && (accepts || mode == DeliveryMode::nmi);
        }
    };
    [[nodiscard]] Address address() const;
    [[nodiscard]] static bool matches(const ApicMessage& message, const Address& address, bool sender);
    Accepted accept(const ApicMessage& message);
    [[nodiscard]] std::uint8_t arbitration_priority() const;

    // ---- pins ---------------------------------------------------------------------------------
    // Level of LINT0 (pin 0, the PIC's INTR) or LINT1 (pin 1, NMI). The answer says what an
    // edge or level means at once; an ExtINT level is seen through external_pending().
    Accepted set_lint(unsigned pin, bool level);
    // A pin in ExtINT mode is high, or LINT0 is while the APIC is disabled and the pin is INTR.
    [[nodiscard]] bool external_pending() const;

    // ---- processor ------------------------------------------------------------------------------
    // Highest IRR vector whose class is above PPR's.
    [[nodiscard]] std::optional<std::uint8_t> pending_interrupt() const;
    // INTA: moves that vector from IRR to ISR; the spurious vector when there is none.
    std::uint8_t acknowledge();
    // The EOI of the interrupt in service would do nothing but clear its ISR bit: it is
    // edge-triggered, and nothing waits for it (whatever its priority, so that a guest that
    // lowers TPR meanwhile is not kept waiting either).
    [[nodiscard]] bool eoi_is_silent() const;
    // Such an EOI, made without a register (x86/paravirt.h, PV EOI).
    void silent_eoi();

    // ---- time -------------------------------------------------------------------------------------
    // When on_time() has something to do, in ns of the VM's clock; nothing when the timer is
    // stopped or masked.
    [[nodiscard]] std::optional<std::uint64_t> next_deadline(const ApicTime& time) const;
    // Lets the timer expire if it is due. Missed periods merge into one interrupt.
    Accepted on_time(const ApicTime& time);

    // ---- saved state --------------------------------------------------------------------------------
    struct State {
        std::array<std::uint32_t, 64> registers{};  // by xAPIC offset >> 4
        std::uint64_t apic_base = 0;
        std::uint64_t tsc_deadline = 0;             // zero: not armed
        std::uint64_t timer_start_ns = 0;           // when timer_count was the current count
        std::uint32_t timer_count = 0;              // zero: stopped
        std::uint32_t pending_errors = 0;           // to show at the next write of ESR
        std::array<std::uint8_t, 2> lint_level{};
        std::array<std::uint8_t, 6> reserved{};

        bool operator==(const State&) const = default;
    };
    [[nodiscard]] const State& state() const { return state_; }
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);
    // Fails, with nothing changed, when no local APIC of this configuration can be in that state.
    base::Result<void> load(const State& state);

private:
    LapicConfig config_;
    State state_;

    [[nodiscard]] std::uint32_t reg(unsigned index) const { return state_.registers[index]; }
    [[nodiscard]] std::uint32_t read_register(unsigned index, const ApicTime& time);
    Effects write_register(unsigned index, std::uint32_t value, const ApicTime& time);
    [[nodiscard]] bool software_enabled() const;
    [[nodiscard]] std::uint32_t ldr() const;
    [[nodiscard]] std::uint8_t ppr() const;
    [[nodiscard]] int highest(unsigned first_register) const;
    [[nodiscard]] bool test(unsigned first_register, unsigned vector) const;
    void assign(unsigned first_register, unsigned vector, bool value);
    void clear_registers();
    void mask_lvts();
    std::string section_name() const;

    Effects end_of_interrupt();
    Effects send_ipi(std::uint32_t low, std::uint32_t destination);
    void write_lvt(unsigned index, std::uint32_t value, const ApicTime& time);
    void write_svr(std::uint32_t value);
    void raise_error(std::uint32_t bit);
    Accepted trigger_lvt(unsigned index);
    Accepted request(std::uint8_t vector, bool level_triggered);
    void repeat_level_lint();

    [[nodiscard]] unsigned timer_divide() const;
    [[nodiscard]] std::uint32_t current_count(std::uint64_t now_ns) const;
    [[nodiscard]] std::uint64_t count_expiry_ns() const;
};

}  // namespace doppel::x86
