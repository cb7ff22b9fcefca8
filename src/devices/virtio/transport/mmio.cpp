#include "devices/virtio/transport/mmio.h"

#include <algorithm>

#include "base/bytes.h"

namespace doppel::devices::virtio {

namespace {

// Section 4.2.2, in its names.
enum Register : std::uint64_t {
    MagicValue = 0x000,
    Version = 0x004,
    DeviceID = 0x008,
    VendorID = 0x00c,
    DeviceFeatures = 0x010,
    DeviceFeaturesSel = 0x014,
    DriverFeatures = 0x020,
    DriverFeaturesSel = 0x024,
    QueueSel = 0x030,
    QueueNumMax = 0x034,
    QueueNum = 0x038,
    QueueReady = 0x044,
    QueueNotify = 0x050,
    InterruptStatus = 0x060,
    InterruptACK = 0x064,
    Status = 0x070,
    QueueDescLow = 0x080,
    QueueDescHigh = 0x084,
    QueueDriverLow = 0x090,
    QueueDriverHigh = 0x094,
    QueueDeviceLow = 0x0a0,
    QueueDeviceHigh = 0x0a4,
    SHMLenLow = 0x0b0,
    SHMBaseHigh = 0x0bc,
    ConfigGeneration = 0x0fc,
    Config = 0x100,
};
constexpr std::uint32_t magic = 0x74726976, version = 2, vendor = 0x1af4;
constexpr std::uint32_t interrupt_queue = 1, interrupt_config = 2;

}  // namespace

MmioTransport::MmioTransport(std::unique_ptr<Frontend> frontend, SharedLine& line, unsigned user,
                             std::uint64_t address)
    : frontend_(std::move(frontend)), line_(line), user_(user), address_(address)
{
    frontend_->connect(*this);
}

MmioTransport::~MmioTransport()
{
    frontend_.reset();  // while what it connects to is still there
}

void MmioTransport::reset()
{
    frontend_->reset();
    state_ = {};
    update_line();
}

void MmioTransport::interrupt(std::uint64_t queues, bool config) noexcept
{
    if (queues != 0) state_.interrupt_status |= interrupt_queue;
    if (config) state_.interrupt_status |= interrupt_config;
    update_line();
}

std::optional<bus::DoorbellAddress> MmioTransport::doorbell_address(unsigned queue) const
{
    return bus::DoorbellAddress{bus::Space::memory, address_ + QueueNotify, 4, queue};
}

std::uint32_t MmioTransport::read_register(std::uint64_t offset) const
{
    const Frontend::QueueRegisters& queue = frontend_->queue(state_.queue_select);
    switch (offset) {
    case MagicValue: return magic;
    case Version: return version;
    case DeviceID: return static_cast<std::uint32_t>(frontend_->identity().id);
    case VendorID: return vendor;
    case DeviceFeatures: return frontend_->offered(state_.offered_select);
    case QueueNumMax: return frontend_->largest(state_.queue_select);
    case QueueReady: return queue.enabled;
    case InterruptStatus: return state_.interrupt_status;
    case Status: return frontend_->status();
    case ConfigGeneration: return frontend_->config_generation();
    default:
        // No shared memory: its length and address are all ones.
        return offset >= SHMLenLow && offset <= SHMBaseHigh ? 0xffffffff : 0;
    }
}

void MmioTransport::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    if (offset >= Config) return frontend_->read_config(offset - Config, data);
    std::fill(data.begin(), data.end(), std::byte{0});
    if (data.size() == 4 && offset % 4 == 0) base::store_bytes(data, read_register(offset));
}

void MmioTransport::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    if (offset >= Config) return frontend_->write_config(offset - Config, data);
    if (data.size() != 4 || offset % 4 != 0) return;
    write_register(offset, static_cast<std::uint32_t>(base::load_bytes(data)));
}

void MmioTransport::write_register(std::uint64_t offset, std::uint32_t value)
{
    switch (offset) {
    case DeviceFeaturesSel: state_.offered_select = value; break;
    case DriverFeatures: frontend_->accept(state_.accepted_select, value); break;
    case DriverFeaturesSel: state_.accepted_select = value; break;
    case QueueSel: state_.queue_select = value; break;
    case QueueNotify: frontend_->ring(value); break;
    case InterruptACK:
        state_.interrupt_status &= ~value;
        update_line();
        break;
    case Status:
        if (value == 0) return reset();
        if (value <= 0xff) {
            frontend_->set_status(static_cast<std::uint8_t>(value), Frontend::Interface::modern);
        }
        break;
    default: write_queue(offset, value);
    }
}

void MmioTransport::write_queue(std::uint64_t offset, std::uint32_t value)
{
    using Area = Frontend::Area;
    using Half = Frontend::Half;
    const unsigned queue = state_.queue_select;
    const auto address = [&](Area area, Half half) {
        frontend_->set_queue_address(queue, area, half, value);
    };
    switch (offset) {
    case QueueNum:
        if (value <= queue_size_max) {
            frontend_->set_queue_size(queue, static_cast<std::uint16_t>(value));
        }
        break;
    case QueueReady: frontend_->set_queue_enabled(queue, value == 1); break;
    case QueueDescLow: address(Area::descriptors, Half::low); break;
    case QueueDescHigh: address(Area::descriptors, Half::high); break;
    case QueueDriverLow: address(Area::driver, Half::low); break;
    case QueueDriverHigh: address(Area::driver, Half::high); break;
    case QueueDeviceLow: address(Area::device, Half::low); break;
    case QueueDeviceHigh: address(Area::device, Half::high); break;
    default: break;
    }
}

void MmioTransport::save(base::StateWriter& writer)
{
    writer.section(frontend_->name() + ".mmio", 1, state_);
    frontend_->save(writer);
}

base::Result<void> MmioTransport::load(const base::StateReader& reader)
{
    const State loaded = TRY(reader.section_as<State>(frontend_->name() + ".mmio", 1));
    if (loaded.interrupt_status > (interrupt_queue | interrupt_config)) {
        return base::io_error("Saved state of '" + frontend_->name() + ".mmio' is impossible");
    }
    reset();
    TRY(frontend_->load(reader));
    state_ = loaded;
    update_line();
    return {};
}

}  // namespace doppel::devices::virtio
