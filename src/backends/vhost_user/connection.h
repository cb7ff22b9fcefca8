// One connection to a vhost-user back end, from the first word until it ends:
//
//   front end                                     back end
//   GET_FEATURES, SET_OWNER  ──▶              ◀── features
//   GET_PROTOCOL_FEATURES    ──▶              ◀── protocol features
//   SET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
//   GET_CONFIG               ──▶              ◀── queues, configuration space
//        negotiated(): offer() is there
//   SET_FEATURES, SET_MEM_TABLE, for each ring: NUM, BASE, ADDR, CALL, KICK, ENABLE
//   GET_FEATURES             ──▶              ◀── all of that was understood
//        started(): the rings run
//   GET_VRING_BASE           ──▶              ◀── that ring is at rest
//
// Threads: the event loop's, or while it does not run.
#pragma once

#include <string>
#include <vector>

#include "backends/vhost_user/channel.h"

namespace doppel::backends::vhost_user {

// What a back end has.
struct Offer {
    std::uint64_t features = 0;  // of the virtio device
    unsigned queues = 1;         // at most
    std::vector<std::byte> config;
};

// Guest memory, or that of the rings. user address: the same as gpa.
struct Region {
    std::uint64_t gpa, size, offset;
    int fd;
};

// A split ring at guest-physical addresses inside the regions.
struct RingSetup {
    unsigned index;
    std::uint16_t size;
    std::uint64_t descriptors, available, used;
    int kick, call;  // eventfds
};

class ConnectionEvents {
public:
    virtual ~ConnectionEvents() = default;
    virtual void negotiated() noexcept = 0;
    virtual void started() noexcept = 0;
    // The last that is heard of it; may destroy it.
    virtual void lost(const std::string& why) noexcept = 0;
};

class Connection {
public:
    // Begins to negotiate. config_bytes: what is wanted of configuration space.
    static base::Result<std::unique_ptr<Connection>> create(base::EventLoop& loop, base::Fd socket,
                                                            std::size_t config_bytes,
                                                            ConnectionEvents& events);

    // Once negotiated.
    [[nodiscard]] const Offer& offer() const { return offer_; }
    void start(std::uint64_t features, std::span<const Region> regions,
               std::span<const RingSetup> rings);
    // Waits until the rings are at rest. False: the connection is lost.
    [[nodiscard]] bool stop(std::span<const unsigned> rings);

    // Waits for the answers that are under way; as Channel::settle().
    [[nodiscard]] bool settle() { return channel_->settle(); }
    // False: it is lost, as far as can be told now.
    [[nodiscard]] bool alive() { return channel_->alive(); }
    void fail(std::string why) { channel_->fail(std::move(why)); }
    [[nodiscard]] const std::string& problem() const { return channel_->problem(); }

private:
    Connection(std::size_t config_bytes, ConnectionEvents& events)
        : config_bytes_(config_bytes), events_(events)
    {
    }
    void take_features(std::uint64_t features);
    void take_protocol_features(std::uint64_t features);
    void take_config(std::span<const std::byte> payload);
    void share_memory(std::span<const Region> regions);
    void set_up(const RingSetup& ring);
    void ask_number(Request request, std::function<void(std::uint64_t)> answered);
    [[nodiscard]] bool has(std::uint64_t feature) const { return (protocol_ & feature) != 0; }

    const std::size_t config_bytes_;
    ConnectionEvents& events_;
    std::unique_ptr<Channel> channel_;
    Offer offer_;
    std::uint64_t protocol_ = 0;        // protocol features in use
    bool has_protocol_ = false;
};

}  // namespace doppel::backends::vhost_user
