// The other vCPUs of the VM, each in a worker of its own: IPIs to them, and what they have to know
// about code. link/commons.h has the protocol.
//
// While a vCPU is inside, others wait until it has taken their notes: pending() is asked before guest
// code is entered and between interpreted instructions, and a summons makes it ask soon.
// With one vCPU there are no siblings, and nobody waits.
//
// Threads: the vCPU thread alone.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/counters.h"
#include "base/fd.h"
#include "base/result.h"
#include "engine/translate/link/commons.h"

namespace doppel::engine::translate {

class Siblings {
public:
    // The commons' maps, a word a page up to `pages`.
    struct Maps {
        std::atomic<std::uint64_t>* code = nullptr;
        std::atomic<std::uint64_t>* lost = nullptr;
        std::uint64_t pages = 0;
    };
    // Opens the others' process descriptors: before the sandbox.
    static base::Result<Siblings> create(Commons& commons, const Maps& maps, unsigned index);

    [[nodiscard]] bool any() const { return count_ > 1; }
    [[nodiscard]] unsigned vcpus() const { return count_; }
    [[nodiscard]] Seat& seat() const { return *seat_; }
    // How many vCPUs are inside: each takes a processor of the host, or two.
    [[nodiscard]] const std::atomic<std::uint32_t>& inside() const { return commons_->inside; }
    [[nodiscard]] std::uint64_t common_tsc_offset(std::uint64_t wanted, std::uint64_t tsc_hz) const;

    // ---- interrupts --------------------------------------------------------------------------------
    // To all others that it is for.
    void send(const x86::ApicMessage& message);
    // A fixed interrupt or NMI, to the others whose APIC IDs are bits that are set. How many take
    // it.
    unsigned send(const x86::ApicMessage& message, std::uint64_t apic_ids);
    // Ends the HLT of the vCPU, or its next one. Any APIC ID.
    void end_halt(std::uint32_t apic_id);
    // The vCPU waits for that one. Any APIC ID.
    void yield_to(std::uint32_t apic_id) const;
    // The message, which may go to one vCPU of several, is this one's.
    [[nodiscard]] bool mine(const x86::ApicMessage& message) const;

    // ---- code ----------------------------------------------------------------------------------------
    // Guest code is about to run, once pending() notes have been taken; or will not for a while.
    void enter();
    void leave();

    struct Notes {
        std::vector<std::uint64_t> watched, written;  // pages, by their offset in RAM
        bool lost = false;  // there were more: who has code is to be looked up, and lost_write()
        std::uint32_t number = 0;
    };
    [[nodiscard]] bool pending() const
    {
        return seat_->written.load(std::memory_order_seq_cst) !=
               seat_->taken.load(std::memory_order_relaxed);
    }
    // The signal has come. Before pending() is asked: who writes a note from now on sends another.
    void heed_summons() { seat_->summoned.store(0, std::memory_order_seq_cst); }
    void take(Notes& notes);
    // What they say has been done.
    void taken(const Notes& notes);

    // Others have decoded or translated code from the page; this vCPU has.
    [[nodiscard]] bool others_hold(std::uint64_t page) const { return (word(page) & ~bit_) != 0; }
    [[nodiscard]] bool holds(std::uint64_t page) const { return (word(page) & bit_) != 0; }
    [[nodiscard]] std::uint64_t pages() const { return maps_.pages; }
    // A note of a write to the page, of which this vCPU has code, was lost. Once.
    [[nodiscard]] bool lost_write(std::uint64_t page)
    {
        auto& lost = maps_.lost[page >> base::page_shift];
        if ((lost.load(std::memory_order_relaxed) & bit_) == 0) return false;
        lost.fetch_and(~bit_);
        return true;
    }

    // This vCPU has code of the page from now on: its bit is set. When it returns, all others have
    // protected the page, and the vCPU's own notes are to be taken.
    void announce(std::uint64_t page);
    // This vCPU has written to the pages. When it returns, all others have dropped their code of
    // them, and the vCPU's own notes are to be taken.
    void tell(std::span<const std::uint64_t> pages);

    void counters(base::CounterList& list) const;

private:
    [[nodiscard]] std::uint64_t word(std::uint64_t page) const
    {
        return maps_.code[page >> base::page_shift].load(std::memory_order_seq_cst);
    }
    // The message says not where to, but what.
    void deliver(const x86::ApicMessage& message, std::uint64_t vcpus);
    void make_look(unsigned vcpu);
    // The number of notes then.
    std::uint32_t note(unsigned to, std::uint64_t what);
    void wait_for(std::uint64_t vcpus, const std::array<std::uint32_t, vcpus_max>& numbers);
    void wait_for(Seat& seat, std::uint32_t number);
    void summon(unsigned to);

    Commons* commons_ = nullptr;
    Maps maps_;
    unsigned index_ = 0, count_ = 0;
    std::uint64_t bit_ = 0;
    Seat* seat_ = nullptr;
    std::array<base::Fd, vcpus_max> processes_;
    struct {
        std::uint64_t announced = 0, told = 0, notes = 0, lost = 0, summons = 0, sleeps = 0, ipis = 0;
    } counts_;
};

}  // namespace doppel::engine::translate
