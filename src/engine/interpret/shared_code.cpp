#include "engine/interpret/shared_code.h"

#include <sys/mman.h>

#include <algorithm>

namespace doppel::engine::interpret {

base::Result<std::unique_ptr<SharedCode>> SharedCode::create(std::uint64_t ram_end)
{
    const std::uint64_t bytes = (ram_end >> base::page_shift) * sizeof(std::uint64_t);
    auto region = TRY(base::MappedRegion::map(bytes, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
    return std::unique_ptr<SharedCode>{new SharedCode{std::move(region), ram_end}};
}

void SharedCode::join(unsigned vcpu, std::atomic<bool>& attention)
{
    seats_[vcpu].attention = &attention;
}

void SharedCode::watch(unsigned vcpu, std::uint64_t ram_offset)
{
    page(ram_offset).fetch_or(bit(vcpu), std::memory_order_seq_cst);
    Pending pending;
    pending.page = ram_offset >> base::page_shift;
    bool waiting = false;
    for (unsigned other = 0; other < most_vcpus; ++other) {
        Seat& seat = seats_[other];
        if (other == vcpu || seat.attention == nullptr) continue;
        std::uint64_t ticket = 0;
        {
            const std::lock_guard lock{seat.mutex};
            if (seat.messages.watched.size() == most_listed) {
                seat.messages.watched.clear();
                seat.messages.all_watched = true;
            }
            seat.messages.watched.push_back(pending.page);
            ticket = ++seat.messages.ticket;
        }
        seat.attention->store(true, std::memory_order_seq_cst);
        // One that enters after this look reads the message first.
        if (!seat.inside.load(std::memory_order_seq_cst)) continue;
        pending.tickets[other] = ticket;
        waiting = true;
    }
    if (waiting) seats_[vcpu].pending.push_back(pending);
}

void SharedCode::unwatch(unsigned vcpu, std::uint64_t ram_offset)
{
    page(ram_offset).fetch_and(~bit(vcpu), std::memory_order_seq_cst);
    std::erase_if(seats_[vcpu].pending, [page = ram_offset >> base::page_shift](const Pending& p) {
        return p.page == page;
    });
}

bool SharedCode::settled(unsigned vcpu, std::uint64_t ram_offset)
{
    auto& all = seats_[vcpu].pending;
    if (all.empty()) return true;
    const auto found = std::find_if(all.begin(), all.end(),
                                    [page = ram_offset >> base::page_shift](const Pending& p) {
                                        return p.page == page;
                                    });
    if (found == all.end()) return true;
    for (unsigned other = 0; other < most_vcpus; ++other) {
        if (found->tickets[other] == 0) continue;
        Seat& seat = seats_[other];
        if (seat.inside.load(std::memory_order_seq_cst) &&
            seat.settled.load(std::memory_order_acquire) < found->tickets[other]) {
            return false;
        }
        found->tickets[other] = 0;
    }
    all.erase(found);
    return true;
}

void SharedCode::written(unsigned vcpu, std::uint64_t ram_offset, std::uint64_t size)
{
    if (size == 0) return;
    std::uint64_t others = 0;
    for (std::uint64_t at = ram_offset & ~base::page_mask; at < ram_offset + size;
         at += base::page_size) {
        others |= page(at).load(std::memory_order_relaxed);
    }
    others &= ~bit(vcpu);
    for (unsigned other = 0; other < most_vcpus; ++other) {
        Seat& seat = seats_[other];
        if ((others & bit(other)) == 0 || seat.attention == nullptr) continue;
        {
            const std::lock_guard lock{seat.mutex};
            auto& listed = seat.messages.written;
            if (listed.size() == most_listed) listed.assign(1, {0, ram_end_});
            listed.push_back({ram_offset, size});
        }
        seat.attention->store(true, std::memory_order_seq_cst);
    }
}

SharedCode::Messages SharedCode::take(unsigned vcpu)
{
    Seat& seat = seats_[vcpu];
    const std::lock_guard lock{seat.mutex};
    Messages taken = std::move(seat.messages);
    taken.ticket = seat.messages.ticket;
    seat.messages.watched.clear();
    seat.messages.written.clear();
    seat.messages.all_watched = false;
    return taken;
}

}  // namespace doppel::engine::interpret
