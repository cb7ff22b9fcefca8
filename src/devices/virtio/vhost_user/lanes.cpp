// The part of a vhost-user device that is about the rings it shares with the back end.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "devices/virtio/vhost_user/vhost_user.h"

namespace doppel::devices::virtio {

namespace {

constexpr std::uint64_t gpa_alignment = std::uint64_t{1} << 30;

base::Fd new_event() { return base::Fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}; }

}  // namespace

// Above all of guest memory. Nobody but the back end ever sees this address.
std::uint64_t VhostUser::rings_gpa() const
{
    std::uint64_t end = 0;
    for (const memory::Slot& slot : active_->dma().memory().slots()) {
        end = std::max(end, slot.start.value + slot.size);
    }
    return (end + gpa_alignment - 1) & ~(gpa_alignment - 1);
}

base::Result<void> VhostUser::make_lanes()
{
    ASSERT(lanes_.empty());
    const std::size_t size = queues_.size() * ShadowRing::bytes;
    base::Fd fd{::memfd_create("doppel-vhost-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    // Whoever has the descriptor could make it shorter, and a read here would be a SIGBUS.
    if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
        ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot make memory for its rings", errno);
    }
    ring_memory_ =
        TRY(base::MappedRegion::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get()));
    ring_fd_ = std::move(fd);
    lanes_.resize(queues_.size());
    for (unsigned i = 0; i < queues_.size(); ++i) {
        if (active_->queue(i) == nullptr) continue;
        auto lane = std::make_unique<Lane>(std::span<std::byte, ShadowRing::bytes>{
            ring_memory_.data() + i * ShadowRing::bytes, ShadowRing::bytes});
        lane->kick = new_event();
        lane->call = new_event();
        if (!lane->kick.valid() || !lane->call.valid()) {
            return base::errno_error(base::ErrorKind::host, "Cannot create eventfd", errno);
        }
        // Each write is an event of its own, so that nobody reads: a read could be made to wait.
        TRY(loop_.add(lane->call.get(), EPOLLIN | EPOLLET, [this, i](std::uint32_t) { completed(i); }));
        lanes_[i] = std::move(lane);
    }
    return {};
}

// Memory that is a file of the host is not given away: its size cannot be sealed.
bool VhostUser::is_shared(const Chain& chain) const
{
    const memory::GuestMemory& memory = active_->dma().memory();
    const auto in_ram = [&](const DmaSpan& span) {
        const auto offset = static_cast<std::uint64_t>(span.bytes.data() - memory.ram());
        return offset < memory.ram_size();
    };
    return std::ranges::all_of(chain.readable(), in_ram) &&
           std::ranges::all_of(chain.writable(), in_ram);
}

void VhostUser::hand_on(unsigned index, WorkPointer work)
{
    Lane& lane = *lanes_[index];
    const std::uint16_t head = lane.ring.add(work->chain);
    lane.works[head] = std::move(work);
}

// The back end has the same eventfd: it can fill the counter, and have writes wait.
void VhostUser::kick(unsigned index)
{
    pollfd room{lanes_[index]->kick.get(), POLLOUT, 0};
    if (::poll(&room, 1, 0) != 1) return;  // it has not looked at those before either
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(lanes_[index]->kick.get(), &one, sizeof one);
}

void VhostUser::completed(unsigned index) noexcept
{
    if (index >= lanes_.size() || lanes_[index] == nullptr) return;
    if (!collect(index)) return connection_->fail(lanes_[index]->ring.problem());
    active_->queue(index)->signal();
    if (queues_[index].full) process(index);
}

bool VhostUser::collect(unsigned index)
{
    Lane& lane = *lanes_[index];
    const Dma& dma = active_->dma();
    if (lane.ring.problem() != nullptr) return false;
    while (const auto used = lane.ring.take()) {
        WorkPointer work = std::move(lane.works[used->head]);
        // All of it, whatever the back end says.
        for (const DmaSpan& span : work->chain.writable()) dma.written(span.at, span.bytes.size());
        push(index, std::move(work), used->written);
    }
    if (lane.ring.problem() == nullptr) return true;
    ++misbehaved_;
    return false;
}

bool VhostUser::busy() const
{
    for (unsigned i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i] != nullptr && kind_->ends_by_itself(i) && lanes_[i]->ring.in_flight() != 0) {
            return true;
        }
    }
    return false;
}

// Not every back end finishes what it has before it says that a ring is at rest, so this waits.
bool VhostUser::stop_rings()
{
    if (state_ != State::running && state_ != State::starting) return true;
    stopping_ = true;
    bool good = connection_->settle();  // for starting
    const std::uint64_t deadline =
        base::monotonic_ns() +
        static_cast<std::uint64_t>(
            std::chrono::nanoseconds{backends::vhost_user::Channel::patience}.count());
    std::vector<unsigned> indexes;
    for (unsigned i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i] != nullptr) indexes.push_back(i);
    }
    while (good && busy() && base::monotonic_ns() < deadline) {
        for (const unsigned i : indexes) good = collect(i) && good;
        good = good && connection_->alive();
        if (good && busy()) ::poll(nullptr, 0, 1);
    }
    good = good && !busy() && connection_->stop(indexes);
    stopping_ = false;
    return good;
}

void VhostUser::take_back()
{
    for (unsigned i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i] == nullptr) continue;
        loop_.remove(lanes_[i]->call.get());
        static_cast<void>(collect(i));
        active_->queue(i)->signal();
        for (WorkPointer& work : lanes_[i]->works) {
            if (work == nullptr) continue;
            const std::uint64_t number = work->number;
            queues_[i].waiting.emplace(number, std::move(work));
        }
    }
    lanes_.clear();
    ring_memory_ = {};
    ring_fd_.reset();
    if (state_ == State::running || state_ == State::starting) state_ = State::idle;
}

}  // namespace doppel::devices::virtio
