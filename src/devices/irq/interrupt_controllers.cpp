#include "devices/irq/interrupt_controllers.h"

namespace doppel::devices {

InterruptControllers::InterruptControllers(bus::Bus& bus, bus::LocalInterrupts& local)
    : bus_(bus),
      local_(local),
      pic_([&local](bool level) { local.set_external_interrupt(level); }),
      ioapic_(local)
{
}

void InterruptControllers::claim()
{
    bus_.claim(bus::Space::port, 0x20, 2, pic_.master_ports());
    bus_.claim(bus::Space::port, 0xa0, 2, pic_.slave_ports());
    bus_.claim(bus::Space::port, 0x4d0, 2, pic_.elcr_ports());
    bus_.claim(bus::Space::memory, IoApic::default_address, IoApic::window_size, ioapic_);
}

void InterruptControllers::set_line(unsigned gsi, bool level) noexcept
{
    if (gsi < 16) pic_.set_line(gsi, level);
    // Pin 0 is the PIC's output on real boards; pin 2 is the timer.
    if (gsi == 2) return;
    ioapic_.set_pin(gsi == 0 ? 2 : gsi, level);
}

void InterruptControllers::send_msi(const bus::Msi& message) noexcept
{
    local_.deliver(message);
}

std::uint8_t InterruptControllers::acknowledge() noexcept
{
    const auto guard = bus_.lock();
    return pic_.acknowledge();
}

void InterruptControllers::end_of_interrupt(std::uint8_t vector) noexcept
{
    const auto guard = bus_.lock();
    ioapic_.end_of_interrupt(vector);
}

void InterruptControllers::reset()
{
    pic_.reset();
    ioapic_.reset();
}

void InterruptControllers::save(base::StateWriter& writer) const
{
    pic_.save(writer);
    ioapic_.save(writer);
}

base::Result<void> InterruptControllers::load(const base::StateReader& reader)
{
    TRY(pic_.load(reader));
    return ioapic_.load(reader);
}

}  // namespace doppel::devices
