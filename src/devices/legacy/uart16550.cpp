#include "devices/legacy/uart16550.h"

#include <algorithm>

#include "base/bytes.h"
#include "bus/ticks.h"

namespace doppel::devices {
namespace {

// Registers; 0 and 1 are the divisor latch while LCR.DLAB is set.
enum Register : unsigned { RBR = 0, IER = 1, IIR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

constexpr std::uint8_t IER_ERBFI = 0x01;
constexpr std::uint8_t IER_ETBEI = 0x02;
constexpr std::uint8_t IER_ELSI = 0x04;
constexpr std::uint8_t IER_EDSSI = 0x08;
constexpr std::uint8_t IIR_NONE = 0x01;
constexpr std::uint8_t IIR_MODEM = 0x00;
constexpr std::uint8_t IIR_THRE = 0x02;
constexpr std::uint8_t IIR_DATA = 0x04;
constexpr std::uint8_t IIR_LINE = 0x06;
constexpr std::uint8_t IIR_TIMEOUT = 0x0c;
constexpr std::uint8_t LCR_DLAB = 0x80;
constexpr std::uint8_t LSR_DR = 0x01;
constexpr std::uint8_t LSR_OE = 0x02;
constexpr std::uint8_t LSR_ERRORS = 0x1e;
constexpr std::uint8_t LSR_THRE = 0x20;
constexpr std::uint8_t LSR_TEMT = 0x40;
constexpr std::uint8_t LSR_FIFO_ERROR = 0x80;
constexpr std::uint8_t MCR_OUT2 = 0x08;
constexpr std::uint8_t MSR_TERI = 0x04;
constexpr std::uint8_t MSR_RI = 0x40;
// A cable with a listener at its end: clear to send, data set ready, carrier.
constexpr std::uint8_t connected = 0xb0;
constexpr std::uint8_t polls_until_listening = 32;
constexpr std::uint64_t uart_clock_hz = 1'843'200;

}  // namespace

Uart16550::Uart16550(bus::Bus& bus, bus::InterruptSink& interrupts, unsigned irq,
                     bus::VmClock& clock, backends::CharacterBackend& backend)
    : bus_(bus), interrupts_(interrupts), irq_(irq), clock_(clock), backend_(backend)
{
    timeout_ = clock_.create_timer([this] {
        const auto guard = bus_.lock();
        if (state_.timeout_ns == 0) return;
        state_.timeout_ns = 0;
        if (state_.receive_count != 0) state_.timeout_pending = 1;
        update_line();
    });
    backend_.set_input_callback([this] {
        const auto guard = bus_.lock();
        pull_input();
        update_line();
    });
    backend_.set_writable_callback([this] {
        const auto guard = bus_.lock();
        drain_transmitter();
        update_line();
    });
    reset();
}

Uart16550::~Uart16550()
{
    backend_.set_input_callback({});
    backend_.set_writable_callback({});
}

// Master reset (datasheet table "UART Reset Configuration").
void Uart16550::reset()
{
    state_ = {};
    state_.divisor = 12;  // 9600 baud, as firmware leaves it
    state_.modem_inputs = connected;
    timeout_->cancel();
    thre_was_ready_ = transmitter_ready();
    update_line();
}

unsigned Uart16550::trigger() const
{
    static constexpr std::array<unsigned, 4> levels = {1, 4, 8, 14};
    return fifos_on() ? levels[state_.fcr >> 6] : 1;
}

bool Uart16550::transmitter_ready() const
{
    if (state_.transmit_count != 0) return false;
    return loopback() || backend_.output_room() >= fifo_size;
}

bool Uart16550::listening() const
{
    // Linux tries IER's bits when it looks for ports; only with OUT2 can an interrupt come.
    const bool by_interrupt = (state_.ier & IER_ERBFI) != 0 && (state_.mcr & MCR_OUT2) != 0;
    return by_interrupt || state_.idle_polls >= polls_until_listening;
}

void Uart16550::pull_input()
{
    if (loopback() || !listening()) return;
    while (state_.receive_count < depth()) {
        std::array<std::byte, fifo_size> bytes;
        const std::size_t got =
            backend_.read(std::span{bytes}.first(depth() - state_.receive_count));
        if (got == 0) return;
        for (std::size_t i = 0; i < got; ++i) receive(std::to_integer<std::uint8_t>(bytes[i]));
    }
}

void Uart16550::receive(std::uint8_t value)
{
    if (state_.receive_count >= depth()) {
        state_.lsr_errors |= LSR_OE;
        // With the FIFO the byte in the shift register is lost; without, the one not read.
        if (!fifos_on()) state_.receive[0] = value;
        return;
    }
    state_.receive[state_.receive_count++] = value;
    start_timeout();
}

// Four character times without a byte coming or going, in FIFO mode.
void Uart16550::start_timeout()
{
    state_.timeout_pending = 0;
    if (!fifos_on() || state_.receive_count == 0) {
        state_.timeout_ns = 0;
        timeout_->cancel();
        return;
    }
    const std::uint64_t divisor = std::max<std::uint64_t>(1, state_.divisor);
    const std::uint64_t ticks = 4 * 10 * 16 * divisor;
    state_.timeout_ns = clock_.now_ns() + bus::ticks_to_ns(ticks, uart_clock_hz);
    timeout_->arm(state_.timeout_ns);
}

std::uint8_t Uart16550::take_received()
{
    if (state_.receive_count == 0) return 0;
    const std::uint8_t value = state_.receive[0];
    std::copy(state_.receive.begin() + 1, state_.receive.end(), state_.receive.begin());
    --state_.receive_count;
    start_timeout();
    if (state_.receive_count == 0) pull_input();
    return value;
}

void Uart16550::transmit(std::uint8_t value)
{
    state_.thre_pending = 0;
    if (loopback()) {
        receive(value);
        state_.thre_pending = 1;
        return;
    }
    thre_was_ready_ = false;
    if (state_.transmit_count < depth()) {
        state_.transmit[state_.transmit_count++] = value;
    } else {
        state_.transmit[depth() - 1] = value;
    }
    drain_transmitter();
}

void Uart16550::drain_transmitter()
{
    if (state_.transmit_count != 0) {
        const auto queued = std::span{state_.transmit}.first(state_.transmit_count);
        const std::size_t taken = backend_.write(std::as_bytes(queued));
        std::copy(state_.transmit.begin() + static_cast<std::ptrdiff_t>(taken),
                  state_.transmit.end(), state_.transmit.begin());
        state_.transmit_count = static_cast<std::uint8_t>(state_.transmit_count - taken);
    }
    const bool ready = transmitter_ready();
    if (ready && !thre_was_ready_) state_.thre_pending = 1;
    thre_was_ready_ = ready;
}

std::uint8_t Uart16550::line_status()
{
    std::uint8_t value = state_.lsr_errors;
    if (state_.receive_count != 0) value |= LSR_DR;
    // Room comes back without a callback, too: look again.
    if (!thre_was_ready_) drain_transmitter();
    if (transmitter_ready()) value |= LSR_THRE | LSR_TEMT;
    if (fifos_on() && (state_.lsr_errors & (LSR_ERRORS & ~LSR_OE)) != 0) value |= LSR_FIFO_ERROR;
    return value;
}

std::uint8_t Uart16550::modem_status() const
{
    std::uint8_t lines = state_.modem_inputs;
    if (loopback()) {
        // RTS, DTR, OUT1, OUT2 are read back as CTS, DSR, RI, DCD.
        const unsigned mcr = state_.mcr;
        lines = static_cast<std::uint8_t>((mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 |
                                          (mcr & 8) << 4);
    }
    return static_cast<std::uint8_t>(lines | state_.msr_delta);
}

// Highest priority first (datasheet table "Interrupt Control Functions").
std::uint8_t Uart16550::interrupt_identification() const
{
    if ((state_.ier & IER_ELSI) != 0 && state_.lsr_errors != 0) return IIR_LINE;
    if ((state_.ier & IER_ERBFI) != 0) {
        if (state_.receive_count >= trigger()) return IIR_DATA;
        if (state_.timeout_pending != 0) return IIR_TIMEOUT;
    }
    if ((state_.ier & IER_ETBEI) != 0 && state_.thre_pending != 0) return IIR_THRE;
    if ((state_.ier & IER_EDSSI) != 0 && state_.msr_delta != 0) return IIR_MODEM;
    return IIR_NONE;
}

void Uart16550::update_line()
{
    // On the PC, OUT2 is the gate between the chip and the interrupt line; in loopback the
    // pin is inactive.
    const bool gate = (state_.mcr & MCR_OUT2) != 0 && !loopback();
    const bool level = gate && interrupt_identification() != IIR_NONE;
    if (level == line_) return;
    line_ = level;
    interrupts_.set_line(irq_, level);
}

std::uint8_t Uart16550::read_register(unsigned offset)
{
    if (offset != LSR) state_.idle_polls = 0;
    const bool dlab = (state_.lcr & LCR_DLAB) != 0;
    switch (offset) {
    case RBR: return dlab ? static_cast<std::uint8_t>(state_.divisor) : take_received();
    case IER: return dlab ? static_cast<std::uint8_t>(state_.divisor >> 8) : state_.ier;
    case IIR: {
        const std::uint8_t cause = interrupt_identification();
        if (cause == IIR_THRE) state_.thre_pending = 0;  // seen
        return static_cast<std::uint8_t>(cause | (fifos_on() ? 0xc0 : 0));
    }
    case LCR: return state_.lcr;
    case MCR: return state_.mcr;
    case LSR: {
        if (state_.receive_count == 0 && !loopback()) {
            // A guest that waits for the transmitter is not looking for input.
            if (transmitter_ready() && state_.idle_polls < polls_until_listening) {
                ++state_.idle_polls;
            }
            pull_input();
        }
        const std::uint8_t value = line_status();
        state_.lsr_errors = 0;
        return value;
    }
    case MSR: {
        const std::uint8_t value = modem_status();
        state_.msr_delta = 0;
        return value;
    }
    default: return state_.scratch;
    }
}

void Uart16550::write_fifo_control(std::uint8_t value)
{
    const bool toggled = ((value ^ state_.fcr) & 1) != 0;
    // The chip empties the receiver when FIFOs go on, too. Linux turns its receive interrupt on
    // just before that, which is when input that waited here arrives, where a line would have
    // taken its time: that byte is kept.
    if ((toggled && (value & 0x01) == 0) || (value & 0x02) != 0) {
        state_.receive_count = 0;
        state_.lsr_errors = 0;
        start_timeout();
    }
    if (toggled || (value & 0x04) != 0) {
        state_.transmit_count = 0;
        drain_transmitter();
    }
    // The other bits take effect only together with "FIFOs on".
    state_.fcr = (value & 1) != 0 ? value & 0xc9 : 0;
    pull_input();
}

void Uart16550::write_modem_control(std::uint8_t value)
{
    const std::uint8_t before = modem_status() & 0xf0;
    state_.mcr = value & 0x1f;
    const std::uint8_t after = modem_status() & 0xf0;
    auto delta = static_cast<std::uint8_t>((before ^ after) >> 4);
    // The ring indicator reports its trailing edge only.
    delta &= static_cast<std::uint8_t>(~MSR_TERI);
    if ((before & MSR_RI) != 0 && (after & MSR_RI) == 0) delta |= MSR_TERI;
    state_.msr_delta |= delta;
    drain_transmitter();
    pull_input();
}

void Uart16550::write_register(unsigned offset, std::uint8_t value)
{
    state_.idle_polls = 0;
    const bool dlab = (state_.lcr & LCR_DLAB) != 0;
    switch (offset) {
    case RBR:
        if (dlab) {
            state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0xff00) | value);
        } else {
            transmit(value);
        }
        break;
    case IER:
        if (dlab) {
            state_.divisor = static_cast<std::uint16_t>((state_.divisor & 0x00ff) | value << 8);
            break;
        }
        // Enabling the transmitter's interrupt while it is empty raises one at once.
        if ((value & IER_ETBEI) != 0 && (state_.ier & IER_ETBEI) == 0 && transmitter_ready()) {
            state_.thre_pending = 1;
        }
        state_.ier = value & 0x0f;
        pull_input();
        break;
    case IIR: write_fifo_control(value); break;
    case LCR: state_.lcr = value; break;
    case MCR: write_modem_control(value); break;
    case SCR: state_.scratch = value; break;
    default: break;  // LSR and MSR are read-only
    }
}

void Uart16550::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(read_register((offset + i) & 7));
    }
    update_line();
}

void Uart16550::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        write_register((offset + i) & 7, std::to_integer<std::uint8_t>(data[i]));
    }
    update_line();
}

void Uart16550::save(base::StateWriter& writer) const
{
    writer.section("uart", 1, state_);
}

base::Result<void> Uart16550::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("uart", 1));
    const unsigned size = (state.fcr & 1) != 0 ? fifo_size : 1;
    const bool good = (state.ier & 0xf0) == 0 && (state.fcr & ~0xc9) == 0 &&
                      (state.mcr & 0xe0) == 0 && (state.lsr_errors & ~LSR_ERRORS) == 0 &&
                      (state.msr_delta & 0xf0) == 0 && (state.modem_inputs & 0x0f) == 0 &&
                      (state.thre_pending | state.timeout_pending) <= 1 &&
                      state.idle_polls <= polls_until_listening &&
                      state.receive_count <= size && state.transmit_count <= size;
    if (!good) return base::io_error("Saved state of 'uart' holds impossible values");
    state_ = state;
    thre_was_ready_ = transmitter_ready();
    if (state_.timeout_ns != 0) {
        timeout_->arm(state_.timeout_ns);
    } else {
        timeout_->cancel();
    }
    const bool gate = (state_.mcr & MCR_OUT2) != 0 && !loopback();
    line_ = !(gate && interrupt_identification() != IIR_NONE);
    update_line();
    return {};
}

}  // namespace doppel::devices
