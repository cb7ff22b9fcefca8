#include "devices/legacy/acpi_pm.h"

#include <utility>

namespace doppel::devices {
namespace {

constexpr std::uint16_t enable_bits = 0x0720;  // RTC, sleep and power button, global lock
constexpr std::uint16_t control_bits = 0x1c03;  // SLP_TYP, BM_RLD, SCI_EN

std::uint16_t with_byte(std::uint16_t word, std::uint64_t offset, std::uint8_t value)
{
    const unsigned shift = (offset & 1) * 8;
    return static_cast<std::uint16_t>((word & ~(0xffu << shift)) | unsigned{value} << shift);
}
std::uint8_t byte_of(std::uint16_t word, std::uint64_t offset)
{
    return static_cast<std::uint8_t>(word >> ((offset & 1) * 8));
}

}  // namespace

AcpiPm::AcpiPm(bus::InterruptSink& interrupts, const Config& config,
               std::function<void()> power_off)
    : interrupts_(interrupts), config_(config), power_off_(std::move(power_off))
{
}

// ACPI mode from the start: the FADT names no SMI command port to switch it on with.
void AcpiPm::reset()
{
    state_ = {0, 0, SCI_EN, 0, 0};
    update();
}

void AcpiPm::press_power_button()
{
    state_.status |= PWRBTN_STS;
    update();
}

void AcpiPm::raise_gpe(unsigned number)
{
    if (number > 15) return;
    state_.gpe_status = static_cast<std::uint16_t>(state_.gpe_status | 1u << number);
    update();
}

void AcpiPm::update()
{
    const bool events = (state_.status & state_.enable) != 0;
    const bool general = (state_.gpe_status & state_.gpe_enable) != 0;
    interrupts_.set_line(config_.sci, (state_.control & SCI_EN) != 0 && (events || general));
}

std::uint8_t AcpiPm::read_byte(Block::Kind kind, std::uint64_t offset) const
{
    switch (kind) {
    case Block::Kind::control: return byte_of(state_.control, offset);
    case Block::Kind::event: return byte_of(offset < 2 ? state_.status : state_.enable, offset);
    default: return byte_of(offset < 2 ? state_.gpe_status : state_.gpe_enable, offset);
    }
}

void AcpiPm::write_byte(Block::Kind kind, std::uint64_t offset, std::uint8_t value)
{
    const std::uint16_t ones = with_byte(0, offset, value);  // status bits clear by writing one
    switch (kind) {
    case Block::Kind::control: {
        const std::uint16_t word = with_byte(state_.control, offset, value);
        // SLP_EN reads as zero and acts when it is written.
        state_.control = static_cast<std::uint16_t>((word & control_bits) | SCI_EN);
        const bool sleep = (word & SLP_EN) != 0;
        if (sleep && ((word >> 10) & 7) == config_.s5_sleep_type) power_off_();
        break;
    }
    case Block::Kind::event:
        if (offset < 2) {
            state_.status = static_cast<std::uint16_t>(state_.status & ~ones);
        } else {
            state_.enable = with_byte(state_.enable, offset, value) & enable_bits;
        }
        break;
    default:
        if (offset < 2) {
            state_.gpe_status = static_cast<std::uint16_t>(state_.gpe_status & ~ones);
        } else {
            state_.gpe_enable = with_byte(state_.gpe_enable, offset, value);
        }
    }
}

void AcpiPm::Block::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<std::byte>(pm.read_byte(kind, offset + i));
    }
}

void AcpiPm::Block::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    for (std::size_t i = 0; i < data.size(); ++i) {
        pm.write_byte(kind, offset + i, std::to_integer<std::uint8_t>(data[i]));
    }
    pm.update();
}

base::Result<void> AcpiPm::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("acpi_pm", 1));
    if ((state.enable & ~enable_bits) != 0 || (state.control & ~control_bits) != 0) {
        return base::io_error("Saved state of 'acpi_pm' holds impossible values");
    }
    state_ = state;
    update();
    return {};
}

}  // namespace doppel::devices
