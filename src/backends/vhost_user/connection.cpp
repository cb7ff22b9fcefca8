#include "backends/vhost_user/connection.h"

#include <algorithm>

#include "base/assert.h"

namespace doppel::backends::vhost_user {

namespace {

constexpr std::uint64_t known_protocol_features =
    VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIG;

template <typename T>
std::span<const std::byte> bytes(const T& value)
{
    return std::as_bytes(std::span{&value, 1});
}

template <typename T>
T value_of(std::span<const std::byte> payload)
{
    T value{};
    ASSERT(payload.size() >= sizeof value);
    std::memcpy(&value, payload.data(), sizeof value);
    return value;
}

}  // namespace

base::Result<std::unique_ptr<Connection>> Connection::create(base::EventLoop& loop,
                                                             base::Fd socket,
                                                             std::size_t config_bytes,
                                                             ConnectionEvents& events)
{
    ASSERT(config_bytes <= most_config_bytes);
    std::unique_ptr<Connection> made{new Connection{config_bytes, events}};
    Connection* raw = made.get();
    made->channel_ = TRY(Channel::create(
        loop, std::move(socket), [raw](const std::string& why) { raw->events_.lost(why); }));
    made->ask_number(Request::GET_FEATURES,
                     [raw](std::uint64_t features) { raw->take_features(features); });
    made->channel_->send(Request::SET_OWNER, {});
    return made;
}

void Connection::ask_number(Request request, std::function<void(std::uint64_t)> answered)
{
    channel_->ask(request, {}, {}, {sizeof(std::uint64_t), sizeof(std::uint64_t)},
                  [answered = std::move(answered)](std::span<const std::byte> payload) {
                      answered(value_of<std::uint64_t>(payload));
                  });
}

void Connection::take_features(std::uint64_t features)
{
    offer_.features = features & ~VHOST_USER_F_PROTOCOL_FEATURES;
    has_protocol_ = (features & VHOST_USER_F_PROTOCOL_FEATURES) != 0;
    if (!has_protocol_) return take_protocol_features(0);
    ask_number(Request::GET_PROTOCOL_FEATURES,
               [this](std::uint64_t protocol) { take_protocol_features(protocol); });
}

void Connection::take_protocol_features(std::uint64_t features)
{
    protocol_ = features & known_protocol_features;
    if (has_protocol_) channel_->send(Request::SET_PROTOCOL_FEATURES, bytes(protocol_));
    if (has(VHOST_USER_PROTOCOL_F_MQ)) {
        ask_number(Request::GET_QUEUE_NUM, [this](std::uint64_t queues) {
            offer_.queues = static_cast<unsigned>(std::min<std::uint64_t>(queues, 0xffff));
            if (config_bytes_ == 0) events_.negotiated();
        });
    }
    if (config_bytes_ == 0) {
        if (!has(VHOST_USER_PROTOCOL_F_MQ)) events_.negotiated();
        return;
    }
    if (!has(VHOST_USER_PROTOCOL_F_CONFIG)) {
        return channel_->fail("it has no configuration space (VHOST_USER_PROTOCOL_F_CONFIG)");
    }
    std::array<std::byte, most_payload_bytes> payload{};
    const ConfigHeader header{0, static_cast<std::uint32_t>(config_bytes_), 0};
    std::memcpy(payload.data(), &header, sizeof header);
    channel_->ask(Request::GET_CONFIG,
                  std::span{payload}.first(sizeof header + config_bytes_), {},
                  {sizeof header, sizeof header + config_bytes_},
                  [this](std::span<const std::byte> answer) { take_config(answer); });
}

void Connection::take_config(std::span<const std::byte> payload)
{
    const auto header = value_of<ConfigHeader>(payload);
    const auto config = payload.subspan(sizeof header);
    if (header.offset != 0 || header.size != config_bytes_ || config.size() != config_bytes_) {
        return channel_->fail("it did not give its configuration space");
    }
    offer_.config.assign(config.begin(), config.end());
    events_.negotiated();
}

void Connection::share_memory(std::span<const Region> regions)
{
    ASSERT(!regions.empty() && regions.size() <= most_regions);
    MemoryTable table{};
    std::array<int, most_regions> fds{};
    for (const Region& region : regions) {
        fds[table.count] = region.fd;
        table.regions[table.count++] = {region.gpa, region.size, region.gpa, region.offset};
    }
    const auto payload =
        bytes(table).first(offsetof(MemoryTable, regions) + regions.size_bytes() / sizeof(Region) *
                                                                sizeof(MemoryRegion));
    const auto shared = std::span{fds}.first(regions.size());
    if (!has(VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
        return channel_->send(Request::SET_MEM_TABLE, payload, shared);
    }
    channel_->ask(
        Request::SET_MEM_TABLE, payload, shared, {sizeof(std::uint64_t), sizeof(std::uint64_t)},
        [this](std::span<const std::byte> answer) {
            if (value_of<std::uint64_t>(answer) != 0) {
                channel_->fail("it cannot use the guest's memory");
            }
        },
        Channel::Kind::acknowledge);
}

void Connection::set_up(const RingSetup& ring)
{
    const auto number = [&](Request request, std::uint32_t value) {
        const VringState state{ring.index, value};
        channel_->send(request, bytes(state));
    };
    const auto event = [&](Request request, int fd) {
        const std::uint64_t index = ring.index;
        channel_->send(request, bytes(index), std::span{&fd, 1});
    };
    number(Request::SET_VRING_NUM, ring.size);
    number(Request::SET_VRING_BASE, 0);
    const VringAddress address{ring.index, 0, ring.descriptors, ring.used, ring.available, 0};
    channel_->send(Request::SET_VRING_ADDR, bytes(address));
    event(Request::SET_VRING_CALL, ring.call);
    event(Request::SET_VRING_KICK, ring.kick);
    // Without protocol features, a ring that is started is enabled.
    if (has_protocol_) number(Request::SET_VRING_ENABLE, 1);
}

void Connection::start(std::uint64_t features, std::span<const Region> regions,
                       std::span<const RingSetup> rings)
{
    if (has_protocol_) features |= VHOST_USER_F_PROTOCOL_FEATURES;
    channel_->send(Request::SET_FEATURES, bytes(features));
    share_memory(regions);
    for (const RingSetup& ring : rings) set_up(ring);
    ask_number(Request::GET_FEATURES, [this](std::uint64_t) { events_.started(); });
}

bool Connection::stop(std::span<const unsigned> rings)
{
    for (const unsigned ring : rings) {
        const VringState state{ring, 0};
        channel_->ask(Request::GET_VRING_BASE, bytes(state), {}, {sizeof state, sizeof state},
                      [](std::span<const std::byte>) {});
    }
    return channel_->settle();
}

}  // namespace doppel::backends::vhost_user
