// The run loop: finds blocks, runs their ops, delivers faults, steps where every instruction
// has to be looked at (TF, breakpoints, interrupt shadow, restarts of device accesses).
#pragma once

#include <cstdint>
#include <optional>

#include "engine/interpret/block_cache.h"
#include "engine/interpret/core.h"
#include "engine/interpret/decoder.h"
#include "engine/interpret/interpreter.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret {

class Runner {
public:
    using Stop = Interpreter::Stop;

    Runner(Core& core, System& system, BlockCache& blocks)
        : core_(core), system_(system), blocks_(blocks), decoder_(core)
    {
    }

    // As Interpreter::execute().
    Stop run(std::uint64_t instructions) noexcept;
    // As Interpreter::execute_while().
    Stop run_while(std::uint64_t flags) noexcept;
    // As Interpreter::execute_briefly().
    Stop run_briefly(std::uint64_t flags, std::uint64_t instructions) noexcept;
    // As Interpreter::step().
    Stop run_one() noexcept;
    // As Interpreter::try_step().
    Interpreter::Tried try_one() noexcept;
    // As Interpreter::deliver_fault().
    bool deliver_fault(const Fault& fault) noexcept;

private:
    using MaybeStop = std::optional<Stop>;
    enum class Limit { none, ops };

    // Runs blocks one after another until something has to be looked at. `end`: value of
    // core.instructions to stop at.
    MaybeStop run_blocks(std::uint64_t end);
    Stop run_to_stop(std::uint64_t instructions);
    // Runs ops of a block, with Limit::ops at most `limit` of them. `last`: the op it ended with.
    template <Limit limit_kind>
    Flow run_ops(const Block& block, std::uint64_t limit, const Op*& last);
    MaybeStop step();
    MaybeStop look();

    // The block at state.rip; nullptr: core.fault is set.
    Block* find_block(unsigned max_ops);
    [[nodiscard]] bool must_step() const;
    [[nodiscard]] bool must_look() const
    {
        return core_.end_block_ || core_.attention.load(std::memory_order_relaxed) ||
               (core_.state.rflags & core_.interrupt_window) != 0 || flags_left() || must_step();
    }
    [[nodiscard]] bool flags_left() const
    {
        return (core_.run_while & ~core_.state.rflags) != 0;
    }
    void fetch_vectors();
    [[nodiscard]] Block* current_block()
    {
        const std::uint64_t rip = core_.state.rip;
        Block* block = blocks_.jump_entry(rip);
        const bool found = block != nullptr && blocks_.current(*block, rip, core_.mode_key);
        return found ? block : nullptr;
    }
    // Before the first instruction of a call.
    void begin();
    void advance(std::uint64_t bytes);
    // The instruction at state.rip raised core.fault. Its op if it has one.
    MaybeStop deliver(const Op* op);
    MaybeStop stop_for_exit();

    Core& core_;
    System& system_;
    BlockCache& blocks_;
    Decoder decoder_;
    // Of run_briefly(): stop where vector registers are wanted; they are.
    bool without_vectors_ = false;
    bool vectors_wanted_ = false;
};

}  // namespace doppel::engine::interpret
