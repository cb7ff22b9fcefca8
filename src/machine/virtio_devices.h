// The machine's virtio devices: on PCI slots of the root bus, or in windows of their own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/counters.h"
#include "base/result.h"
#include "base/state/state_stream.h"
#include "devices/pci/pci_host.h"
#include "devices/pci/shared_line.h"
#include "devices/virtio/transport/frontend.h"
#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"

namespace doppel::machine {

// One device to build. What it is, only `make` knows.
struct VirtioSpec {
    std::string name;  // unique
    devices::virtio::DeviceFactory make;
    // A mask. Without an IOMMU there is nothing that the platform would do to addresses.
    devices::virtio::Features offered = ~devices::virtio::VIRTIO_F_ACCESS_PLATFORM;
    enum class Transport { pci, mmio };
    Transport transport = Transport::pci;
    unsigned slot = 0;   // on the root bus; free
    bool legacy = true;  // with the interface of before Virtio 1.0, if the type has one
};

// Threads: as PciHost; start() and stop() while no vCPU runs.
class VirtioDevices {
public:
    static base::Result<std::unique_ptr<VirtioDevices>> create(
        const devices::virtio::Platform& platform, bus::InterruptSink& interrupts,
        devices::PciHost& pci, const std::vector<VirtioSpec>& specs);

    // Those of them with a window of their own, for the ACPI tables.
    [[nodiscard]] static unsigned count_mmio(const std::vector<VirtioSpec>& specs);

    // All but those on PCI, which PciHost resets.
    void reset();
    // Their threads.
    void start();
    void stop();
    // As firmware does it: all BARs into the PCI windows. After PciHost::reset().
    void place_bars();

    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);
    void counters(base::CounterList& list) const;

private:
    VirtioDevices() = default;
    [[nodiscard]] std::vector<devices::virtio::Frontend*> frontends() const;

    devices::PciHost* host_ = nullptr;
    std::vector<std::unique_ptr<devices::SharedLine>> lines_;  // INTA# to INTD# of slot 0
    std::vector<std::unique_ptr<devices::SharedLine>> mmio_lines_;
    std::vector<std::unique_ptr<devices::virtio::PciTransport>> pci_;
    std::vector<std::unique_ptr<devices::virtio::MmioTransport>> mmio_;
};

}  // namespace doppel::machine
