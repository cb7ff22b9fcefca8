// The modern registers. Virtio 1.2, sections 4.1.4.3 to 4.1.4.6.
#include <algorithm>

#include "base/bytes.h"
#include "devices/virtio/transport/pci.h"
#include "devices/virtio/transport/pci_layout.h"

namespace doppel::devices::virtio {

namespace {

// struct virtio_pci_common_cfg.
enum CommonOffset : std::uint64_t {
    device_feature_select = 0x00,
    device_feature = 0x04,
    driver_feature_select = 0x08,
    driver_feature = 0x0c,
    config_msix_vector = 0x10,
    num_queues = 0x12,
    device_status = 0x14,
    config_generation = 0x15,
    queue_select = 0x16,
    queue_size = 0x18,
    queue_msix_vector = 0x1a,
    queue_enable = 0x1c,
    queue_notify_off = 0x1e,
    queue_desc = 0x20,
    queue_driver = 0x28,
    queue_device = 0x30,
};

}  // namespace

std::array<std::byte, PciTransport::common_size> PciTransport::common() const
{
    std::array<std::byte, common_size> image{};
    const auto put = [&](std::uint64_t at, auto value) { base::store_le(image.data() + at, value); };
    const Frontend::QueueRegisters& queue = frontend_->queue(state_.queue_select);
    put(device_feature_select, state_.offered_select);
    put(device_feature, frontend_->offered(state_.offered_select));
    put(driver_feature_select, state_.accepted_select);
    put(driver_feature, frontend_->accepted(state_.accepted_select));
    put(config_msix_vector, state_.config_vector);
    put(num_queues, static_cast<std::uint16_t>(frontend_->queue_count()));
    put(device_status, frontend_->status());
    put(config_generation, frontend_->config_generation());
    put(queue_select, state_.queue_select);
    put(queue_size, queue.size);
    put(queue_msix_vector, queue.vector);
    put(queue_enable, std::uint16_t{queue.enabled});
    put(queue_notify_off, state_.queue_select);
    put(queue_desc, queue.descriptors);
    put(queue_driver, queue.driver);
    put(queue_device, queue.device);
    return image;
}

void PciTransport::read_modern(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    using namespace pci_layout;
    std::fill(data.begin(), data.end(), std::byte{0});
    if (offset < isr_offset) {
        if (offset + data.size() > common_size) return;
        const auto image = common();
        std::copy_n(image.begin() + static_cast<std::ptrdiff_t>(offset), data.size(), data.begin());
    } else if (offset < device_offset) {
        if (offset == isr_offset) base::store_bytes(data, take_isr());
    } else if (offset < notify_offset) {
        frontend_->read_config(offset - device_offset, data);
    }
}

void PciTransport::write_modern(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    using namespace pci_layout;
    if (offset < isr_offset) {
        write_common(offset, data);
    } else if (offset >= notify_offset) {
        if (offset % notify_multiplier != 0) return;
        frontend_->ring(static_cast<unsigned>((offset - notify_offset) / notify_multiplier));
    } else if (offset >= device_offset) {
        frontend_->write_config(offset - device_offset, data);
    }
}

void PciTransport::write_common(std::uint64_t offset, std::span<const std::byte> data)
{
    const std::uint64_t value = base::load_bytes(data);
    const auto value32 = static_cast<std::uint32_t>(value);
    if (data.size() == 4 && offset == device_feature_select) {
        state_.offered_select = value32;
    } else if (data.size() == 4 && offset == driver_feature_select) {
        state_.accepted_select = value32;
    } else if (data.size() == 4 && offset == driver_feature) {
        frontend_->accept(state_.accepted_select, value32);
    } else if (data.size() == 2 && offset == config_msix_vector) {
        state_.config_vector = checked_vector(value);
    } else if (data.size() == 1 && offset == device_status) {
        if (value == 0) transport_reset();
        state_.legacy_driver = 0;
        frontend_->set_status(static_cast<std::uint8_t>(value), Frontend::Interface::modern);
    } else if (data.size() == 2 && offset == queue_select) {
        state_.queue_select = static_cast<std::uint16_t>(value);
    } else {
        write_queue(offset, data);
    }
}

void PciTransport::write_queue(std::uint64_t offset, std::span<const std::byte> data)
{
    const std::uint64_t value = base::load_bytes(data);
    const unsigned queue = state_.queue_select;
    if (offset >= queue_desc && offset < common_size) {
        if (offset % 4 != 0 || data.size() < 4 || offset + data.size() > queue_device + 8) return;
        using Area = Frontend::Area;
        const auto set = [&](std::uint64_t at, std::uint64_t half) {
            const Area area = at < queue_driver   ? Area::descriptors
                              : at < queue_device ? Area::driver
                                                  : Area::device;
            frontend_->set_queue_address(
                queue, area, at % 8 == 0 ? Frontend::Half::low : Frontend::Half::high,
                static_cast<std::uint32_t>(half));
        };
        set(offset, value);
        if (data.size() == 8) set(offset + 4, value >> 32);
        return;
    }
    if (data.size() != 2) return;
    switch (offset) {
    case queue_size: frontend_->set_queue_size(queue, static_cast<std::uint16_t>(value)); break;
    case queue_msix_vector: frontend_->set_queue_vector(queue, checked_vector(value)); break;
    // Only a reset of the device takes it back.
    case queue_enable:
        if (value == 1) frontend_->set_queue_enabled(queue, true);
        break;
    default: break;
    }
}

}  // namespace doppel::devices::virtio
