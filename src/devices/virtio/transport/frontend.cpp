#include "devices/virtio/transport/frontend.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace doppel::devices::virtio {

namespace {

constexpr std::uint64_t config_bit = std::uint64_t{1} << 63;
// What transport and rings can do; the rest of a device's features is its own.
constexpr Features transport_features = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX |
                                        VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM |
                                        VIRTIO_F_RING_PACKED;

}  // namespace

class Frontend::LiveQueue final : public Queue {
public:
    LiveQueue(Frontend& owner, unsigned index, std::unique_ptr<Ring> ring)
        : owner_(owner), index_(index), ring_(std::move(ring))
    {
    }

    bool pop(Chain& chain) override
    {
        if (silent_) return false;
        if (ring_->pop(chain)) {
            owner_.chains_.fetch_add(1, std::memory_order_relaxed);
            return true;
        }
        if (ring_->problem() != nullptr) broken(ring_->problem());
        return false;
    }
    void unpop(const Chain& chain) override { ring_->unpop(chain); }
    void push(const Chain& chain, std::uint32_t written) override { ring_->push(chain, written); }
    void fill(const Chain& chain, std::uint32_t written) override { ring_->fill(chain, written); }
    void publish() override { ring_->publish(); }
    void signal() override
    {
        if (ring_->wants_interrupt()) owner_.signal(std::uint64_t{1} << index_, false);
    }
    void broken(std::string_view why) override
    {
        if (!std::exchange(silent_, true)) owner_.needs_reset(index_, why);
    }

    [[nodiscard]] const Ring& ring() const { return *ring_; }

private:
    Frontend& owner_;
    unsigned index_;
    std::unique_ptr<Ring> ring_;
    bool silent_ = false;  // broken: gives nothing any more
};

class Frontend::Live final : public Active {
public:
    explicit Live(Frontend& owner) : owner_(owner) {}
    [[nodiscard]] Features features() const override { return owner_.state_.accepted; }
    [[nodiscard]] const Dma& dma() const override { return owner_.dma_; }
    [[nodiscard]] Queue* queue(unsigned index) override { return live(index); }
    void ring(unsigned index) override { owner_.ring(index); }

    [[nodiscard]] LiveQueue* live(unsigned index) const
    {
        return index < queues_.size() ? queues_[index].get() : nullptr;
    }
    void add(unsigned index, std::unique_ptr<Ring> ring)
    {
        queues_[index] = std::make_unique<LiveQueue>(owner_, index, std::move(ring));
    }

private:
    Frontend& owner_;
    std::array<std::unique_ptr<LiveQueue>, most_queues> queues_;
};

Frontend::Frontend(std::string name, const Platform& platform, Features offered)
    : name_(std::move(name)), platform_(platform), dma_(platform.memory), offered_(offered)
{
}

base::Result<std::unique_ptr<Frontend>> Frontend::create(std::string name,
                                                         const Platform& platform,
                                                         const DeviceFactory& make,
                                                         Features offered)
{
    std::unique_ptr<Frontend> frontend{new Frontend{std::move(name), platform, offered}};
    frontend->thread_ = TRY(IoThread::create(frontend->name_));
    frontend->device_ = TRY(make(frontend->thread_->loop()));
    Device& device = *frontend->device_;
    ASSERT(device.identity().queue_sizes.size() <= most_queues);
    frontend->offered_ &= device.features() | transport_features;
    frontend->queue_count_ = static_cast<unsigned>(device.identity().queue_sizes.size());
    frontend->config_size_ = device.config().size();
    frontend->initialise();
    frontend->publish_config();
    device.attach(*frontend);
    return frontend;
}

Frontend::~Frontend()
{
    thread_->stop();
    // What requests that end now have to say, nobody is there to hear.
    transport_ = nullptr;
    deactivate();
    // The device's backends may have to be destroyed while their loop still exists.
    device_.reset();
}

void Frontend::initialise()
{
    state_ = {};
    for (unsigned i = 0; i < queue_count_; ++i) {
        state_.queues[i].size = largest(i);
        state_.queues[i].vector = VIRTIO_MSI_NO_VECTOR;
        state_.rings[i] = {};
    }
    needs_reset_ = false;
    pending_ = 0;
}

std::uint32_t Frontend::offered(std::uint32_t half) const
{
    return half < 2 ? static_cast<std::uint32_t>(offered_ >> (32 * half)) : 0;
}

std::uint32_t Frontend::accepted(std::uint32_t half) const
{
    return half < 2 ? static_cast<std::uint32_t>(state_.accepted >> (32 * half)) : 0;
}

void Frontend::accept(std::uint32_t half, std::uint32_t bits)
{
    if (half >= 2 || (state_.status & (status::FEATURES_OK | status::DRIVER_OK)) != 0) return;
    const Features mask = Features{0xffffffff} << (32 * half);
    state_.accepted = (state_.accepted & ~mask) | (Features{bits} << (32 * half));
}

std::uint8_t Frontend::status() const
{
    const std::uint8_t extra = needs_reset_.load() ? status::DEVICE_NEEDS_RESET : std::uint8_t{0};
    return static_cast<std::uint8_t>(state_.status | extra);
}

bool Frontend::features_agree() const
{
    // With VIRTIO_F_ACCESS_PLATFORM offered, a driver without it would use other addresses.
    const Features required = VIRTIO_F_VERSION_1 | (offered_ & VIRTIO_F_ACCESS_PLATFORM);
    return (state_.accepted & ~offered_) == 0 && (~state_.accepted & required) == 0;
}

void Frontend::set_status(std::uint8_t value, Interface interface)
{
    if (value == 0) return reset();
    value &= static_cast<std::uint8_t>(~status::DEVICE_NEEDS_RESET);
    const auto rises = [&](std::uint8_t bit) {
        return (value & bit) != 0 && (state_.status & bit) == 0;
    };
    if (interface == Interface::legacy) {
        state_.accepted &= offered_ & 0xffffffff;
    } else {
        if (rises(status::FEATURES_OK) && !features_agree()) {
            value &= static_cast<std::uint8_t>(~status::FEATURES_OK);
        }
        // DRIVER_OK means nothing before the two sides agree.
        if ((value & status::FEATURES_OK) == 0) {
            value &= static_cast<std::uint8_t>(~status::DRIVER_OK);
        }
    }
    const bool begins = rises(status::DRIVER_OK) && state_.active == 0;
    state_.status = value;
    if (begins) activate();
}

void Frontend::reset()
{
    deactivate();
    initialise();
}

const Frontend::QueueRegisters& Frontend::queue(unsigned index) const
{
    static constexpr QueueRegisters none{};
    return index < queue_count_ ? state_.queues[index] : none;
}

std::uint16_t Frontend::largest(unsigned index) const
{
    return index < queue_count_ ? identity().queue_sizes[index] : std::uint16_t{0};
}

Frontend::QueueRegisters* Frontend::changeable(unsigned index)
{
    if (index >= queue_count_ || state_.active != 0 || state_.queues[index].enabled != 0) {
        return nullptr;
    }
    return &state_.queues[index];
}

void Frontend::set_queue_address(unsigned index, Area area, Half half, std::uint32_t value)
{
    QueueRegisters* queue = changeable(index);
    if (queue == nullptr) return;
    std::uint64_t& address = area == Area::descriptors ? queue->descriptors
                             : area == Area::driver    ? queue->driver
                                                       : queue->device;
    const unsigned shift = half == Half::high ? 32 : 0;
    address = (address & ~(std::uint64_t{0xffffffff} << shift)) | (std::uint64_t{value} << shift);
}

void Frontend::set_queue_addresses(unsigned index, const RingAddress& address)
{
    QueueRegisters* queue = changeable(index);
    if (queue == nullptr) return;
    queue->descriptors = address.descriptors;
    queue->driver = address.driver;
    queue->device = address.device;
}

void Frontend::set_queue_size(unsigned index, std::uint16_t size)
{
    QueueRegisters* queue = changeable(index);
    if (queue != nullptr && size <= largest(index)) queue->size = size;
}

void Frontend::set_queue_vector(unsigned index, std::uint16_t vector)
{
    if (index < queue_count_) state_.queues[index].vector = vector;
}

void Frontend::set_queue_enabled(unsigned index, bool enabled)
{
    if (index < queue_count_ && state_.active == 0) state_.queues[index].enabled = enabled ? 1 : 0;
}

void Frontend::activate()
{
    state_.active = 1;
    thread_->call([this] {
        live_ = std::make_unique<Live>(*this);
        for (unsigned i = 0; i < queue_count_; ++i) {
            const QueueRegisters& queue = state_.queues[i];
            if (queue.enabled == 0) continue;
            auto ring = create_ring(
                dma_, {queue.size, queue.descriptors, queue.driver, queue.device},
                state_.accepted, state_.rings[i]);
            if (ring) {
                live_->add(i, std::move(ring).value());
            } else {
                needs_reset(i, ring.error().text());
            }
        }
        for (unsigned i = 0; i < queue_count_; ++i) {
            if (live_->live(i) != nullptr) listen(i);
        }
        device_->activate(*live_);
    });
}

void Frontend::listen(unsigned index)
{
    auto made = platform_.doorbells.create();
    if (!made) made = own_doorbells_.create();
    ASSERT(made.has_value());  // there is room for all queues
    doorbells_[index] = std::move(made).value();
    auto watched = thread_->loop().add(doorbells_[index]->fd(), EPOLLIN,
                                       [this, index, bell = doorbells_[index]](std::uint32_t) {
                                           const bus::Rings rings = bell->take();
                                           if (!rings) return;
                                           thread_->stay_off(rings.processor());
                                           process(index);
                                       });
    if (!watched) needs_reset(index, watched.error().text());
    if (const auto address = transport_->doorbell_address(index)) {
        // Where it cannot be bound, the bus brings the writes.
        static_cast<void>(doorbells_[index]->bind(*address));
    }
    // The driver may have rung before, or before the state was saved.
    doorbells_[index]->ring();
}

void Frontend::move_doorbells()
{
    for (unsigned i = 0; i < queue_count_; ++i) {
        if (doorbells_[i] != nullptr) doorbells_[i]->unbind();
    }
    for (unsigned i = 0; i < queue_count_; ++i) {
        if (doorbells_[i] == nullptr) continue;
        if (const auto address = transport_->doorbell_address(i)) {
            static_cast<void>(doorbells_[i]->bind(*address));
        }
    }
}

void Frontend::ring(unsigned index)
{
    if (index < queue_count_ && doorbells_[index] != nullptr) doorbells_[index]->ring();
}

void Frontend::process(unsigned index) noexcept
{
    if (live_ == nullptr || live_->live(index) == nullptr) return;
    rings_.fetch_add(1, std::memory_order_relaxed);
    device_->process(index);
}

void Frontend::deactivate()
{
    if (state_.active == 0) return;
    thread_->call([this] {
        device_->deactivate();
        for (auto& doorbell : doorbells_) {
            if (doorbell != nullptr) thread_->loop().remove(doorbell->fd());
            doorbell.reset();
        }
        live_.reset();
        publish_config();  // what the driver set is forgotten
    });
    state_.active = 0;
}

void Frontend::publish_config()
{
    const auto config = device_->config();
    ASSERT(config.size() == config_size_);
    const std::lock_guard lock{config_mutex_};
    config_.assign(config.begin(), config.end());
}

void Frontend::config_changed() noexcept
{
    publish_config();
    generation_.fetch_add(1);
    signal(0, true);
}

void Frontend::read_config(std::size_t offset, std::span<std::byte> data) const
{
    const std::lock_guard lock{config_mutex_};
    for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = offset + i < config_.size() ? config_[offset + i] : std::byte{0};
    }
}

void Frontend::write_config(std::size_t offset, std::span<const std::byte> data)
{
    if (offset > config_size_ || data.size() > config_size_ - offset) return;
    thread_->call([&] {
        device_->write_config(offset, data);
        publish_config();
    });
}

void Frontend::signal(std::uint64_t queues, bool config) noexcept
{
    const std::uint64_t bits = queues | (config ? config_bit : 0);
    // Somebody else has yet to deliver what was pending, and will deliver these.
    if (pending_.fetch_or(bits) != 0) return;
    platform_.bus.defer([this] { deliver(); });
}

void Frontend::deliver() noexcept
{
    const std::uint64_t bits = pending_.exchange(0);
    if (bits == 0 || transport_ == nullptr || (state_.status & status::DRIVER_OK) == 0) return;
    interrupts_.fetch_add(1, std::memory_order_relaxed);
    transport_->interrupt(bits & ~config_bit, (bits & config_bit) != 0);
}

void Frontend::needs_reset(unsigned queue, std::string_view why) noexcept
{
    static std::atomic<std::uint32_t> said{0};
    if (base::log_limited(said)) {
        spdlog::warn("{}: queue {} is broken: {}; the device needs a reset", name_, queue, why);
    }
    broken_.fetch_add(1, std::memory_order_relaxed);
    needs_reset_ = true;
    signal(0, true);
}

void Frontend::save(base::StateWriter& writer)
{
    thread_->call([&] {
        if (live_ != nullptr) device_->drain();
        State state = state_;
        state.generation = generation_;
        state.needs_reset = needs_reset_ ? 1 : 0;
        for (unsigned i = 0; i < queue_count_ && live_ != nullptr; ++i) {
            const LiveQueue* queue = live_->live(i);
            if (queue == nullptr) continue;
            ASSERT(queue->ring().in_flight() == 0);
            state.rings[i] = queue->ring().state();
        }
        writer.section(name_ + ".queues", 1, state);
        device_->save(writer, name_ + ".device");
    });
}

base::Result<void> Frontend::check(const State& state) const
{
    const auto wrong = [this](const char* what) {
        return base::io_error("Saved state of '" + name_ + "' has " + what);
    };
    if ((state.status & status::DEVICE_NEEDS_RESET) != 0 || state.active > 1 ||
        state.needs_reset > 1) {
        return wrong("an impossible status");
    }
    if (state.active != 0 && (state.accepted & ~offered_) != 0) {
        return wrong("features that this device does not offer");
    }
    if (state.active != 0 && (state.status & status::DRIVER_OK) == 0) {
        return wrong("an active device without a driver");
    }
    for (unsigned i = 0; i < most_queues; ++i) {
        if (state.queues[i].size > largest(i) || state.queues[i].enabled > 1) {
            return wrong("a queue that this device does not have");
        }
    }
    return {};
}

base::Result<void> Frontend::load(const base::StateReader& reader)
{
    const State loaded = TRY(reader.section_as<State>(name_ + ".queues", 1));
    TRY(check(loaded));
    reset();
    base::Result<void> result;
    thread_->call([&] {
        result = device_->load(reader, name_ + ".device");
        publish_config();
    });
    TRY(std::move(result));
    state_ = loaded;
    state_.active = 0;
    generation_ = loaded.generation;
    needs_reset_ = loaded.needs_reset != 0;
    if (loaded.active != 0) activate();
    for (auto& ring : state_.rings) ring = {};
    return {};
}

void Frontend::counters(base::CounterList& list) const
{
    list.add(name_ + ".rings", rings_);
    list.add(name_ + ".chains", chains_);
    list.add(name_ + ".interrupts", interrupts_);
    list.add(name_ + ".broken", broken_);
    thread_->call([&] { device_->counters(list, name_); });
}

}  // namespace doppel::devices::virtio
