#include "engine/translate/worker/siblings.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/translate/link/arena.h"

namespace doppel::engine::translate {

namespace {

// Looks at another vCPU's word before sleeping: longer than a signal takes to be answered.
constexpr unsigned looks = 1000;
// Whoever wakes a sleeper may have looked before it slept only if it has ended.
constexpr std::uint64_t sleep_ns = 1'000'000;

// Held for some instructions; whoever holds it may have no processor now.
class Locked {
public:
    explicit Locked(std::atomic<std::uint32_t>& word) : word_(word)
    {
        while (word_.exchange(1, std::memory_order_acquire) != 0) ::sched_yield();
    }
    ~Locked() { word_.store(0, std::memory_order_release); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

private:
    std::atomic<std::uint32_t>& word_;
};

bool reached(std::uint32_t now, std::uint32_t number)
{
    return static_cast<std::int32_t>(now - number) >= 0;
}

}  // namespace

base::Result<Siblings> Siblings::create(Commons& commons, const Maps& maps, unsigned index)
{
    Siblings made;
    made.commons_ = &commons;
    made.maps_ = maps;
    made.index_ = index;
    made.count_ = commons.vcpus;
    made.bit_ = std::uint64_t{1} << index;
    made.seat_ = &commons.seats[index];
    if (index >= made.count_ || made.count_ > vcpus_max) {
        return base::host_error("A number of processors that cannot be");
    }
    for (unsigned i = 0; i < made.count_; ++i) {
        if (i == index) continue;
        made.processes_[i] =
            base::Fd{static_cast<int>(::syscall(SYS_pidfd_open, commons.workers[i], 0))};
        if (!made.processes_[i].valid()) {
            return base::errno_error(base::ErrorKind::host, "Cannot watch another worker", errno);
        }
    }
    return made;
}

// vCPUs that are set to nearly the same time mean the same time.
std::uint64_t Siblings::common_tsc_offset(std::uint64_t wanted, std::uint64_t tsc_hz) const
{
    if (!any()) return wanted;
    const Locked lock{commons_->tsc_lock};
    const auto apart = static_cast<std::int64_t>(wanted - commons_->tsc_offset);
    const auto second = static_cast<std::int64_t>(tsc_hz);
    if (commons_->tsc_offset_known == 0 || apart > second || apart < -second) {
        commons_->tsc_offset = wanted;
    }
    commons_->tsc_offset_known = 1;
    return commons_->tsc_offset;
}

// ---- interrupts --------------------------------------------------------------------------------

bool Siblings::mine(const x86::ApicMessage& message) const
{
    return (destinations(*commons_, count_, message, index_) & bit_) != 0;
}

void Siblings::send(const x86::ApicMessage& message)
{
    deliver(message, destinations(*commons_, count_, message, index_) & ~bit_);
}

unsigned Siblings::send(const x86::ApicMessage& message, std::uint64_t apic_ids)
{
    std::uint64_t to = 0;
    for (unsigned i = 0; i < count_; ++i) {
        const std::uint64_t bit = std::uint64_t{1} << i;
        if ((apic_ids & bit & ~bit_) == 0) continue;
        const auto& address = commons_->seats[i].apic_address;
        if (unpack(address.load(std::memory_order_relaxed), i).takes(message.mode)) to |= bit;
    }
    deliver(message, to);
    return static_cast<unsigned>(std::popcount(to));
}

void Siblings::deliver(const x86::ApicMessage& message, std::uint64_t vcpus)
{
    using x86::DeliveryMode;
    for (unsigned i = 0; i < count_; ++i) {
        if ((vcpus >> i & 1) == 0) continue;
        Seat& seat = commons_->seats[i];
        switch (message.mode) {
        case DeliveryMode::fixed:
        case DeliveryMode::lowest_priority:
            seat.vectors[message.vector / 64].fetch_or(std::uint64_t{1} << (message.vector % 64));
            break;
        case DeliveryMode::nmi: seat.nmi.store(1); break;
        case DeliveryMode::init:
            // A SIPI that came before the INIT is none.
            seat.startup.store(0);
            seat.init.store(1);
            break;
        case DeliveryMode::startup: seat.startup.store(startup_bit | message.vector); break;
        case DeliveryMode::smi:
        case DeliveryMode::reserved:
        case DeliveryMode::external: continue;
        }
        ++counts_.ipis;
        make_look(i);
    }
}

void Siblings::make_look(unsigned vcpu)
{
    poke(commons_->seats[vcpu], [&] {
        ::syscall(SYS_pidfd_send_signal, processes_[vcpu].get(), kick_signal(), nullptr, 0);
    });
}

void Siblings::end_halt(std::uint32_t apic_id)
{
    if (apic_id >= count_) return;
    Seat& seat = commons_->seats[apic_id];
    seat.unhalted.store(1, std::memory_order_seq_cst);
    // Who runs guest code need not stop: it looks once more after it has said that it sleeps.
    if (apic_id == index_ || seat.in_guest.load(std::memory_order_seq_cst) == in_guest_code) return;
    make_look(apic_id);
}

// To that one alone cannot be said: to whoever waits for this processor of the host.
void Siblings::yield_to(std::uint32_t apic_id) const
{
    if (apic_id >= count_) return;
    const Seat& seat = commons_->seats[apic_id];
    if (seat.in_guest.load(std::memory_order_relaxed) != asleep_in_hlt) ::sched_yield();
}

// ---- notes -------------------------------------------------------------------------------------

void Siblings::enter()
{
    if (!any()) return;
    commons_->inside.fetch_add(1, std::memory_order_relaxed);
    // Who writes a note looks at this afterwards; the notes are looked at after this.
    seat_->inside.store(1, std::memory_order_seq_cst);
}

void Siblings::leave()
{
    if (!any()) return;
    seat_->inside.store(0, std::memory_order_seq_cst);
    commons_->inside.fetch_sub(1, std::memory_order_relaxed);
    if (seat_->awaited.load(std::memory_order_seq_cst) != 0) futex_wake(seat_->taken);
}

void Siblings::take(Notes& notes)
{
    notes.watched.clear();
    notes.written.clear();
    const Locked lock{seat_->lock};
    const std::uint32_t count = std::min(seat_->note_count, notes_max);
    notes.lost = seat_->note_count > notes_max;
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint64_t what = seat_->notes[i];
        const std::uint64_t page = what & ~base::page_mask;
        if (page >> base::page_shift >= maps_.pages) continue;
        ((what & base::page_mask) == note_written ? notes.written : notes.watched).push_back(page);
    }
    seat_->note_count = 0;
    notes.number = seat_->written.load(std::memory_order_relaxed);
    counts_.notes += count;
    counts_.lost += notes.lost ? 1 : 0;
}

void Siblings::taken(const Notes& notes)
{
    seat_->taken.store(notes.number, std::memory_order_seq_cst);
    if (seat_->awaited.load(std::memory_order_seq_cst) != 0) futex_wake(seat_->taken);
}

std::uint32_t Siblings::note(unsigned to, std::uint64_t what)
{
    Seat& seat = commons_->seats[to];
    const Locked lock{seat.lock};
    if (seat.note_count < notes_max) {
        seat.notes[seat.note_count] = what;
    } else if ((what & base::page_mask) == note_written) {
        maps_.lost[what >> base::page_shift].fetch_or(std::uint64_t{1} << to);
    }
    if (seat.note_count <= notes_max) ++seat.note_count;
    const std::uint32_t number = seat.written.load(std::memory_order_relaxed) + 1;
    seat.written.store(number, std::memory_order_seq_cst);
    return number;
}

void Siblings::announce(std::uint64_t page)
{
    if (!any()) return;
    ++counts_.announced;
    std::array<std::uint32_t, vcpus_max> numbers{};
    std::uint64_t awaited = 0;
    for (unsigned i = 0; i < count_; ++i) {
        if (i == index_) continue;
        numbers[i] = note(i, page | note_watched);
        awaited |= std::uint64_t{1} << i;
    }
    wait_for(awaited, numbers);
}

void Siblings::tell(std::span<const std::uint64_t> pages)
{
    if (!any()) return;
    std::array<std::uint32_t, vcpus_max> numbers{};
    std::uint64_t awaited = 0;
    for (const std::uint64_t page : pages) {
        const std::uint64_t holders = word(page) & ~bit_;
        for (unsigned i = 0; i < count_; ++i) {
            if ((holders >> i & 1) == 0) continue;
            ++counts_.told;
            numbers[i] = note(i, page | note_written);
            awaited |= std::uint64_t{1} << i;
        }
    }
    wait_for(awaited, numbers);
}

void Siblings::wait_for(std::uint64_t vcpus, const std::array<std::uint32_t, vcpus_max>& numbers)
{
    for (unsigned i = 0; i < count_; ++i) {
        if ((vcpus >> i & 1) == 0) continue;
        if (commons_->seats[i].inside.load(std::memory_order_seq_cst) == 0) {
            vcpus &= ~(std::uint64_t{1} << i);
        } else {
            summon(i);
        }
    }
    if (vcpus == 0) return;
    // Outside, so that those who wait for this one go on.
    leave();
    for (unsigned i = 0; i < count_; ++i) {
        if ((vcpus >> i & 1) != 0) wait_for(commons_->seats[i], numbers[i]);
    }
    enter();
}

void Siblings::wait_for(Seat& seat, std::uint32_t number)
{
    const auto done = [&](std::uint32_t taken) {
        return reached(taken, number) || seat.inside.load(std::memory_order_seq_cst) == 0;
    };
    for (unsigned i = 0; i < looks; ++i) {
        if (done(seat.taken.load(std::memory_order_seq_cst))) return;
        __builtin_ia32_pause();
    }
    ++counts_.sleeps;
    seat.awaited.fetch_add(1, std::memory_order_seq_cst);
    for (;;) {
        const std::uint32_t taken = seat.taken.load(std::memory_order_seq_cst);
        if (done(taken)) break;
        const timespec deadline = to_timespec(monotonic_ns() + sleep_ns);
        futex_wait(seat.taken, taken, &deadline);
    }
    seat.awaited.fetch_sub(1, std::memory_order_relaxed);
}

void Siblings::summon(unsigned to)
{
    if (commons_->seats[to].summoned.exchange(1, std::memory_order_seq_cst) != 0) return;
    ++counts_.summons;
    ::syscall(SYS_pidfd_send_signal, processes_[to].get(), summons_signal(), nullptr, 0);
}

void Siblings::counters(base::CounterList& list) const
{
    if (!any()) return;
    list.add("siblings.ipis", counts_.ipis);
    list.add("siblings.announced_pages", counts_.announced);
    list.add("siblings.written_pages", counts_.told);
    list.add("siblings.notes", counts_.notes);
    list.add("siblings.lost_notes", counts_.lost);
    list.add("siblings.summons", counts_.summons);
    list.add("siblings.sleeps", counts_.sleeps);
}

}  // namespace doppel::engine::translate
