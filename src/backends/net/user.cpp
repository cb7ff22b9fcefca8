#include "backends/net/user.h"

#include <arpa/inet.h>
#include <libslirp.h>
#include <sys/epoll.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <limits>
#include <list>
#include <mutex>
#include <optional>

#include "base/loop_timer.h"
#include "backends/net/poll_set.h"
#include "base/log.h"

namespace doppel::backends {

namespace {

// What waits for a guest without buffers; TCP sends again what does not.
constexpr std::size_t most_pending_bytes = 2 * 1024 * 1024;

// libslirp keeps a few things for the whole process.
std::mutex& library_mutex()
{
    static std::mutex mutex;
    return mutex;
}

std::string text_of(in_addr address)
{
    std::array<char, INET_ADDRSTRLEN> text{};
    ::inet_ntop(AF_INET, &address, text.data(), text.size());
    return text.data();
}

in_addr plus(in_addr network, std::uint32_t number)
{
    return in_addr{htonl(ntohl(network.s_addr) + number)};
}

int slirp_events(std::uint32_t ready)
{
    return ((ready & EPOLLIN) != 0 ? SLIRP_POLL_IN : 0) |
           ((ready & EPOLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
           ((ready & EPOLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
           ((ready & EPOLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
           ((ready & EPOLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

std::uint32_t epoll_events(int events)
{
    return ((events & SLIRP_POLL_IN) != 0 ? std::uint32_t{EPOLLIN} : 0u) |
           ((events & SLIRP_POLL_OUT) != 0 ? std::uint32_t{EPOLLOUT} : 0u) |
           ((events & SLIRP_POLL_PRI) != 0 ? std::uint32_t{EPOLLPRI} : 0u);
}

// Threads: as NetBackend.
class UserNet final : public NetBackend {
public:
    UserNet(base::EventLoop& loop, PollSet polls, std::uint16_t mtu)
        : loop_(loop), polls_(std::move(polls)), mtu_(mtu)
    {
    }
    ~UserNet() override;
    base::Result<void> start(const UserOptions& options);

    [[nodiscard]] NetProperties properties() const override
    {
        // IPv6 packets above the MTU libslirp refuses.
        return {{true, true, false, true}, {true, false, false, false}, mtu_, 1};
    }
    void attach(NetReceiver& receiver) override { receiver_ = &receiver; }
    Handed send(unsigned queue, Frame& frame) noexcept override;
    void flush(unsigned queue) noexcept override;
    void resume(unsigned) noexcept override { deliver(); }
    void set_offloads(const Offloads& offloads) noexcept override { to_guest_ = offloads; }
    void set_queues(unsigned) noexcept override {}
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    // libslirp knows its timers by pointer.
    struct Timer {
        SlirpTimerId id;
        void* argument;
        std::uint64_t deadline_ns = std::numeric_limits<std::uint64_t>::max();
    };
    static const SlirpCb callbacks;
    static UserNet& self(void* opaque) { return *static_cast<UserNet*>(opaque); }

    base::Result<void> forward(const UserOptions& options, const PortForward& port);
    void turn() noexcept;
    void prepare_to_wait();
    void queue_for_guest(std::span<const std::byte> frame);
    void deliver() noexcept;

    base::EventLoop& loop_;
    PollSet polls_;
    const std::uint16_t mtu_;
    std::unique_ptr<base::LoopTimer> alarm_;
    std::list<Timer> timers_;
    Slirp* slirp_ = nullptr;
    NetReceiver* receiver_ = nullptr;
    Offloads to_guest_;

    std::deque<std::vector<std::byte>> pending_;
    std::size_t pending_bytes_ = 0;
    std::vector<std::vector<std::byte>> spare_;
    std::uint64_t dropped_in_ = 0, guest_errors_ = 0;
};

const SlirpCb UserNet::callbacks = {
    .send_packet = [](const void* data, std::size_t size, void* opaque) -> ssize_t {
        self(opaque).queue_for_guest({static_cast<const std::byte*>(data), size});
        return static_cast<ssize_t>(size);
    },
    .guest_error = [](const char*, void* opaque) { ++self(opaque).guest_errors_; },
    .clock_get_ns = [](void*) { return static_cast<std::int64_t>(base::monotonic_ns()); },
    .timer_new = nullptr,
    .timer_free =
        [](void* timer, void* opaque) {
            self(opaque).timers_.remove_if([timer](const Timer& t) { return &t == timer; });
        },
    .timer_mod =
        [](void* timer, std::int64_t milliseconds, void*) {
            static_cast<Timer*>(timer)->deadline_ns =
                milliseconds < 0 ? 0 : static_cast<std::uint64_t>(milliseconds) * 1'000'000;
        },
    .register_poll_fd = [](int, void*) {},
    .unregister_poll_fd = [](int fd, void* opaque) { self(opaque).polls_.forget(fd); },
    .notify = [](void*) {},  // whatever it calls for is done after each call of the library
    .init_completed = [](Slirp*, void*) {},
    .timer_new_opaque = [](SlirpTimerId id, void* argument, void* opaque) -> void* {
        return &self(opaque).timers_.emplace_back(Timer{id, argument});
    },
};

base::Result<void> UserNet::start(const UserOptions& options)
{
    alarm_ = TRY(base::LoopTimer::create(loop_, [this] { turn(); }));
    TRY(loop_.add(polls_.fd(), EPOLLIN, [this](std::uint32_t) { turn(); }));
    SlirpConfig config{};
    config.version = 4;
    config.restricted = options.restricted ? 1 : 0;
    config.in_enabled = true;
    config.vnetwork = options.network;
    config.vnetmask = options.mask;
    config.vhost = plus(options.network, 2);
    config.vnameserver = options.dns.s_addr != 0 ? options.dns : plus(options.network, 3);
    config.vdhcp_start = plus(options.network, 15);
    config.in6_enabled = options.ipv6;
    ::inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6);
    config.vprefix_len = 64;
    ::inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    ::inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
    if (!options.hostname.empty()) config.vhostname = options.hostname.c_str();
    config.if_mtu = config.if_mru = mtu_;
    config.disable_host_loopback = !options.loopback;
    const std::lock_guard lock{library_mutex()};
    slirp_ = ::slirp_new(&config, &callbacks, this);
    if (slirp_ == nullptr) return base::host_error("--net user: libslirp does not start");
    for (const PortForward& port : options.forwards) TRY(forward(options, port));
    prepare_to_wait();
    return {};
}

base::Result<void> UserNet::forward(const UserOptions& options, const PortForward& port)
{
    const in_addr guest = port.guest.s_addr != 0 ? port.guest : plus(options.network, 15);
    if (::slirp_add_hostfwd(slirp_, port.udp ? 1 : 0, port.host, port.host_port, guest,
                            port.guest_port) == 0) {
        return {};
    }
    const int error = errno;
    const std::string where = text_of(port.host) + ":" + std::to_string(port.host_port);
    const std::string fix = error == EADDRINUSE ? "; choose a port that is free"
                            : error == EACCES   ? "; choose a port of 1024 or above"
                                                : "";
    return base::Error{base::ErrorKind::io,
                       base::errno_error(base::ErrorKind::io,
                                         "--net user,hostfwd=: cannot listen on " + where, error)
                               .text() +
                           fix};
}

UserNet::~UserNet()
{
    loop_.remove(polls_.fd());
    const std::lock_guard lock{library_mutex()};
    if (slirp_ != nullptr) ::slirp_cleanup(slirp_);
}

Handed UserNet::send(unsigned, Frame& frame) noexcept
{
    finish_checksum(frame);
    const std::lock_guard lock{library_mutex()};
    ::slirp_input(slirp_, reinterpret_cast<const std::uint8_t*>(frame.bytes.data()),
                  static_cast<int>(frame.bytes.size()));
    return Handed::yes;
}

void UserNet::flush(unsigned) noexcept
{
    {
        const std::lock_guard lock{library_mutex()};
        prepare_to_wait();
    }
    deliver();
}

// Descriptors are ready, or it is time.
void UserNet::turn() noexcept
{
    {
        const std::lock_guard lock{library_mutex()};
        polls_.look();
        ::slirp_pollfds_poll(
            slirp_, 0,
            [](int number, void* opaque) { return slirp_events(self(opaque).polls_.ready(number)); },
            this);
        const std::uint64_t now = base::monotonic_ns();
        for (Timer& timer : timers_) {
            if (timer.deadline_ns > now) continue;
            timer.deadline_ns = std::numeric_limits<std::uint64_t>::max();
            ::slirp_handle_timer(slirp_, timer.id, timer.argument);
        }
        prepare_to_wait();
    }
    deliver();
}

void UserNet::prepare_to_wait()
{
    std::uint32_t timeout_ms = std::numeric_limits<std::uint32_t>::max();
    polls_.begin();
    ::slirp_pollfds_fill(
        slirp_, &timeout_ms,
        [](int fd, int events, void* opaque) {
            return self(opaque).polls_.add(fd, epoll_events(events));
        },
        this);
    polls_.end();
    std::uint64_t deadline = std::numeric_limits<std::uint64_t>::max();
    if (timeout_ms != std::numeric_limits<std::uint32_t>::max()) {
        deadline = base::monotonic_ns() + std::uint64_t{timeout_ms} * 1'000'000;
    }
    for (const Timer& timer : timers_) deadline = std::min(deadline, timer.deadline_ns);
    if (deadline == std::numeric_limits<std::uint64_t>::max()) {
        alarm_->cancel();
    } else {
        alarm_->set(deadline);
    }
}

void UserNet::queue_for_guest(std::span<const std::byte> frame)
{
    if (pending_bytes_ + frame.size() > most_pending_bytes) {
        ++dropped_in_;
        return;
    }
    std::vector<std::byte> buffer;
    if (!spare_.empty()) {
        buffer = std::move(spare_.back());
        spare_.pop_back();
    }
    buffer.assign(frame.begin(), frame.end());
    pending_.push_back(std::move(buffer));
    pending_bytes_ += frame.size();
}

void UserNet::deliver() noexcept
{
    bool any = false;
    while (!pending_.empty()) {
        Frame frame{{}, pending_.front()};
        // Made on this host, so there is nothing for the guest to find out.
        if (to_guest_.checksum) frame.header.flags = VIRTIO_NET_HDR_F_DATA_VALID;
        if (settle(frame, to_guest_)) {
            if (receiver_->receive(0, frame) == Handed::wait) break;
            any = true;
        }
        pending_bytes_ -= pending_.front().size();
        if (spare_.size() < 64) spare_.push_back(std::move(pending_.front()));
        pending_.pop_front();
    }
    if (any) receiver_->received(0);
}

void UserNet::counters(base::CounterList& list, std::string_view prefix) const
{
    const std::string front = std::string{prefix} + ".user.";
    list.add(front + "dropped_in", dropped_in_);
    list.add(front + "guest_errors", guest_errors_);
}

}  // namespace

base::Result<std::unique_ptr<NetBackend>> open_user_net(base::EventLoop& loop,
                                                        const UserOptions& options,
                                                        std::uint16_t mtu)
{
    auto net = std::make_unique<UserNet>(loop, TRY(PollSet::create()), mtu);
    TRY(net->start(options));
    return std::unique_ptr<NetBackend>{std::move(net)};
}

}  // namespace doppel::backends
