#include "devices/virtio/transport/pci.h"

#include <algorithm>

#include "base/bytes.h"
#include "devices/virtio/transport/pci_layout.h"

namespace doppel::devices::virtio {

namespace {

constexpr unsigned status_offset = 0x06, capabilities_offset = 0x34, interrupt_pin_offset = 0x3d;
constexpr std::uint16_t command_intx_disable = 0x400;
constexpr std::uint8_t status_interrupt = 8, status_capabilities = 0x10;
constexpr std::uint8_t isr_queue = 1, isr_config = 2;

// Where the capabilities are in config space.
constexpr unsigned msix_at = 0x40, common_at = 0x50, notify_at = 0x60, isr_at = 0x74,
                   device_at = 0x84, window_at = 0x94, window_data = window_at + 16;
enum class CapabilityType : std::uint8_t { common = 1, notify = 2, isr = 3, device = 4, window = 5 };

// Section 4.1.2.1: types that had a legacy interface have an identifier for both.
std::uint16_t transitional_id(DeviceId id)
{
    switch (id) {
    case DeviceId::network: return 0x1000;
    case DeviceId::block: return 0x1001;
    case DeviceId::balloon: return 0x1002;
    case DeviceId::console: return 0x1003;
    case DeviceId::scsi_host: return 0x1004;
    case DeviceId::entropy: return 0x1005;
    default: return 0;
    }
}

bool offers_legacy(const Frontend& frontend, bool wanted)
{
    // A legacy driver cannot know of the platform's addresses.
    return wanted && transitional_id(frontend.identity().id) != 0 &&
           (frontend.offered() & VIRTIO_F_ACCESS_PLATFORM) == 0;
}

PciIdentity pci_identity(const Frontend& frontend, bool legacy)
{
    constexpr std::uint16_t red_hat = 0x1af4, modern_base = 0x1040;
    const auto id = static_cast<std::uint16_t>(frontend.identity().id);
    const std::uint32_t pci_class = frontend.identity().pci_class;
    if (legacy) return {red_hat, transitional_id(frontend.identity().id), pci_class, 0, red_hat, id};
    const auto modern = static_cast<std::uint16_t>(modern_base + id);
    return {red_hat, modern, pci_class, 1, red_hat, modern};
}

// One for each queue and one for changes of the configuration.
unsigned vectors(const Frontend& frontend)
{
    return frontend.queue_count() + 1;
}

}  // namespace

PciTransport::PciTransport(std::unique_ptr<Frontend> frontend, const PciWiring& wiring)
    : PciFunction(frontend->name(),
                  pci_identity(*frontend, offers_legacy(*frontend, wiring.legacy))),
      frontend_(std::move(frontend)),
      wiring_(wiring),
      msix_(wiring.interrupts, vectors(*frontend_))
{
    wiring_.legacy = offers_legacy(*frontend_, wiring.legacy);
    if (wiring_.legacy) define_io_bar(0, pci_layout::legacy_size, legacy_);
    define_memory_bar(1, Msix::bar_size, false, false, msix_);
    define_memory_bar(4, pci_layout::modern_size, true, true, modern_);
    define_capabilities();
    transport_reset();
    frontend_->connect(*this);
}

PciTransport::~PciTransport()
{
    frontend_.reset();  // while what it connects to is still there
}

void PciTransport::define_capabilities()
{
    define_register(status_offset, 2, status_capabilities, 0);
    define_register(capabilities_offset, 1, msix_at, 0);
    define_register(interrupt_pin_offset, 1, 1, 0);

    constexpr std::uint8_t msix_id = 0x11, vendor_id = 9;
    define_register(msix_at, 2, msix_id | (common_at << 8), 0);
    define_register(msix_at + 2, 2, msix_.vectors() - 1,
                    Msix::control_enable | Msix::control_mask_all);
    define_register(msix_at + 4, 4, 1, 0);                          // BAR 1
    define_register(msix_at + 8, 4, Msix::pending_offset | 1, 0);

    const auto capability = [&](unsigned at, unsigned next, unsigned size, CapabilityType type,
                                std::uint32_t offset, std::uint32_t length) {
        define_register(at, 4,
                        vendor_id | next << 8 | size << 16 | static_cast<unsigned>(type) << 24, 0);
        define_register(at + 4, 4, 4, 0);  // BAR 4
        define_register(at + 8, 4, offset, 0);
        define_register(at + 12, 4, length, 0);
    };
    using namespace pci_layout;
    capability(common_at, notify_at, 16, CapabilityType::common, common_offset, common_size);
    capability(notify_at, isr_at, 20, CapabilityType::notify, notify_offset, part_size);
    define_register(notify_at + 16, 4, notify_multiplier, 0);
    capability(isr_at, device_at, 16, CapabilityType::isr, isr_offset, part_size);
    capability(device_at, window_at, 16, CapabilityType::device, device_offset, part_size);
    capability(window_at, 0, 20, CapabilityType::window, 0, 0);
    define_register(window_at + 4, 4, 0, 0xff);
    define_register(window_at + 8, 4, 0, 0xffffffff);
    define_register(window_at + 12, 4, 0, 0xffffffff);
    define_register(window_data, 4, 0, 0xffffffff);
}

void PciTransport::transport_reset() noexcept
{
    state_ = {};
    state_.config_vector = VIRTIO_MSI_NO_VECTOR;
    update_line();
}

void PciTransport::reset()
{
    frontend_->reset();
    msix_.reset();
    PciFunction::reset();
    transport_reset();
}

void PciTransport::mapping_changed() noexcept
{
    frontend_->move_doorbells();
}

std::optional<bus::DoorbellAddress> PciTransport::doorbell_address(unsigned queue) const
{
    if (state_.legacy_driver != 0) {
        const std::uint64_t ports = bar_address(0);
        if (ports == 0) return std::nullopt;
        return bus::DoorbellAddress{bus::Space::port, ports + pci_layout::legacy_notify, 2, queue};
    }
    const std::uint64_t bar = bar_address(4);
    if (bar == 0) return std::nullopt;
    const std::uint64_t offset = pci_layout::notify_offset + queue * pci_layout::notify_multiplier;
    return bus::DoorbellAddress{bus::Space::memory, bar + offset, 2, std::nullopt};
}

void PciTransport::interrupt(std::uint64_t queues, bool config) noexcept
{
    if (!msix_.enabled()) {
        if (queues != 0) state_.isr |= isr_queue;
        if (config) state_.isr |= isr_config;
        update_line();
        return;
    }
    std::uint64_t raised = 0;  // several queues may share a vector
    const auto raise = [&](std::uint16_t vector) {
        if (vector >= Msix::most_vectors || (raised >> vector & 1) != 0) return;
        raised |= std::uint64_t{1} << vector;
        msix_.raise(vector);
    };
    for (unsigned i = 0; i < frontend_->queue_count(); ++i) {
        if ((queues >> i & 1) != 0) raise(frontend_->queue(i).vector);
    }
    if (config) raise(state_.config_vector);
}

void PciTransport::update_line() noexcept
{
    wiring_.line.set(wiring_.slot, state_.isr != 0 && !msix_.enabled() &&
                                       (command() & command_intx_disable) == 0);
}

std::uint8_t PciTransport::take_isr() noexcept
{
    const std::uint8_t isr = std::exchange(state_.isr, std::uint8_t{0});
    update_line();
    return isr;
}

std::uint16_t PciTransport::checked_vector(std::uint64_t vector) const
{
    return vector < msix_.vectors() ? static_cast<std::uint16_t>(vector) : VIRTIO_MSI_NO_VECTOR;
}

bool PciTransport::in_window(unsigned offset, std::size_t size) const
{
    return offset + size > window_data && offset < window_data + 4;
}

// Section 4.1.4.9. Nothing where the fields name no register.
bus::BusDevice* PciTransport::window_target(std::uint64_t& offset, std::size_t& size)
{
    const unsigned bar = dword(window_at + 4) & 0xff;
    offset = dword(window_at + 8);
    size = dword(window_at + 12);
    if (bar >= bar_count || (size != 1 && size != 2 && size != 4) || offset % size != 0) {
        return nullptr;
    }
    const Window target = window(bar);
    return offset + size <= target.size ? target.device : nullptr;
}

void PciTransport::read_config(unsigned offset, std::span<std::byte> data) noexcept
{
    std::uint64_t at = 0;
    std::size_t size = 0;
    bus::BusDevice* target =
        in_window(offset, data.size()) ? window_target(at, size) : nullptr;
    if (target != nullptr) {
        std::array<std::byte, 4> value{};
        target->read(at, std::span{value}.first(size));
        PciFunction::write_config(window_data, value);
    }
    PciFunction::read_config(offset, data);
    if (offset <= status_offset && offset + data.size() > status_offset && state_.isr != 0) {
        data[status_offset - offset] |= std::byte{status_interrupt};
    }
}

void PciTransport::write_config(unsigned offset, std::span<const std::byte> data) noexcept
{
    PciFunction::write_config(offset, data);
    const auto control = static_cast<std::uint16_t>(dword(msix_at) >> 16);
    if (offset < msix_at + 4 && offset + data.size() > msix_at) msix_.set_control(control);
    update_line();
    if (!in_window(offset, data.size())) return;
    std::uint64_t at = 0;
    std::size_t size = 0;
    if (bus::BusDevice* target = window_target(at, size)) {
        std::array<std::byte, 4> value{};
        base::store_bytes(value, dword(window_data));
        target->write(at, std::span<const std::byte>{value}.first(size));
    }
}

void PciTransport::save(base::StateWriter& writer)
{
    PciFunction::save(writer);
    msix_.save(writer, frontend_->name() + ".msix");
    writer.section(frontend_->name() + ".pci", 1, state_);
    frontend_->save(writer);
}

base::Result<void> PciTransport::load(const base::StateReader& reader)
{
    const State loaded = TRY(reader.section_as<State>(frontend_->name() + ".pci", 1));
    const bool vector_exists = loaded.config_vector < msix_.vectors() ||
                               loaded.config_vector == VIRTIO_MSI_NO_VECTOR;
    if (!vector_exists || loaded.isr > 3 || loaded.legacy_driver > 1 ||
        (loaded.legacy_driver != 0 && !wiring_.legacy)) {
        return base::io_error("Saved state of '" + frontend_->name() + ".pci' is impossible");
    }
    reset();
    TRY(PciFunction::load(reader));
    TRY(msix_.load(reader, frontend_->name() + ".msix",
                   static_cast<std::uint16_t>(dword(msix_at) >> 16)));
    state_ = loaded;
    TRY(frontend_->load(reader));
    update_line();
    return {};
}

}  // namespace doppel::devices::virtio
