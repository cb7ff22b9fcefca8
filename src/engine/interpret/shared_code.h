// Which vCPUs have decoded code from which page of RAM, for interpreters whose guest memory is
// one: a store by one of them has to drop what another one decoded.
//
//   vCPU 1 is about to decode from a page      vCPU 0 has the page in its fast table for stores
//      watch(): its bit, then a message ─────▶   takes it out of there, and says so (settle())
//      meanwhile settled() is false: what it
//      decodes is run once and thrown away
//
//   vCPU 0 stores to a page with a bit
//      after the instruction, written() ─────▶   drops the blocks before its next one
//
// Nobody waits for anybody: a vCPU that does not run (it halts, or its thread has no processor)
// holds nobody up. One that is outside of guest code reads its messages before it enters, so its
// answer is not needed.
//
// Threads: join() and leave() while no vCPU runs; the rest from the vCPU's thread that is given.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/address.h"
#include "base/mapped_region.h"
#include "base/result.h"

namespace doppel::engine::interpret {

class SharedCode {
public:
    static constexpr unsigned most_vcpus = 64;

    struct Write {
        std::uint64_t ram_offset = 0, size = 0;
    };
    // What others had to say to one vCPU. One that halts does not read: what has become too much
    // to list is all of memory.
    static constexpr std::size_t most_listed = 4096;
    struct Messages {
        std::vector<std::uint64_t> watched;  // pages: ram_offset >> page_shift
        bool all_watched = false;
        std::vector<Write> written;
        std::uint64_t ticket = 0;            // for settle()
    };

    static base::Result<std::unique_ptr<SharedCode>> create(std::uint64_t ram_end);

    // attention: set when there are messages.
    void join(unsigned vcpu, std::atomic<bool>& attention);
    void leave(unsigned vcpu) { seats_[vcpu].attention = nullptr; }

    // Somebody has code from the page.
    [[nodiscard]] bool watched(std::uint64_t ram_offset) const
    {
        return page(ram_offset).load(std::memory_order_relaxed) != 0;
    }
    [[nodiscard]] bool watched_by_others(unsigned vcpu, std::uint64_t ram_offset) const
    {
        return (page(ram_offset).load(std::memory_order_relaxed) & ~bit(vcpu)) != 0;
    }
    // Before the bytes are read.
    void watch(unsigned vcpu, std::uint64_t ram_offset);
    void unwatch(unsigned vcpu, std::uint64_t ram_offset);
    // Every store to the page by others since then is, or will be, told of.
    [[nodiscard]] bool settled(unsigned vcpu, std::uint64_t ram_offset);

    // After the stores: [ram_offset, ram_offset + size) was written by this vCPU.
    void written(unsigned vcpu, std::uint64_t ram_offset, std::uint64_t size);

    // The vCPU is about to run guest code, and to read its messages; or runs none.
    void enter(unsigned vcpu) { seats_[vcpu].inside.store(true, std::memory_order_seq_cst); }
    void left(unsigned vcpu) { seats_[vcpu].inside.store(false, std::memory_order_seq_cst); }
    [[nodiscard]] Messages take(unsigned vcpu);
    // What take() gave has been done.
    void settle(unsigned vcpu, const Messages& done)
    {
        seats_[vcpu].settled.store(done.ticket, std::memory_order_release);
    }

private:
    struct Pending {
        std::uint64_t page = 0;
        std::array<std::uint64_t, most_vcpus> tickets{};  // 0: settled
    };
    struct Seat {
        std::atomic<bool>* attention = nullptr;
        std::atomic<bool> inside{false};
        std::atomic<std::uint64_t> settled{0};
        std::mutex mutex;
        Messages messages;             // mutex
        std::vector<Pending> pending;  // its own watches that somebody has not answered yet
    };

    SharedCode(base::MappedRegion region, std::uint64_t ram_end)
        : region_(std::move(region)), ram_end_(ram_end)
    {
    }
    static std::uint64_t bit(unsigned vcpu) { return std::uint64_t{1} << vcpu; }
    [[nodiscard]] std::atomic<std::uint64_t>& page(std::uint64_t ram_offset) const
    {
        return reinterpret_cast<std::atomic<std::uint64_t>*>(
            region_.data())[ram_offset >> base::page_shift];
    }

    base::MappedRegion region_;  // a word a page of RAM: a bit a vCPU
    std::uint64_t ram_end_;
    std::array<Seat, most_vcpus> seats_;
};

}  // namespace doppel::engine::interpret
