#include "machine/virtio_devices.h"

#include "machine/layout.h"

namespace doppel::machine {

using devices::virtio::Frontend;
using devices::virtio::PciTransport;

base::Result<std::unique_ptr<VirtioDevices>> VirtioDevices::create(
    const devices::virtio::Platform& platform, bus::InterruptSink& interrupts,
    devices::PciHost& pci, const std::vector<VirtioSpec>& specs)
{
    std::unique_ptr<VirtioDevices> all{new VirtioDevices};
    all->host_ = &pci;
    for (unsigned i = 0; i < layout::irq::pci_lines; ++i) {
        all->lines_.push_back(
            std::make_unique<devices::SharedLine>(interrupts, layout::irq::pci_first + i));
    }
    for (const VirtioSpec& spec : specs) {
        auto frontend = TRY(Frontend::create(spec.name, platform, spec.make, spec.offered));
        devices::SharedLine& line = *all->lines_[spec.slot % layout::irq::pci_lines];
        all->pci_.push_back(std::make_unique<PciTransport>(
            std::move(frontend),
            devices::virtio::PciWiring{interrupts, line, spec.slot, spec.legacy}));
        pci.attach(spec.slot, 0, *all->pci_.back());
    }
    return all;
}

void VirtioDevices::start()
{
    for (const auto& transport : pci_) transport->frontend().start();
}

void VirtioDevices::stop()
{
    for (const auto& transport : pci_) transport->frontend().stop();
}

void VirtioDevices::place_bars()
{
    std::uint64_t memory = layout::pci_window_start, ports = layout::pci_ports_start;
    for (const auto& transport : pci_) {
        for (unsigned i = 0; i < devices::PciFunction::bar_count; ++i) {
            const auto window = transport->window(i);
            if (window.device == nullptr) continue;
            std::uint64_t& next = window.space == bus::Space::port ? ports : memory;
            next = (next + window.size - 1) & ~(window.size - 1);
            transport->place_bar(i, next);
            next += window.size;
        }
        transport->enable_decoding();
    }
    ASSERT(ports <= 0x10000 && memory <= layout::pci_window_end);
    host_->map_bars();
}

void VirtioDevices::save(base::StateWriter& writer) const
{
    for (const auto& transport : pci_) transport->save(writer);
}

base::Result<void> VirtioDevices::load(const base::StateReader& reader)
{
    for (const auto& transport : pci_) TRY(transport->load(reader));
    host_->map_bars();
    return {};
}

void VirtioDevices::counters(base::CounterList& list) const
{
    for (const auto& transport : pci_) transport->frontend().counters(list);
}

}  // namespace doppel::machine
