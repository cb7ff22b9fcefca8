#include "devices/legacy/reset_ports.h"

#include "base/bytes.h"

namespace doppel::devices {
namespace {

constexpr std::uint8_t fast_reset = 0x01;
constexpr std::uint8_t fast_a20 = 0x02;
constexpr std::uint8_t RST_CPU = 0x04;
constexpr std::uint8_t reset_control_bits = 0x0e;  // FULL_RST, RST_CPU, SYS_RST

}  // namespace

void ResetPorts::read_port_a(std::uint64_t, std::span<std::byte> data) noexcept
{
    base::store_bytes(data, state_.port_a);
}

void ResetPorts::write_port_a(std::uint64_t, std::span<const std::byte> data) noexcept
{
    const auto value = std::to_integer<std::uint8_t>(data[0]);
    const bool rises = (value & fast_reset) != 0 && (state_.port_a & fast_reset) == 0;
    state_.port_a = value & (fast_reset | fast_a20);
    if (rises) reset_machine_();
}

void ResetPorts::read_reset_control(std::uint64_t, std::span<std::byte> data) noexcept
{
    base::store_bytes(data, state_.reset_control);
}

void ResetPorts::write_reset_control(std::uint64_t, std::span<const std::byte> data) noexcept
{
    const auto value = std::to_integer<std::uint8_t>(data[0]);
    const bool rises = (value & RST_CPU) != 0 && (state_.reset_control & RST_CPU) == 0;
    state_.reset_control = value & reset_control_bits;
    if (rises) reset_machine_();
}

base::Result<void> ResetPorts::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("reset_ports", 1));
    if ((state.port_a & ~3) != 0 || (state.reset_control & ~reset_control_bits) != 0) {
        return base::io_error("Saved state of 'reset_ports' holds impossible values");
    }
    state_ = state;
    return {};
}

}  // namespace doppel::devices
