// The commons: memory (a memfd) that the VMM makes for one VM, and all of its workers share.
//
//   Commons { a seat for each vCPU, where doorbells are bound } │ code map │ lost writes
//
// A seat is where others reach a vCPU: what waits for it, how it is made to look, and what it has
// to do about code before it runs guest code again.
//
//   vCPU 1 has code of a page for the first time    vCPU 0 may show the page writable
//      its bit in the code map, then a note ──────▶    shows it read-only from now on
//   vCPU 0 has written to a page with a bit of vCPU 1
//      a note ───────────────────────────────────▶  vCPU 1 drops its code, and the bit
//
// Who wrote the note waits until it has been taken. A vCPU that is outside (halted, or the VMM
// answers its exit) takes its notes before it is inside again: nobody waits for it. Who waits is
// outside meanwhile, so two that wait for each other go on. worker/siblings.h does all that.
//
// The code map says of which page which vCPU has decoded or translated code: bit n of the page's word
// is vCPU n's (GuestMemory::share_code_map()). The VMM looks there when a device writes. The lost
// writes are words of the same kind: of pages whose note of a write found no room.
//
// The VMM believes nothing of it: a worker may write what it likes.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "engine/translate/link/doorbell_table.h"
#include "engine/translate/link/futex.h"
#include "x86/lapic/lapic.h"

namespace doppel::engine::translate {

inline constexpr unsigned vcpus_max = 64;  // bits of the code map's words

// Seat::in_guest: how the worker is made to look at `attention`.
inline constexpr std::uint32_t in_engine = 0;      // it looks before it runs guest code
inline constexpr std::uint32_t in_guest_code = 1;  // by the kick signal
inline constexpr std::uint32_t asleep_in_hlt = 2;  // by a futex wake of `attention`

// About a page of memory, in its lowest bits, since its offset is page-aligned.
inline constexpr std::uint64_t note_watched = 0;  // somebody has code of the page
inline constexpr std::uint64_t note_written = 1;  // somebody wrote to it
inline constexpr unsigned notes_max = 4096;

struct Seat {
    // Set by anyone who wants the worker to look (with the kick signal if it runs guest code, a
    // futex wake if it or the VMM for it sleeps).
    alignas(64) std::atomic<std::uint32_t> attention;  // futex
    std::atomic<std::uint32_t> in_guest;               // worker: see above
    std::atomic<std::uint32_t> vmm_waits;              // the VMM's thread sleeps on `attention`

    // IPIs by other workers: vectors that are requested, and the rest as flags.
    alignas(64) std::atomic<std::uint64_t> vectors[4];
    std::atomic<std::uint32_t> nmi, init;
    std::atomic<std::uint32_t> startup;                // SIPI: startup_bit and its vector
    std::atomic<std::uint32_t> unhalted;               // EventState::unhalted, by any worker

    // Written by the worker: where messages find its local APIC.
    alignas(64) std::atomic<std::uint64_t> apic_address;

    // Notes.
    alignas(64) std::atomic<std::uint32_t> inside;     // worker: it may run guest code
    std::atomic<std::uint32_t> taken;                  // worker: so many notes; a futex
    std::atomic<std::uint32_t> awaited;                // somebody sleeps on `taken`
    std::atomic<std::uint32_t> summoned;               // it has been sent summons_signal()
    alignas(64) std::atomic<std::uint32_t> written;    // so many notes
    std::atomic<std::uint32_t> lock;                   // of what follows
    std::uint32_t note_count;                          // in notes; more than there is room: some are lost
    std::uint64_t notes[notes_max];
};
inline constexpr std::uint32_t startup_bit = 0x100;

struct Commons {
    // Written by the VMM before any vCPU is created.
    std::uint32_t vcpus;
    std::int32_t workers[vcpus_max];                   // process ids

    alignas(64) std::atomic<std::uint32_t> inside;     // vCPUs that are
    // Of the guest's TSC: of the vCPU that was last given a state. Under tsc_lock.
    alignas(64) std::atomic<std::uint32_t> tsc_lock;
    std::uint32_t tsc_offset_known;
    std::uint64_t tsc_offset;

    alignas(64) DoorbellTable doorbells;
    Seat seats[vcpus_max];
};

inline constexpr std::uint64_t commons_code_map = (sizeof(Commons) + 4095) & ~std::uint64_t{4095};

// memory_end: GuestMemory::end(). Of one of the two maps.
constexpr std::uint64_t commons_map_size(std::uint64_t memory_end)
{
    return (memory_end / 4096 * sizeof(std::uint64_t) + 4095) / 4096 * 4096;
}
constexpr std::uint64_t commons_size(std::uint64_t memory_end)
{
    return commons_code_map + 2 * commons_map_size(memory_end);
}

// ---- making a worker look --------------------------------------------------------------------------

// signal(): sends the worker's vCPU thread the kick signal. Returns what was needed.
enum class Poked : std::uint8_t { nothing, signal, wake };
template <typename Signal>
Poked poke(Seat& seat, Signal&& signal)
{
    // Set already: whoever set it has done the rest, or is about to. The worker clears it
    // before it looks at what it announces.
    if (seat.attention.exchange(1, std::memory_order_seq_cst) != 0) return Poked::nothing;
    const std::uint32_t where = seat.in_guest.load(std::memory_order_seq_cst);
    if (where == in_guest_code) {
        signal();
        return Poked::signal;
    }
    if (where != asleep_in_hlt && seat.vmm_waits.load(std::memory_order_seq_cst) == 0) {
        return Poked::nothing;
    }
    futex_wake(seat.attention);
    return Poked::wake;
}

// ---- where messages find a local APIC ----------------------------------------------------------------

inline std::uint64_t pack(const x86::LocalApic::Address& address)
{
    return address.logical_id | std::uint64_t{address.model} << 32 |
           std::uint64_t{address.enabled} << 40 | std::uint64_t{address.x2apic} << 41 |
           std::uint64_t{address.accepts} << 42;
}

inline x86::LocalApic::Address unpack(std::uint64_t packed, std::uint32_t id)
{
    x86::LocalApic::Address address;
    address.id = id;
    address.logical_id = static_cast<std::uint32_t>(packed);
    address.model = static_cast<std::uint8_t>(packed >> 32);
    address.enabled = (packed >> 40 & 1) != 0;
    address.x2apic = (packed >> 41 & 1) != 0;
    address.accepts = (packed >> 42 & 1) != 0;
    return address;
}

// The vCPUs that the message is for, as bits. Of those that a lowest-priority message may go to,
// the first that accepts interrupts.
inline std::uint64_t destinations(const Commons& commons, unsigned vcpus,
                                  const x86::ApicMessage& message, unsigned sender)
{
    std::uint64_t found = 0;
    for (unsigned i = 0; i < vcpus; ++i) {
        const auto address =
            unpack(commons.seats[i].apic_address.load(std::memory_order_relaxed), i);
        if (!x86::LocalApic::matches(message, address, i == sender)) continue;
        const std::uint64_t bit = std::uint64_t{1} << i;
        if (message.mode == x86::DeliveryMode::lowest_priority) {
            if (!address.accepts) continue;
            return bit;
        }
        found |= bit;
    }
    return found;
}

}  // namespace doppel::engine::translate
