// The VMM's end of a worker's arena.
#pragma once

#include <atomic>

#include "base/fd.h"
#include "base/mapped_region.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/translate/link/arena.h"

namespace doppel::engine::translate {

class Arena {
public:
    // With the setup filled in.
    static base::Result<Arena> create(const EngineConfig& config, unsigned vcpu_index);

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] Mailbox& mailbox() const { return *mailbox_; }
    [[nodiscard]] Setup& setup() const { return *setup_; }
    [[nodiscard]] DoorbellTable& doorbells() const { return *doorbells_; }
    // Of the RAM page: the worker has decoded or translated code from it.
    [[nodiscard]] bool holds_code(std::uint64_t ram_offset) const
    {
        const std::uint64_t page = ram_offset / arena_offset::page;
        return (code_map_[page / 64].load(std::memory_order_seq_cst) >> (page % 64) & 1) != 0;
    }

private:
    base::Fd fd_;
    base::MappedRegion region_;
    Mailbox* mailbox_ = nullptr;
    Setup* setup_ = nullptr;
    DoorbellTable* doorbells_ = nullptr;
    std::atomic<std::uint64_t>* code_map_ = nullptr;
};

}  // namespace doppel::engine::translate
