// How interrupts travel between devices, interrupt controllers and vCPUs.
//
//   device ──set_line/send_msi──▶ InterruptSink
//                                   │ kvm: in-kernel PIC, I/O APIC and local APICs
//                                   │ else: devices/irq ──▶ LocalInterrupts (engine)
//   vCPU ──acknowledge/end_of_interrupt──▶ InterruptSource (devices/irq)
#pragma once

#include <cstdint>

namespace doppel::bus {

// An interrupt message, as PCI MSI writes it (SDM volume 3 section 11.11).
struct Msi {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
    bool operator==(const Msi&) const = default;
};

// What a device sees. Called with the device lock held, from any thread.
class InterruptSink {
public:
    virtual ~InterruptSink() = default;
    // gsi 0-15 are ISA IRQs (0 is also I/O APIC pin 2), 16-23 the other I/O APIC pins.
    virtual void set_line(unsigned gsi, bool level) noexcept = 0;
    virtual void send_msi(const Msi& message) noexcept = 0;
};

// An engine's local APICs, as the PIC and the I/O APIC see them. Any thread.
class LocalInterrupts {
public:
    virtual ~LocalInterrupts() = default;
    // I/O APIC or MSI message. level_triggered asks for an end_of_interrupt() call.
    virtual void deliver(const Msi& message) noexcept = 0;
    // The PIC's INTR output, wired to LINT0 of the bootstrap processor.
    virtual void set_external_interrupt(bool level) noexcept = 0;
    virtual void inject_nmi() noexcept = 0;
};

// The PIC and I/O APIC, as an engine's local APICs see them. Called from vCPU threads
// without the device lock; the implementation takes it.
class InterruptSource {
public:
    virtual ~InterruptSource() = default;
    // INTA cycle: the vector of the PIC's highest request; spurious when there is none.
    virtual std::uint8_t acknowledge() noexcept = 0;
    // A local APIC was told EOI for a level-triggered vector.
    virtual void end_of_interrupt(std::uint8_t vector) noexcept = 0;
};

}  // namespace doppel::bus
