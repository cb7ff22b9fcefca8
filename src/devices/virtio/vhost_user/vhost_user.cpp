#include "devices/virtio/vhost_user/vhost_user.h"

#include <algorithm>

#include "base/log.h"

namespace doppel::devices::virtio {

using backends::vhost_user::Connection;
using backends::vhost_user::Offer;

namespace {

constexpr std::uint64_t first_retry_ns = 10'000'000, last_retry_ns = 1'000'000'000;
// In all; a back end that comes and goes would fill the log.
constexpr std::uint32_t most_lines = 64;

}  // namespace

VhostUser::VhostUser(std::unique_ptr<VhostUserKind> kind,
                     std::unique_ptr<backends::vhost_user::Source> source, base::EventLoop& loop)
    : kind_(std::move(kind)),
      source_(std::move(source)),
      loop_(loop),
      queues_(kind_->identity().queue_sizes.size())
{
}

base::Result<std::unique_ptr<Device>> VhostUser::create(
    std::unique_ptr<VhostUserKind> kind, std::unique_ptr<backends::vhost_user::Source> source,
    base::EventLoop& loop)
{
    std::unique_ptr<VhostUser> device{new VhostUser{std::move(kind), std::move(source), loop}};
    VhostUser* raw = device.get();
    raw->retry_ = TRY(base::LoopTimer::create(loop, [raw] { raw->try_again(); }));
    auto begun = raw->begin();
    if (!begun) {
        return base::Error{begun.error().kind(),
                           begun.error().text() + "; start the back end first"};
    }
    if (!raw->connection_->settle()) {
        std::string why = raw->connection_->problem();
        raw->connection_.reset();
        if (const std::string more = raw->source_->ended(); !more.empty()) why += "; " + more;
        return base::io_error(raw->source_->name() + ": the back end does not work: " + why);
    }
    ASSERT(raw->state_ == State::idle);
    raw->offered_ = (raw->connection_->offer().features & raw->kind_->passed_on()) |
                    raw->kind_->own_features();
    return std::unique_ptr<Device>{std::move(device)};
}

VhostUser::~VhostUser()
{
    // One that is a child goes first, and does not complain that its client has gone.
    static_cast<void>(source_->ended());
    for (const auto& lane : lanes_) {
        if (lane != nullptr) loop_.remove(lane->call.get());
    }
}

base::Result<void> VhostUser::begin()
{
    base::Fd socket = TRY(source_->connect());
    state_ = State::negotiating;
    connected_at_ns_ = base::monotonic_ns();
    connection_ = TRY(Connection::create(loop_, std::move(socket), kind_->backend_config_bytes(),
                                         *this));
    return {};
}

void VhostUser::try_again() noexcept
{
    if (connection_ != nullptr) return;
    const auto begun = begin();
    if (begun) return;
    state_ = State::away;
    retry_after_ns_ = std::min(2 * retry_after_ns_, last_retry_ns);
    retry_->set(base::monotonic_ns() + retry_after_ns_);
}

base::Result<void> VhostUser::check_offer() const
{
    const Offer& offer = connection_->offer();
    if ((offer.features & VIRTIO_F_VERSION_1) == 0) {
        return base::io_error("it knows no device of Virtio 1.0 or later");
    }
    if (offer.queues < queues_.size() && queues_.size() > 1 &&
        kind_->identity().id == DeviceId::block) {
        return base::io_error("it has " + std::to_string(offer.queues) + " queues, and " +
                              std::to_string(queues_.size()) + " are asked for");
    }
    const Features needed = offered_ & kind_->passed_on() & ~kind_->own_features();
    if ((needed & ~offer.features) != 0) {
        return base::io_error("it came back with less features than it had");
    }
    return {};
}

void VhostUser::negotiated() noexcept
{
    if (const auto good = check_offer(); !good) return connection_->fail(good.error().text());
    if (const auto& config = connection_->offer().config; !config.empty()) {
        const auto old = kind_->config();
        const std::vector<std::byte> before{old.begin(), old.end()};
        kind_->take_config(config);
        const bool changed = !std::ranges::equal(before, kind_->config());
        if (changed && listener_ != nullptr) listener_->config_changed();
    }
    state_ = State::idle;
    if (active_ != nullptr) {
        start();
    } else {
        came_back();
    }
}

void VhostUser::came_back()
{
    if (!std::exchange(was_lost_, false)) return;
    ++reconnects_;
    if (base::log_limited(said_, most_lines)) {
        spdlog::warn("{}: the back end is back", source_->name());
    }
}

void VhostUser::start() noexcept
{
    if (const auto made = make_lanes(); !made) {
        take_back();
        return connection_->fail(made.error().text());
    }
    std::vector<backends::vhost_user::RingSetup> rings;
    for (unsigned i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i] == nullptr) continue;
        for (auto& [number, work] : queues_[i].waiting) {
            if (was_lost_) ++resubmitted_;
            hand_on(i, std::move(work));
        }
        queues_[i].waiting.clear();
        static_cast<void>(lanes_[i]->ring.publish());
        const std::uint64_t at = rings_gpa() + i * ShadowRing::bytes;
        rings.push_back({i, ShadowRing::size, at + ShadowRing::descriptors_at,
                         at + ShadowRing::available_at, at + ShadowRing::used_at,
                         lanes_[i]->kick.get(), lanes_[i]->call.get()});
    }
    std::vector<backends::vhost_user::Region> regions{
        {rings_gpa(), ring_memory_.size(), 0, ring_fd_.get()}};
    const memory::GuestMemory& memory = active_->dma().memory();
    for (const memory::Slot& slot : memory.slots()) {
        if (slot.offset >= memory.ram_size()) continue;
        regions.push_back({slot.start.value, slot.size, slot.offset, memory.fd()});
    }
    if (regions.size() > backends::vhost_user::most_regions) {
        take_back();
        return connection_->fail("guest memory has too many parts");
    }
    state_ = State::starting;
    const Features wanted = active_->features() & (kind_->passed_on() | VIRTIO_F_VERSION_1);
    connection_->start(wanted & connection_->offer().features, regions, rings);
}

void VhostUser::started() noexcept
{
    state_ = State::running;
    came_back();
    for (unsigned i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i] == nullptr) continue;
        kick(i);
        process(i);
    }
}

void VhostUser::lost(const std::string& why) noexcept
{
    take_back();
    connection_.reset();
    kind_->forgotten();
    answer_waiting();
    const std::string more = source_->ended();
    if (!std::exchange(was_lost_, true) && base::log_limited(said_, most_lines)) {
        spdlog::warn("{}: the back end is gone: {}{}{}", source_->name(), why,
                     more.empty() ? "" : "; ", more);
    }
    state_ = State::away;
    const std::uint64_t now = base::monotonic_ns();
    const bool lasted = now - connected_at_ns_ >= last_retry_ns;
    retry_after_ns_ =
        lasted ? first_retry_ns : std::clamp(2 * retry_after_ns_, first_retry_ns, last_retry_ns);
    retry_->set(now + retry_after_ns_);
}

void VhostUser::activate(Active& active) noexcept
{
    active_ = &active;
    if (state_ == State::idle) start();
}

void VhostUser::deactivate() noexcept
{
    if (!stop_rings()) connection_->fail("it does not finish its requests for a reset");
    take_back();
    for (QueueState& queue : queues_) queue = {};
    kind_->forgotten();
    active_ = nullptr;
}

// Chains that the back end did not finish: it is gone, or it had no use for them yet. Those that
// were popped last can be put back; what is left is refused.
void VhostUser::drain() noexcept
{
    if (!stop_rings()) connection_->fail("it does not finish its requests");
    take_back();
    for (unsigned i = 0; i < queues_.size(); ++i) {
        if (active_->queue(i) == nullptr) continue;
        give_back(i);
        // To go on afterwards.
        active_->ring(i);
    }
}

// What is not for the next back end either.
void VhostUser::answer_waiting()
{
    for (unsigned i = 0; i < queues_.size(); ++i) {
        auto& waiting = queues_[i].waiting;
        if (waiting.empty()) continue;
        for (auto at = waiting.begin(); at != waiting.end();) {
            const auto written = kind_->answer(active_->dma(), at->second->chain);
            if (!written) {
                ++at;
                continue;
            }
            ++answered_;
            push(i, std::move(at->second), *written);
            at = waiting.erase(at);
        }
        active_->queue(i)->signal();
    }
}

void VhostUser::give_back(unsigned index)
{
    QueueState& state = queues_[index];
    Queue& queue = *active_->queue(index);
    while (!state.waiting.empty() && state.waiting.rbegin()->first == state.popped) {
        queue.unpop(state.waiting.rbegin()->second->chain);
        state.waiting.erase(state.popped--);
    }
    for (auto& [number, work] : state.waiting) {
        const std::uint32_t written = kind_->refuse(active_->dma(), work->chain);
        push(index, std::move(work), written);
    }
    state.waiting.clear();
    queue.signal();
}

void VhostUser::process(unsigned index) noexcept
{
    if (stopping_) return;
    if (state_ == State::idle) start();  // it was drained
    QueueState& state = queues_[index];
    Queue& queue = *active_->queue(index);
    state.full = false;
    unsigned chains = 0;
    bool handed_on = false;
    for (; chains < chains_at_once; ++chains) {
        WorkPointer work = take_work();
        if (!queue.pop(work->chain)) {
            spare_.push_back(std::move(work));
            break;
        }
        work->number = ++state.popped;
        const std::size_t spans = ShadowRing::spans(work->chain);
        if (spans == 0 || spans > ShadowRing::size) {
            push(index, std::move(work), 0);
            queue.broken("a request has no bytes, or lies in too many pieces");
            break;
        }
        auto written = kind_->answer(active_->dma(), work->chain);
        if (!written && !is_shared(work->chain)) {
            written = kind_->refuse(active_->dma(), work->chain);
        }
        if (written) {
            ++answered_;
            push(index, std::move(work), *written);
            continue;
        }
        if (state_ != State::running || !lanes_[index]->ring.has_room(work->chain)) {
            queue.unpop(work->chain);
            --state.popped;
            state.full = true;
            spare_.push_back(std::move(work));
            break;
        }
        ++requests_;
        hand_on(index, std::move(work));
        handed_on = true;
    }
    if (handed_on && lanes_[index]->ring.publish()) kick(index);
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

VhostUser::WorkPointer VhostUser::take_work()
{
    if (spare_.empty()) return std::make_unique<Work>();
    WorkPointer work = std::move(spare_.back());
    spare_.pop_back();
    return work;
}

void VhostUser::push(unsigned index, WorkPointer work, std::uint32_t written)
{
    active_->queue(index)->push(work->chain, written);
    spare_.push_back(std::move(work));
}

void VhostUser::counters(base::CounterList& list, std::string_view prefix) const
{
    const std::string front = std::string{prefix} + '.';
    list.add(front + "requests", requests_);
    list.add(front + "reconnects", reconnects_);
    list.add(front + "resubmitted", resubmitted_);
    list.add(front + "answered_here", answered_);
    list.add(front + "backend_misbehaved", misbehaved_);
}

}  // namespace doppel::devices::virtio
