#include "machine/pc.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/bytes.h"
#include "devices/irq/interrupt_controllers.h"
#include "devices/legacy/acpi_pm.h"
#include "devices/legacy/i8042.h"
#include "devices/legacy/reset_ports.h"
#include "devices/legacy/uart16550.h"
#include "devices/pci/pci_host.h"
#include "devices/timer/pit.h"
#include "devices/timer/pm_timer.h"
#include "devices/timer/rtc.h"
#include "machine/debug_exit.h"
#include "machine/fw_cfg/boot_items.h"
#include "machine/fw_cfg/fw_cfg.h"
#include "machine/layout.h"
#include "machine/memory_map.h"

namespace doppel::machine {

namespace {

// Every port that a device of the machine has, whether or not the engine serves it.
struct PortRange {
    std::uint64_t start;
    std::uint64_t size;
};
constexpr std::uint64_t pm = layout::port::acpi_pm;
constexpr std::array<PortRange, 17> device_ports{{
    {layout::port::pic_master, 2},
    {layout::port::pic_slave, 2},
    {layout::port::pic_elcr, 2},
    {layout::port::pit, 4},
    {layout::port::system_control_b, 1},
    {layout::port::i8042_data, 1},
    {layout::port::i8042_command, 1},
    {layout::port::rtc, devices::Rtc::port_count},
    {layout::port::system_control_a, 1},
    {layout::port::com1, devices::Uart16550::port_count},
    {layout::port::fw_cfg_selector, FwCfg::port_count},
    {pm + layout::pm1_event, devices::AcpiPm::event_size},
    {pm + layout::pm1_control, devices::AcpiPm::control_size},
    {pm + layout::pm_timer, devices::PmTimer::port_count},
    {pm + layout::gpe0, devices::AcpiPm::gpe0_size},
    {layout::port::pci_config_address, 4},
    {layout::port::pci_config_data, 4},
}};

// Ports from `port` on, 4 at most, that no device has.
std::uint64_t free_ports(std::uint64_t port)
{
    std::uint64_t end = std::min<std::uint64_t>(port + 4, 0x10000);
    for (const auto& [start, size] : device_ports) {
        if (port >= start && port < start + size) return 0;
        if (start > port) end = std::min(end, start);
    }
    return end - port;
}

class PcImpl final : public Pc {
public:
    PcImpl(const PcParts& parts, const PcConfig& config, std::unique_ptr<boot::GuestImage> image,
           PcEvents events);

    base::Result<void> wire(const PcConfig& config);

    bus::Bus& bus() override { return bus_; }
    base::Result<void> restart() override;
    void stop() override { virtio_->stop(); }
    [[nodiscard]] const x86::CpuState& entry() const override { return image_->plan().cpu; }
    void counters(base::CounterList& list) const override;
    void save(base::StateWriter& writer) const override;
    base::Result<void> load(const base::StateReader& reader) override;

private:
    static devices::Rtc::Config rtc_config(const memory::GuestMemory& memory);
    void claim_ports(std::uint64_t start, std::uint64_t size, bus::BusDevice& device);

    PcParts parts_;
    std::unique_ptr<boot::GuestImage> image_;
    PcEvents events_;
    bus::Bus bus_;
    // Null when the engine has interrupt controllers of its own.
    std::unique_ptr<devices::InterruptControllers> controllers_;
    bus::InterruptSink& interrupts_;
    devices::Uart16550 com1_;
    devices::Pit pit_;
    devices::Rtc rtc_;
    devices::PmTimer pm_timer_;
    devices::AcpiPm acpi_pm_;
    devices::I8042 i8042_;
    devices::ResetPorts reset_ports_;
    devices::PciHost pci_;
    std::unique_ptr<VirtioDevices> virtio_;
    FwCfg fw_cfg_;
    DebugExit debug_exit_;
};

std::unique_ptr<devices::InterruptControllers> make_controllers(bus::Bus& bus,
                                                                engine::Engine& engine)
{
    if (engine.interrupt_sink() != nullptr) return nullptr;
    ASSERT(engine.local_interrupts() != nullptr);
    auto controllers =
        std::make_unique<devices::InterruptControllers>(bus, *engine.local_interrupts());
    controllers->claim();
    engine.connect(*controllers);
    return controllers;
}

bus::InterruptSink& sink(devices::InterruptControllers* controllers, engine::Engine& engine)
{
    if (controllers != nullptr) return *controllers;
    return *engine.interrupt_sink();
}

PcImpl::PcImpl(const PcParts& parts, const PcConfig& config,
               std::unique_ptr<boot::GuestImage> image, PcEvents events)
    : parts_(parts),
      image_(std::move(image)),
      events_(std::move(events)),
      controllers_(make_controllers(bus_, parts.engine)),
      interrupts_(sink(controllers_.get(), parts.engine)),
      com1_(bus_, interrupts_, layout::irq::com1, parts.clock, parts.console),
      pit_(bus_, interrupts_, parts.clock),
      rtc_(bus_, interrupts_, parts.clock, rtc_config(parts.memory)),
      pm_timer_(parts.clock, devices::PmTimer::Width::bits_32),
      acpi_pm_(interrupts_, {layout::irq::sci, layout::s5_sleep_type}, events_.power_off),
      i8042_(interrupts_, events_.reset),
      reset_ports_(events_.reset),
      fw_cfg_(parts.memory),
      debug_exit_(events_.debug_exit)
{
    add_boot_items(fw_cfg_, image_->request(), image_->plan(), config.vcpus,
                   parts.memory.ram_size());
}

devices::Rtc::Config PcImpl::rtc_config(const memory::GuestMemory& memory)
{
    const RamSplit ram = split_ram(memory.ram_size());
    return {devices::Rtc::host_utc_seconds(), ram.low, ram.high};
}

void PcImpl::claim_ports(std::uint64_t start, std::uint64_t size, bus::BusDevice& device)
{
    ASSERT(std::any_of(device_ports.begin(), device_ports.end(), [&](const PortRange& range) {
        return range.start == start && range.size == size;
    }));
    bus_.claim(bus::Space::port, start, size, device);
}

base::Result<void> PcImpl::wire(const PcConfig& config)
{
    claim_ports(layout::port::com1, devices::Uart16550::port_count, com1_);
    claim_ports(layout::port::pit, 4, pit_.counter_ports());
    claim_ports(layout::port::system_control_b, 1, pit_.port_b());
    claim_ports(layout::port::rtc, devices::Rtc::port_count, rtc_);
    claim_ports(layout::port::i8042_data, 1, i8042_.data_port());
    claim_ports(layout::port::i8042_command, 1, i8042_.command_port());
    claim_ports(layout::port::system_control_a, 1, reset_ports_.port_a());
    claim_ports(layout::port::acpi_pm + layout::pm1_event, devices::AcpiPm::event_size,
                acpi_pm_.event_block());
    claim_ports(layout::port::acpi_pm + layout::pm1_control, devices::AcpiPm::control_size,
                acpi_pm_.control_block());
    claim_ports(layout::port::acpi_pm + layout::pm_timer, devices::PmTimer::port_count, pm_timer_);
    claim_ports(layout::port::acpi_pm + layout::gpe0, devices::AcpiPm::gpe0_size,
                acpi_pm_.gpe0_block());
    pci_.claim(bus_, layout::port::pci_config_address, layout::ecam_start,
               static_cast<unsigned>(layout::ecam_size / devices::PciHost::ecam_bytes_per_bus),
               reset_ports_.reset_control());
    claim_ports(layout::port::fw_cfg_selector, FwCfg::port_count, fw_cfg_);
    if (config.debug_exit_port) {
        // Four ports, for writes of 4 bytes, or as many as are free.
        const std::uint16_t port = *config.debug_exit_port;
        bus_.claim(bus::Space::port, port, free_ports(port), debug_exit_);
    }
    virtio_ = TRY(VirtioDevices::create({bus_, parts_.memory, parts_.engine.doorbells()},
                                        interrupts_, pci_, config.virtio));
    return {};
}

base::Result<void> PcImpl::restart()
{
    const auto guard = bus_.lock();
    virtio_->start();
    // Before memory, which these write on their own.
    pci_.reset();
    virtio_->reset();
    parts_.memory.clear();
    com1_.reset();
    pit_.reset();
    rtc_.reset();
    pm_timer_.reset();
    acpi_pm_.reset();
    i8042_.reset();
    reset_ports_.reset();
    virtio_->place_bars();
    fw_cfg_.reset();
    // Controllers after the devices, whose reset moves their lines; local APICs last.
    if (controllers_ != nullptr) controllers_->reset();
    parts_.engine.reset();
    return image_->load(parts_.memory);
}

void PcImpl::counters(base::CounterList& list) const
{
    list.add("bus.unclaimed", bus_.unclaimed());
    virtio_->counters(list);
}

void PcImpl::save(base::StateWriter& writer) const
{
    if (controllers_ != nullptr) controllers_->save(writer);
    com1_.save(writer);
    pit_.save(writer);
    rtc_.save(writer);
    acpi_pm_.save(writer);
    i8042_.save(writer);
    reset_ports_.save(writer);
    pci_.save(writer);
    virtio_->save(writer);
    fw_cfg_.save(writer);
}

base::Result<void> PcImpl::load(const base::StateReader& reader)
{
    const auto guard = bus_.lock();
    if (controllers_ != nullptr) TRY(controllers_->load(reader));
    TRY(com1_.load(reader));
    TRY(pit_.load(reader));
    TRY(rtc_.load(reader));
    TRY(acpi_pm_.load(reader));
    TRY(i8042_.load(reader));
    TRY(reset_ports_.load(reader));
    TRY(pci_.load(reader));
    TRY(virtio_->load(reader));
    TRY(fw_cfg_.load(reader));
    return {};
}

}  // namespace

base::Result<std::unique_ptr<memory::GuestMemory>> Pc::create_memory(
    std::uint64_t ram_bytes, std::vector<memory::MemoryFile> files)
{
    std::vector<std::uint64_t> sizes;
    for (const memory::MemoryFile& file : files) sizes.push_back(file.size);
    auto memory = TRY(memory::GuestMemory::create(ram_bytes, std::move(files)));
    const RamSplit ram = split_ram(ram_bytes);
    TRY(memory->add_slot(base::Gpa{0}, ram.low, 0));
    if (ram.high != 0) {
        TRY(memory->add_slot(base::Gpa{layout::high_ram_start}, ram.high, ram.low));
    }
    const std::vector<std::uint64_t> places = file_places(ram_bytes, sizes);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        const auto& view = memory->files()[i];
        TRY(memory->add_slot(base::Gpa{places[i]}, sizes[i], view.offset, view.file.read_only));
    }
    return memory;
}

base::Result<void> Pc::check(const PcConfig& config)
{
    if (config.debug_exit_port && free_ports(*config.debug_exit_port) == 0) {
        return base::usage_error(fmt::format(
            "--debug-exit: port {:#x} belongs to a device of the machine; use a free one, for "
            "example 0xf4",
            *config.debug_exit_port));
    }
    return {};
}

acpi::Topology Pc::topology(const PcConfig& config, std::uint64_t ram_bytes)
{
    const std::uint64_t end = file_places(ram_bytes, config.file_sizes).back();
    return {config.vcpus, true, end == layout::high_ram_start ? 0 : end,
            VirtioDevices::count_mmio(config.virtio)};
}

base::Result<std::unique_ptr<Pc>> Pc::create(const PcParts& parts, const PcConfig& config,
                                             std::unique_ptr<boot::GuestImage> image,
                                             PcEvents events)
{
    TRY(check(config));
    auto pc = std::make_unique<PcImpl>(parts, config, std::move(image), std::move(events));
    TRY(pc->wire(config));
    return std::unique_ptr<Pc>{std::move(pc)};
}

}  // namespace doppel::machine
