// The other side of vhost-user, for tests: answers the socket's messages on a thread of its own, and
// does with the rings what the test says. Written from the protocol alone.
#pragma once

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "backends/vhost_user/protocol.h"
#include "backends/vhost_user/source.h"
#include "devices/virtio/queue/descriptor.h"
#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

namespace wire = backends::vhost_user;

class BackEnd {
public:
    // What it says of itself; may be changed while nobody is connected.
    Features features = VIRTIO_F_VERSION_1 | wire::VHOST_USER_F_PROTOCOL_FEATURES;
    std::uint64_t protocol = wire::VHOST_USER_PROTOCOL_F_MQ |
                             wire::VHOST_USER_PROTOCOL_F_REPLY_ACK |
                             wire::VHOST_USER_PROTOCOL_F_CONFIG;
    std::uint64_t queues = 2;
    std::vector<std::byte> config = std::vector<std::byte>(60);
    std::atomic<bool> up{true};
    // A request that is answered with these bytes instead.
    std::optional<wire::Request> odd_request;
    std::vector<std::byte> odd_answer;
    // What it was told.
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<unsigned> connections{0}, stops{0};

    ~BackEnd() { die(); }

    // A connected socket; the rings of an earlier connection are forgotten.
    base::Result<base::Fd> connect()
    {
        die();
        if (!up) return base::io_error("test: nobody listens");
        std::array<int, 2> pair{};
        ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
        socket_ = base::Fd{pair[1]};
        rings_.clear();
        ++connections;
        thread_ = std::thread{[this] { serve(); }};
        return base::Fd{pair[0]};
    }
    // As if the process had been killed. The memory stays mapped, as that of one that lingers.
    void die()
    {
        if (!thread_.joinable()) return;
        ::shutdown(socket_.get(), SHUT_RDWR);
        thread_.join();
        socket_.reset();
    }

    struct Descriptors {
        std::uint16_t head;
        std::vector<SplitDescriptor> parts;
    };
    [[nodiscard]] bool running(unsigned ring)
    {
        const std::lock_guard lock{mutex_};
        return rings_.contains(ring) && rings_.at(ring).enabled;
    }
    // What the front end has made available and was not taken yet.
    std::vector<Descriptors> take(unsigned index)
    {
        const std::lock_guard lock{mutex_};
        std::vector<Descriptors> found;
        if (!rings_.contains(index)) return found;
        Ring& ring = rings_.at(index);
        while (ring.taken != load<std::uint16_t>(ring.available + 2)) {
            Descriptors chain;
            chain.head = load<std::uint16_t>(ring.available + 4 + 2 * (ring.taken % ring.size));
            std::uint16_t at = chain.head;
            do {
                chain.parts.push_back(load<SplitDescriptor>(ring.descriptors + 16 * at));
                at = chain.parts.back().next;
            } while ((chain.parts.back().flags & VIRTQ_DESC_F_NEXT) != 0);
            ++ring.taken;
            found.push_back(chain);
        }
        return found;
    }
    void use(unsigned index, std::uint32_t id, std::uint32_t written, int step = 1)
    {
        const std::lock_guard lock{mutex_};
        Ring& ring = rings_.at(index);
        std::byte* at = ring.used + 4 + 8 * (ring.finished % ring.size);
        std::memcpy(at, &id, 4);
        std::memcpy(at + 4, &written, 4);
        ring.finished = static_cast<std::uint16_t>(ring.finished + step);
        std::atomic_ref{*reinterpret_cast<std::uint16_t*>(ring.used + 2)}.store(ring.finished);
    }
    void call(unsigned index)
    {
        const std::lock_guard lock{mutex_};
        const std::uint64_t one = 1;
        ASSERT(::write(rings_.at(index).call.get(), &one, 8) == 8);
    }
    void finish(unsigned index, std::uint32_t id, std::uint32_t written)
    {
        use(index, id, written);
        call(index);
    }
    [[nodiscard]] std::byte* memory(std::uint64_t gpa)
    {
        for (const Region& region : regions_) {
            if (gpa - region.gpa < region.size) return region.bytes + (gpa - region.gpa);
        }
        return nullptr;
    }
    // To the used index of the ring, for later.
    [[nodiscard]] std::byte* used_area(unsigned index) { return rings_.at(index).used; }

private:
    struct Ring {
        std::uint16_t size = 0, taken = 0, finished = 0;
        std::byte *descriptors = nullptr, *available = nullptr, *used = nullptr;
        base::Fd kick, call;
        bool enabled = false;
    };
    struct Region {
        std::uint64_t gpa, size;
        std::byte* bytes;
    };
    template <typename T>
    static T load(const std::byte* at)
    {
        T value{};
        std::memcpy(&value, at, sizeof value);
        return value;
    }

    void serve()
    {
        for (;;) {
            wire::Header header{};
            std::array<std::byte, 512> payload{};
            std::vector<base::Fd> fds;
            if (!receive(header, payload, fds)) return;
            const std::lock_guard lock{mutex_};
            handle(header, std::span{payload}.first(header.size), fds);
        }
    }
    bool receive(wire::Header& header, std::span<std::byte> payload, std::vector<base::Fd>& fds)
    {
        iovec part{&header, sizeof header};
        alignas(cmsghdr) std::array<std::byte, 256> control{};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        if (::recvmsg(socket_.get(), &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) !=
            static_cast<ssize_t>(sizeof header)) {
            return false;
        }
        for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
            const std::size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = 0; i < count; ++i) {
                int fd = -1;
                std::memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
                fds.emplace_back(fd);
            }
        }
        ASSERT(header.size <= payload.size());
        return header.size == 0 || ::recv(socket_.get(), payload.data(), header.size,
                                          MSG_WAITALL) == static_cast<ssize_t>(header.size);
    }
    void answer(const wire::Header& to, std::span<const std::byte> payload)
    {
        const wire::Header header{to.request, wire::flag_version | wire::flag_reply,
                                  static_cast<std::uint32_t>(payload.size())};
        send(std::as_bytes(std::span{&header, 1}));
        send(payload);
    }
    void answer_number(const wire::Header& to, std::uint64_t value)
    {
        answer(to, std::as_bytes(std::span{&value, 1}));
    }
    void send(std::span<const std::byte> bytes)
    {
        static_cast<void>(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
    }

    void handle(const wire::Header& header, std::span<const std::byte> payload,
                std::vector<base::Fd>& fds)
    {
        using enum wire::Request;
        const auto request = static_cast<wire::Request>(header.request);
        if (request == odd_request) return send(odd_answer);
        const auto state = [&] { return load<wire::VringState>(payload.data()); };
        switch (request) {
        case GET_FEATURES: return answer_number(header, features);
        case GET_PROTOCOL_FEATURES: return answer_number(header, protocol);
        case GET_QUEUE_NUM: return answer_number(header, queues);
        case SET_FEATURES: accepted = load<std::uint64_t>(payload.data()); break;
        case GET_CONFIG: {
            std::vector<std::byte> all(payload.begin(), payload.end());
            const auto asked = load<wire::ConfigHeader>(payload.data());
            ASSERT(asked.size == config.size());
            std::memcpy(all.data() + sizeof asked, config.data(), config.size());
            return answer(header, all);
        }
        case SET_MEM_TABLE: map(load<wire::MemoryTable>(payload.data()), fds); break;
        case SET_VRING_NUM:
            rings_[state().index].size = static_cast<std::uint16_t>(state().value);
            break;
        case SET_VRING_BASE: {
            Ring& ring = rings_[state().index];
            ring.taken = ring.finished = static_cast<std::uint16_t>(state().value);
            break;
        }
        case SET_VRING_ADDR: {
            const auto address = load<wire::VringAddress>(payload.data());
            Ring& ring = rings_[address.index];
            ring.descriptors = memory(address.descriptors);
            ring.available = memory(address.available);
            ring.used = memory(address.used);
            ASSERT(ring.descriptors != nullptr && ring.available != nullptr);
            break;
        }
        case SET_VRING_KICK: rings_[ring_of(payload)].kick = std::move(fds.at(0)); break;
        case SET_VRING_CALL: rings_[ring_of(payload)].call = std::move(fds.at(0)); break;
        case SET_VRING_ENABLE: rings_[state().index].enabled = state().value != 0; break;
        case GET_VRING_BASE: {
            ++stops;
            const wire::VringState rest{state().index, rings_[state().index].taken};
            rings_[rest.index].enabled = false;
            return answer(header, std::as_bytes(std::span{&rest, 1}));
        }
        default: break;
        }
        if ((header.flags & wire::flag_need_reply) != 0) answer_number(header, 0);
    }
    static unsigned ring_of(std::span<const std::byte> payload)
    {
        return static_cast<unsigned>(load<std::uint64_t>(payload.data()));
    }
    void map(const wire::MemoryTable& table, const std::vector<base::Fd>& fds)
    {
        ASSERT(table.count == fds.size());
        regions_.clear();
        for (unsigned i = 0; i < table.count; ++i) {
            const wire::MemoryRegion& region = table.regions[i];
            void* at = ::mmap(nullptr, region.size, PROT_READ | PROT_WRITE, MAP_SHARED,
                              fds[i].get(), static_cast<off_t>(region.offset));
            ASSERT(at != MAP_FAILED);
            regions_.push_back({region.gpa, region.size, static_cast<std::byte*>(at)});
        }
    }

    std::mutex mutex_;
    base::Fd socket_;
    std::thread thread_;
    std::map<unsigned, Ring> rings_;
    std::vector<Region> regions_;
};

class BackEndSource final : public backends::vhost_user::Source {
public:
    explicit BackEndSource(BackEnd& back_end) : back_end_(back_end) {}
    [[nodiscard]] base::Result<base::Fd> connect() override { return back_end_.connect(); }
    [[nodiscard]] std::string name() const override { return "vhost-user:test"; }

private:
    BackEnd& back_end_;
};

}  // namespace doppel::devices::virtio
