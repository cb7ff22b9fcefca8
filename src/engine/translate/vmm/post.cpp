#include "engine/translate/vmm/post.h"

#include <algorithm>

#include "engine/translate/link/futex.h"

namespace doppel::engine::translate {

namespace {

// So many writes to memory may wait; more become one note.
constexpr std::size_t memory_events_max = event_count / 2;

bool same(const Event& a, const Event& b)
{
    return a.kind == b.kind && a.level == b.level && a.address == b.address && a.data == b.data;
}

}  // namespace

void EventPost::post(const Event& event)
{
    {
        const std::lock_guard lock{mutex_};
        ++events_;
        flush_locked();
        if (merge(event)) {
            ++merged_;
        } else {
            queue(event);
        }
    }
    poke();
}

// An event that waits and says the same does for both: the worker takes it later than now.
// For the PIC's line that holds of its latest level only.
bool EventPost::merge(const Event& event)
{
    const auto same_event = [&event](const Event& other) { return same(event, other); };
    const auto same_kind = [&event](const Event& other) { return other.kind == event.kind; };
    switch (event.kind) {
    case Event::msi:
    case Event::nmi:
        return std::any_of(in_ring_.begin(), in_ring_.end(), same_event) ||
               std::any_of(backlog_.begin(), backlog_.end(), same_event);
    case Event::external_interrupt: {
        const auto late = std::find_if(backlog_.rbegin(), backlog_.rend(), same_kind);
        if (late != backlog_.rend()) {
            late->level = event.level;
            return true;
        }
        const auto last = std::find_if(in_ring_.rbegin(), in_ring_.rend(), same_kind);
        return last != in_ring_.rend() && same(*last, event);
    }
    case Event::memory_written:
        if (!in_ring_.empty() && same(in_ring_.back(), event)) return true;
        if (in_ring_.size() < memory_events_max) return false;
        mailbox_.all_memory_written.store(1, std::memory_order_seq_cst);
        return true;
    }
    return true;
}

void EventPost::queue(const Event& event)
{
    if (in_ring_.size() < event_count && backlog_.empty()) {
        mailbox_.events[head_ % event_count] = event;
        in_ring_.push_back(event);
        mailbox_.event_head.store(++head_, std::memory_order_release);
    } else if (backlog_.size() < backlog_max) {
        backlog_.push_back(event);
    }
}

bool EventPost::flush()
{
    const std::lock_guard lock{mutex_};
    flush_locked();
    return !in_ring_.empty();
}

void EventPost::flush_locked()
{
    // What the worker says it took; a lie only harms its own guest.
    const std::uint32_t left = head_ - mailbox_.event_tail.load(std::memory_order_acquire);
    while (in_ring_.size() > left) in_ring_.pop_front();
    while (!backlog_.empty() && in_ring_.size() < event_count) {
        mailbox_.events[head_ % event_count] = backlog_.front();
        in_ring_.push_back(backlog_.front());
        backlog_.pop_front();
        mailbox_.event_head.store(++head_, std::memory_order_release);
    }
}

void EventPost::kick()
{
    mailbox_.kicked.store(1, std::memory_order_seq_cst);
    poke();
}

void EventPost::poke()
{
    const Poked poked = translate::poke(seat_, [this] {
        process_.signal(static_cast<pid_t>(setup_.worker_thread.load(std::memory_order_relaxed)),
                        kick_signal());
    });
    if (poked == Poked::signal) signals_.fetch_add(1, std::memory_order_relaxed);
    if (poked == Poked::wake) wakes_.fetch_add(1, std::memory_order_relaxed);
}

void EventPost::wait(std::uint64_t deadline_ns)
{
    const timespec deadline = to_timespec(deadline_ns);
    seat_.vmm_waits.store(1, std::memory_order_seq_cst);
    while (seat_.attention.load(std::memory_order_seq_cst) == 0 &&
           mailbox_.kicked.load(std::memory_order_seq_cst) == 0 && monotonic_ns() < deadline_ns) {
        futex_wait(seat_.attention, 0, &deadline);
    }
    seat_.vmm_waits.store(0, std::memory_order_relaxed);
}

EventPost::Counters EventPost::counters() const
{
    const std::lock_guard lock{mutex_};
    return {events_, merged_, signals_, wakes_};
}

}  // namespace doppel::engine::translate
