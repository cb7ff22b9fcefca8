#include "machine/virtio_devices.h"

#include <algorithm>

#include "machine/layout.h"

namespace doppel::machine {

using devices::virtio::Frontend;
using devices::virtio::MmioTransport;
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
    for (unsigned i = 0; i < layout::irq::virtio_mmio_lines; ++i) {
        all->mmio_lines_.push_back(
            std::make_unique<devices::SharedLine>(interrupts, layout::irq::virtio_mmio_first + i));
    }
    for (const VirtioSpec& spec : specs) {
        auto frontend = TRY(Frontend::create(spec.name, platform, spec.make, spec.offered));
        if (spec.transport == VirtioSpec::Transport::mmio) {
            const auto index = static_cast<unsigned>(all->mmio_.size());
            const std::uint64_t address =
                layout::virtio_mmio_start + index * layout::virtio_mmio_size;
            devices::SharedLine& own = *all->mmio_lines_[index % layout::irq::virtio_mmio_lines];
            all->mmio_.push_back(
                std::make_unique<MmioTransport>(std::move(frontend), own, index, address));
            platform.bus.claim(bus::Space::memory, address, MmioTransport::window_size,
                               *all->mmio_.back());
            continue;
        }
        devices::SharedLine& line = *all->lines_[spec.slot % layout::irq::pci_lines];
        all->pci_.push_back(std::make_unique<PciTransport>(
            std::move(frontend),
            devices::virtio::PciWiring{interrupts, line, spec.slot, spec.legacy}));
        pci.attach(spec.slot, 0, *all->pci_.back());
    }
    return all;
}

unsigned VirtioDevices::count_mmio(const std::vector<VirtioSpec>& specs)
{
    return static_cast<unsigned>(std::count_if(specs.begin(), specs.end(), [](const auto& spec) {
        return spec.transport == VirtioSpec::Transport::mmio;
    }));
}

std::vector<Frontend*> VirtioDevices::frontends() const
{
    std::vector<Frontend*> all;
    for (const auto& transport : pci_) all.push_back(&transport->frontend());
    for (const auto& transport : mmio_) all.push_back(&transport->frontend());
    return all;
}

void VirtioDevices::reset()
{
    for (const auto& transport : mmio_) transport->reset();
}

void VirtioDevices::start()
{
    for (Frontend* frontend : frontends()) frontend->start();
}

void VirtioDevices::stop()
{
    for (Frontend* frontend : frontends()) frontend->stop();
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
    for (const auto& transport : mmio_) transport->save(writer);
}

base::Result<void> VirtioDevices::load(const base::StateReader& reader)
{
    for (const auto& transport : pci_) TRY(transport->load(reader));
    host_->map_bars();
    for (const auto& transport : mmio_) TRY(transport->load(reader));
    return {};
}

void VirtioDevices::counters(base::CounterList& list) const
{
    for (const Frontend* frontend : frontends()) frontend->counters(list);
}

}  // namespace doppel::machine
