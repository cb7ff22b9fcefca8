// The PC's interrupt controllers as one: ISA IRQs go to the PIC and to the I/O APIC, as
// on every board since the MP specification (IRQ 0 at I/O APIC pin 2).
//
// Threads: set_line() and send_msi() with the device lock held; acknowledge() and
// end_of_interrupt() without it, they take it. LocalInterrupts is called with the device
// lock held, so an engine must not take its local APIC's lock and then the device lock.
#pragma once

#include <cstdint>

#include "bus/bus.h"
#include "bus/interrupts.h"
#include "devices/irq/ioapic.h"
#include "devices/irq/pic.h"

namespace doppel::devices {

class InterruptControllers final : public bus::InterruptSink, public bus::InterruptSource {
public:
    InterruptControllers(bus::Bus& bus, bus::LocalInterrupts& local);

    // Claims the PIC's ports and the I/O APIC's page.
    void claim();

    void set_line(unsigned gsi, bool level) noexcept override;
    void send_msi(const bus::Msi& message) noexcept override;
    std::uint8_t acknowledge() noexcept override;
    void end_of_interrupt(std::uint8_t vector) noexcept override;

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    [[nodiscard]] Pic& pic() { return pic_; }
    [[nodiscard]] IoApic& ioapic() { return ioapic_; }

private:
    bus::Bus& bus_;
    bus::LocalInterrupts& local_;
    Pic pic_;
    IoApic ioapic_;
};

}  // namespace doppel::devices
