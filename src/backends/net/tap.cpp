#include "backends/net/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/log.h"

namespace doppel::backends {

namespace {

constexpr unsigned frames_at_once = 256;

ifreq request_for(const std::string& name)
{
    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    return request;
}

base::Error open_error(const TapOptions& options, int error)
{
    const std::string name = options.name.empty() ? "tap0" : options.name;
    const std::string what =
        "--net tap" + (options.name.empty() ? "" : ",name=" + options.name) + ": cannot open";
    const std::string prepare = "ip tuntap add dev " + name + " mode tap user $USER vnet_hdr" +
                                (options.queues > 1 ? " multi_queue" : "");
    std::string fix;
    if (error == EPERM || error == EACCES) {
        fix = "; have an administrator run '" + prepare + "', or use --net user";
    } else if (error == EINVAL) {
        fix = "; it was made with other flags, make it anew with '" + prepare + "'";
    } else if (error == EBUSY) {
        fix = "; another program uses it";
    } else if (error == ENOENT || error == ENODEV) {
        fix = "; load the kernel's module tun, or use --net user";
    }
    return base::Error{base::ErrorKind::io,
                       base::errno_error(base::ErrorKind::io, what, error).text() + fix};
}

}  // namespace

base::Result<std::unique_ptr<NetBackend>> TapNet::create(base::EventLoop& loop,
                                                         const TapOptions& options)
{
    std::unique_ptr<TapNet> tap{new TapNet{loop}};
    TRY(tap->open(options));
    TRY(tap->set_up(options));
    tap->buffer_.resize(sizeof(OffloadHeader) + most_frame_bytes);
    tap->set_offloads({});
    for (unsigned i = 0; i < tap->queues_.size(); ++i) {
        Queue& queue = tap->queues_[i];
        queue.watched = EPOLLIN;
        TRY(loop.add(queue.fd.get(), queue.watched,
                     [raw = tap.get(), i](std::uint32_t ready) { raw->events(i, ready); }));
    }
    tap->set_queues(1);
    return std::unique_ptr<NetBackend>{std::move(tap)};
}

TapNet::~TapNet()
{
    for (const Queue& queue : queues_) loop_.remove(queue.fd.get());
}

base::Result<void> TapNet::open(const TapOptions& options)
{
    name_ = options.name;
    for (unsigned i = 0; i < options.queues; ++i) {
        base::Fd fd{::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)};
        if (!fd.valid()) return open_error(options, errno);
        ifreq request = request_for(name_);
        request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                               (options.queues > 1 ? IFF_MULTI_QUEUE : 0));
        if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) return open_error(options, errno);
        name_ = request.ifr_name;
        const int header_size = sizeof(OffloadHeader);
        if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_size) != 0) {
            return open_error(options, errno);
        }
        queues_.emplace_back().fd = std::move(fd);
    }
    return {};
}

base::Result<void> TapNet::set_up(const TapOptions& options)
{
    const base::Fd control{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ifreq request = request_for(name_);
    if (options.mtu != 0) {
        request.ifr_mtu = options.mtu;
        if (::ioctl(control.get(), SIOCSIFMTU, &request) != 0) {
            return base::Error{base::ErrorKind::io,
                               base::errno_error(base::ErrorKind::io,
                                                 "--net tap,mtu=: cannot set it on " + name_, errno)
                                       .text() +
                                   "; leave mtu= out to use what the interface has"};
        }
    }
    request = request_for(name_);
    if (::ioctl(control.get(), SIOCGIFMTU, &request) == 0 && request.ifr_mtu >= 68) {
        mtu_ = static_cast<std::uint16_t>(std::min(request.ifr_mtu, 65535));
    }
    request = request_for(name_);
    if (::ioctl(control.get(), SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP) == 0) {
        request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
        if (::ioctl(control.get(), SIOCSIFFLAGS, &request) != 0) {
            spdlog::warn("--net tap: {} is down, and setting it up is not permitted", name_);
        }
    }
    return {};
}

NetProperties TapNet::properties() const
{
    // The kernel takes all of them from whoever writes with a header.
    static constexpr Offloads all{true, true, true, true};
    return {all, all, mtu_, static_cast<unsigned>(queues_.size())};
}

void TapNet::set_offloads(const Offloads& offloads) noexcept
{
    to_guest_ = offloads;
    unsigned long flags = 0;
    if (offloads.checksum) {
        flags |= TUN_F_CSUM;
        if (offloads.tso4) flags |= TUN_F_TSO4;
        if (offloads.tso6) flags |= TUN_F_TSO6;
        if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
    }
    if (::ioctl(queues_.front().fd.get(), TUNSETOFFLOAD, flags) != 0) {
        spdlog::warn("--net tap: cannot set the offloads of {}", name_);
    }
}

void TapNet::set_queues(unsigned count) noexcept
{
    if (queues_.size() == 1) return;
    for (unsigned i = 0; i < queues_.size(); ++i) {
        const bool wanted = i < count;
        if (queues_[i].attached == wanted) continue;
        ifreq request{};
        request.ifr_flags = static_cast<short>(wanted ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
        if (::ioctl(queues_[i].fd.get(), TUNSETQUEUE, &request) == 0) {
            queues_[i].attached = wanted;
        } else {
            spdlog::warn("--net tap: cannot switch queue {} of {}", i, name_);
        }
    }
}

Handed TapNet::send(unsigned index, Frame& frame) noexcept
{
    Queue& queue = queues_[index];
    const iovec parts[] = {{&frame.header, sizeof frame.header},
                           {frame.bytes.data(), frame.bytes.size()}};
    for (;;) {
        const ssize_t written = ::writev(queue.fd.get(), parts, 2);
        if (written >= 0) return Handed::yes;
        if (errno == EINTR) continue;
        if (errno != EAGAIN) break;
        queue.sender_waits = true;
        watch(index);
        return Handed::wait;
    }
    ++dropped_out_;  // the interface is down, or it finds fault with the frame
    return Handed::yes;
}

void TapNet::events(unsigned index, std::uint32_t ready) noexcept
{
    Queue& queue = queues_[index];
    if ((ready & EPOLLOUT) != 0 && std::exchange(queue.sender_waits, false)) {
        receiver_->writable(index);
    }
    if ((ready & EPOLLIN) != 0 && !queue.receiver_waits) read(index);
    // A detached queue reports an error all the time.
    watch(index);
}

void TapNet::read(unsigned index) noexcept
{
    Queue& queue = queues_[index];
    bool any = false;
    for (unsigned count = 0; count < frames_at_once && !queue.receiver_waits; ++count) {
        const ssize_t got = ::read(queue.fd.get(), buffer_.data(), buffer_.size());
        if (got <= 0) break;
        const auto packet = std::span{buffer_}.first(static_cast<std::size_t>(got));
        any = true;
        if (!deliver(index, packet)) {
            queue.receiver_waits = true;
            queue.held.assign(packet.begin(), packet.end());
        }
    }
    if (any) receiver_->received(index);
}

bool TapNet::deliver(unsigned index, std::span<std::byte> packet) noexcept
{
    Frame frame;
    if (packet.size() < sizeof(OffloadHeader)) return true;
    frame.header = base::load_le<OffloadHeader>(packet.data());
    frame.bytes = packet.subspan(sizeof(OffloadHeader));
    // What was on its way when the guest changed its mind.
    if (!to_guest_.checksum && (frame.header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 &&
        frame.header.gso_type == VIRTIO_NET_HDR_GSO_NONE &&
        settle(frame, {true, false, false, false})) {
        finish_checksum(frame);
    }
    if (!settle(frame, to_guest_)) {
        ++dropped_in_;
        return true;
    }
    return receiver_->receive(index, frame) == Handed::yes;
}

void TapNet::resume(unsigned index) noexcept
{
    Queue& queue = queues_[index];
    if (!queue.receiver_waits) return;
    // A copy: the receiver may change it, and still have no room.
    std::vector<std::byte> packet = queue.held;
    if (!deliver(index, packet)) return;
    queue.receiver_waits = false;
    receiver_->received(index);
    watch(index);
}

void TapNet::watch(unsigned index) noexcept
{
    Queue& queue = queues_[index];
    const std::uint32_t wanted = (queue.receiver_waits ? 0u : std::uint32_t{EPOLLIN}) |
                                 (queue.sender_waits ? std::uint32_t{EPOLLOUT} : 0u);
    if (wanted == queue.watched) return;
    queue.watched = wanted;
    static_cast<void>(loop_.modify(queue.fd.get(), wanted));
}

void TapNet::counters(base::CounterList& list, std::string_view prefix) const
{
    const std::string front = std::string{prefix} + ".tap.";
    list.add(front + "dropped_in", dropped_in_);
    list.add(front + "dropped_out", dropped_out_);
}

}  // namespace doppel::backends
