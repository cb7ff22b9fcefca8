// The legacy registers. Virtio 1.2, sections 2.7.2 and 4.1.4.10.
#include <algorithm>

#include "base/bytes.h"
#include "devices/virtio/queue/descriptor.h"
#include "devices/virtio/transport/pci.h"
#include "devices/virtio/transport/pci_layout.h"

namespace doppel::devices::virtio {

namespace {

enum LegacyOffset : std::uint64_t {
    device_features = 0,
    guest_features = 4,
    queue_address = 8,  // in pages
    queue_size = 12,
    queue_select = 14,
    queue_notify = pci_layout::legacy_notify,
    device_status = 18,
    isr_status = 19,
    config_msix_vector = 20,  // these two only while MSI-X is enabled
    queue_msix_vector = 22,
};
constexpr unsigned queue_alignment = 4096;

}  // namespace

std::array<std::byte, 24> PciTransport::legacy_registers() const
{
    std::array<std::byte, 24> image{};
    const auto put = [&](std::uint64_t at, auto value) { base::store_le(image.data() + at, value); };
    const Frontend::QueueRegisters& queue = frontend_->queue(state_.queue_select);
    put(device_features, static_cast<std::uint32_t>(frontend_->offered(0) | VIRTIO_F_ANY_LAYOUT));
    put(guest_features, frontend_->accepted(0));
    put(queue_address, static_cast<std::uint32_t>(
                           queue.enabled != 0 ? queue.descriptors / queue_alignment : 0));
    put(queue_size, frontend_->largest(state_.queue_select));
    put(queue_select, state_.queue_select);
    put(device_status, frontend_->status());
    put(isr_status, state_.isr);
    put(config_msix_vector, state_.config_vector);
    put(queue_msix_vector, queue.vector);
    return image;
}

void PciTransport::read_legacy(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    std::fill(data.begin(), data.end(), std::byte{0});
    const std::size_t config = legacy_config_offset();
    if (offset >= config) return frontend_->read_config(offset - config, data);
    if (offset + data.size() > config) return;
    const auto image = legacy_registers();
    std::copy_n(image.begin() + static_cast<std::ptrdiff_t>(offset), data.size(), data.begin());
    if (offset <= isr_status && offset + data.size() > isr_status) static_cast<void>(take_isr());
}

void PciTransport::place_legacy_queue(std::uint32_t page)
{
    const unsigned queue = state_.queue_select;
    if (page == 0) return frontend_->set_queue_enabled(queue, false);
    const std::uint16_t size = frontend_->largest(queue);
    RingAddress address{size, std::uint64_t{page} * queue_alignment, 0, 0};
    address.driver = address.descriptors + size * sizeof(SplitDescriptor);
    const std::uint64_t end = address.driver + 2 * (3 + std::uint64_t{size});
    address.device = (end + queue_alignment - 1) / queue_alignment * queue_alignment;
    frontend_->set_queue_size(queue, size);
    frontend_->set_queue_addresses(queue, address);
    frontend_->set_queue_enabled(queue, true);
}

void PciTransport::write_legacy(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    const std::uint64_t value = base::load_bytes(data);
    const std::size_t config = legacy_config_offset();
    if (offset >= config) return frontend_->write_config(offset - config, data);
    if (data.size() == 4 && offset == guest_features) {
        frontend_->accept(0, static_cast<std::uint32_t>(value));
    } else if (data.size() == 4 && offset == queue_address) {
        place_legacy_queue(static_cast<std::uint32_t>(value));
    } else if (data.size() == 2 && offset == queue_select) {
        state_.queue_select = static_cast<std::uint16_t>(value);
    } else if (data.size() == 2 && offset == queue_notify) {
        frontend_->ring(static_cast<unsigned>(value));
    } else if (data.size() == 1 && offset == device_status) {
        if (value == 0) transport_reset();
        state_.legacy_driver = value == 0 ? 0 : 1;
        frontend_->set_status(static_cast<std::uint8_t>(value), Frontend::Interface::legacy);
    } else if (data.size() == 2 && offset == config_msix_vector) {
        state_.config_vector = checked_vector(value);
    } else if (data.size() == 2 && offset == queue_msix_vector) {
        frontend_->set_queue_vector(state_.queue_select, checked_vector(value));
    }
}

}  // namespace doppel::devices::virtio
