// A virtio device whose work is done by another process: the front end of vhost-user.
//
//   guest ── rings ──▶ VhostUser ── shadow rings ──▶ back end ──▶ guest memory
//            (queue/)      │        (ShadowRing)        │
//                          └──── Connection, a socket ──┘
//
// The guest's rings stay ours. Chains are popped and checked here and handed on through rings of our
// own, so the back end gets no rubbish; what it wrote is told to the listeners of guest memory
// (it cannot do that); and we know what is in flight. When the back end goes, requests that it had
// not finished wait here and are handed to the next one in their order, before any newer one. Each
// connection has rings of its own: what an old back end still does to them has no effect.
//
//   away ──▶ negotiating ──▶ idle ──▶ starting ──▶ running
//    ▲            │           │          │            │
//    └────────────┴───────────┴──────────┴────────────┘  it is lost
//
// A back end has all of guest memory. What it says is checked, so that it cannot break this process,
// but it can do to the guest what it likes.
//
// Threads: the device's.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "base/loop_timer.h"
#include "backends/vhost_user/connection.h"
#include "backends/vhost_user/source.h"
#include "base/mapped_region.h"
#include "devices/virtio/device.h"
#include "devices/virtio/vhost_user/kind.h"
#include "devices/virtio/vhost_user/shadow_ring.h"

namespace doppel::devices::virtio {

class VhostUser final : public Device, private backends::vhost_user::ConnectionEvents {
public:
    // Connects, and has the back end say what it is. An error when it does not.
    static base::Result<std::unique_ptr<Device>> create(
        std::unique_ptr<VhostUserKind> kind,
        std::unique_ptr<backends::vhost_user::Source> source, base::EventLoop& loop);
    ~VhostUser() override;

    [[nodiscard]] const Identity& identity() const override { return kind_->identity(); }
    [[nodiscard]] Features features() const override { return offered_; }
    [[nodiscard]] std::span<const std::byte> config() const override { return kind_->config(); }
    void attach(ConfigListener& listener) override { listener_ = &listener; }
    void activate(Active& active) noexcept override;
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    void drain() noexcept override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    enum class State { away, negotiating, idle, starting, running };
    // A request of the guest that is not answered yet.
    struct Work {
        Chain chain;
        std::uint64_t number = 0;  // of its queue, in the order they were popped
    };
    using WorkPointer = std::unique_ptr<Work>;
    // What there is of a queue while it is in a back end's hands.
    struct Lane {
        Lane(std::span<std::byte, ShadowRing::bytes> memory) : ring(memory) {}
        ShadowRing ring;
        base::Fd kick, call;
        std::array<WorkPointer, ShadowRing::size> works;  // by head
    };
    // What stays when the back end goes.
    struct QueueState {
        std::uint64_t popped = 0;
        std::map<std::uint64_t, WorkPointer> waiting;  // that the back end did not finish
        bool full = false;                             // the lane had no room for the next one
    };

    VhostUser(std::unique_ptr<VhostUserKind> kind,
              std::unique_ptr<backends::vhost_user::Source> source, base::EventLoop& loop);

    // The connection.
    base::Result<void> begin();
    void try_again() noexcept;
    [[nodiscard]] base::Result<void> check_offer() const;
    void negotiated() noexcept override;
    void start() noexcept;
    void started() noexcept override;
    void lost(const std::string& why) noexcept override;
    void came_back();

    // The rings towards the back end.
    [[nodiscard]] base::Result<void> make_lanes();
    [[nodiscard]] std::uint64_t rings_gpa() const;
    [[nodiscard]] bool is_shared(const Chain& chain) const;
    void hand_on(unsigned queue, WorkPointer work);
    void kick(unsigned queue);
    void completed(unsigned queue) noexcept;
    // False: the back end has broken the ring.
    bool collect(unsigned queue);
    // Has the back end finish what it can, and let go of the rings. False: it does not.
    bool stop_rings();
    [[nodiscard]] bool busy() const;
    // Requests that it did not finish wait from now on; the rings are gone.
    void take_back();

    // Requests.
    [[nodiscard]] WorkPointer take_work();
    void push(unsigned queue, WorkPointer work, std::uint32_t written);
    void answer_waiting();
    void give_back(unsigned queue);

    std::unique_ptr<VhostUserKind> kind_;
    std::unique_ptr<backends::vhost_user::Source> source_;
    base::EventLoop& loop_;
    Features offered_ = 0;
    Active* active_ = nullptr;
    ConfigListener* listener_ = nullptr;

    State state_ = State::away;
    std::unique_ptr<backends::vhost_user::Connection> connection_;
    std::unique_ptr<base::LoopTimer> retry_;
    std::uint64_t retry_after_ns_ = 0, connected_at_ns_ = 0;
    bool was_lost_ = false;
    bool stopping_ = false;  // nothing new is handed on
    std::atomic<std::uint32_t> said_{0};

    base::Fd ring_fd_;
    base::MappedRegion ring_memory_;
    std::vector<std::unique_ptr<Lane>> lanes_;  // by queue; those that the driver set up
    std::vector<QueueState> queues_;
    std::vector<WorkPointer> spare_;

    std::uint64_t requests_ = 0, reconnects_ = 0, resubmitted_ = 0, answered_ = 0, misbehaved_ = 0;
};

}  // namespace doppel::devices::virtio
