#include "engine/interpret/runner.h"

#include <algorithm>

namespace doppel::engine::interpret {

namespace {

constexpr std::uint64_t no_end = ~std::uint64_t{0};

}  // namespace

Runner::Stop Runner::run(std::uint64_t instructions) noexcept
{
    const Stop stop = run_to_stop(instructions);
    blocks_.tell_others();
    return stop;
}

Runner::Stop Runner::run_to_stop(std::uint64_t instructions)
{
    const std::uint64_t end = instructions == 0 ? no_end : core_.instructions + instructions;
    begin();
    // An instruction that a device interrupted is finished before anything else happens.
    while (core_.in_device_access()) {
        if (const MaybeStop stop = step()) return *stop;
    }
    for (;;) {
        core_.end_block_ = false;
        blocks_.tell_others();
        if (const MaybeStop stop = look()) return *stop;
        if (core_.instructions >= end) return Stop::budget;
        const MaybeStop stop = must_step() ? step() : run_blocks(end);
        if (stop) return *stop;
        if (flags_left() || vectors_wanted_) return Stop::budget;
    }
}

Runner::Stop Runner::run_while(std::uint64_t flags) noexcept
{
    core_.run_while = flags;
    const Stop stop = run(0);
    core_.run_while = 0;
    return stop;
}

Runner::Stop Runner::run_briefly(std::uint64_t flags, std::uint64_t instructions) noexcept
{
    core_.run_while = flags;
    without_vectors_ = true;
    vectors_wanted_ = false;
    const Stop stop = run(instructions);
    without_vectors_ = vectors_wanted_ = false;
    core_.run_while = 0;
    return stop;
}

void Runner::fetch_vectors()
{
    core_.vectors_elsewhere = false;
    if (core_.observer != nullptr) core_.observer->vectors_wanted();
}

void Runner::begin()
{
    system_.environment_refused = false;
    core_.pending_ = Flow::next;
    core_.non_canonical_ = false;
    core_.device_cursor_ = 0;
}

Runner::Stop Runner::run_one() noexcept
{
    begin();
    core_.end_block_ = false;
    if (core_.in_device_access()) return step().value_or(Stop::budget);
    if (const MaybeStop stop = look()) return *stop;
    if (must_step()) return step().value_or(Stop::budget);
    Block* block = current_block();
    if (block == nullptr) {
        block = find_block(1);
        if (block == nullptr) return deliver(nullptr).value_or(Stop::budget);
    }
    const Op& op = block->ops[0];
    ++core_.stepped[op.opcode];
    if (op.vectors && core_.vectors_elsewhere) fetch_vectors();
    // First: a string instruction that is interrupted takes its count back.
    ++core_.instructions;
    const Flow flow = op.run(core_, op);
    if (flow == Flow::leave) return Stop::budget;
    if (flow == Flow::next) [[likely]] {
        advance(op.length);
        return Stop::budget;
    }
    --core_.instructions;
    const MaybeStop stop = flow == Flow::fault ? deliver(&op) : stop_for_exit();
    return stop.value_or(Stop::budget);
}

Interpreter::Tried Runner::try_one() noexcept
{
    using Tried = Interpreter::Tried;
    begin();
    core_.end_block_ = false;
    core_.state.events.interrupt_shadow = false;  // of the one before
    if (core_.in_device_access() || must_step()) return Tried::refused;
    Block* block = current_block();
    if (block == nullptr) block = find_block(1);
    if (block == nullptr) return Tried::refused;
    const Op& op = block->ops[0];
    if (op.vectors && core_.vectors_elsewhere) return Tried::refused;
    const std::uint64_t before = core_.instructions++;
    const Flow flow = op.run(core_, op);
    core_.pending_ = Flow::next;
    core_.non_canonical_ = false;
    if (flow == Flow::fault || flow == Flow::exit) return Tried::refused;
    if (flow == Flow::next) advance(op.length);
    return core_.instructions == before ? Tried::part : Tried::done;
}

// What may stop the vCPU before the next instruction.
Runner::MaybeStop Runner::look()
{
    if (core_.attention.load(std::memory_order_acquire)) {
        core_.attention.store(false, std::memory_order_seq_cst);
        blocks_.apply_remote_writes();
        return Stop::attention;
    }
    if (core_.state.events.activity != x86::Activity::running) {
        core_.exit = HaltExit{};
        return Stop::exit;
    }
    if ((core_.state.rflags & core_.interrupt_window) != 0 &&
        !core_.state.events.interrupt_shadow) {
        return Stop::attention;
    }
    return std::nullopt;
}

bool Runner::must_step() const
{
    const std::uint64_t watched =
        (core_.state.rflags & (x86::rflags::TF | x86::rflags::RF)) |
        (core_.state.dr7 & x86::dr7::ENABLE_MASK);
    return watched != 0 || core_.state.events.interrupt_shadow;
}

void Runner::advance(std::uint64_t bytes)
{
    core_.state.rip += bytes;
    if (core_.code_size != CodeSize::bits64) core_.state.rip &= 0xffffffff;
}

// ---- lookup ----------------------------------------------------------------------------------

Block* Runner::find_block(unsigned max_ops)
{
    const std::uint64_t rip = core_.state.rip;
    std::uint64_t linear = rip;
    const bool code64 = core_.code_size == CodeSize::bits64;
    const x86::Segment& cs = core_.state.segments[x86::CS];
    if (!code64) {
        if (rip > cs.limit) {
            core_.raise(Vector::GP);
            return nullptr;
        }
        linear = (cs.base + rip) & 0xffffffff;
    }
    std::uint64_t page = 0;
    if (!MemoryAccess::fetch_page(core_, linear, page)) return nullptr;
    if (page == FetchEntry::no_memory) {
        // Nothing answers: all ones, which is an undefined opcode.
        core_.raise(Vector::UD);
        return nullptr;
    }
    if (blocks_.full()) blocks_.clear();

    const std::uint64_t ram_offset = page + (linear & base::page_mask);
    Block* block = blocks_.find(ram_offset, rip, core_.mode_key);
    if (block != nullptr && !code64 && rip + block->bytes - 1 > cs.limit) block = nullptr;
    if (block != nullptr && block->second_page != Block::no_page) {
        std::uint64_t next = (linear & ~base::page_mask) + base::page_size;
        if (!code64) next &= 0xffffffff;
        if (!MemoryAccess::fetch_page(core_, next, page)) return nullptr;
        if (page != block->second_page) block = nullptr;
    }
    if (block == nullptr) block = decoder_.decode(linear, ram_offset, max_ops);
    if (block == nullptr) return nullptr;
    // A transient block is in no table: its `verified` stays 0.
    if (blocks_.find(ram_offset, rip, core_.mode_key) == block) blocks_.verify(*block, linear);
    return block;
}

// ---- running -----------------------------------------------------------------------------------

template <Runner::Limit limit_kind>
Flow Runner::run_ops(const Block& block, std::uint64_t limit, const Op*& last)
{
    const Op* op = block.ops;
    [[maybe_unused]] const Op* const end = op + limit;
    for (;;) {
        const Flow flow = op->run(core_, *op);
        if (flow != Flow::next) [[unlikely]] {
            last = op;
            return flow;
        }
        ++op;
        const bool stop = limit_kind == Limit::ops ? op == end || core_.end_block_ : core_.end_block_;
        if (stop) [[unlikely]] {
            advance(op->offset);
            last = op - 1;
            return Flow::leave;
        }
    }
}

Runner::MaybeStop Runner::run_blocks(std::uint64_t end)
{
    const Op* last = nullptr;
    Block* block = current_block();
    if (block == nullptr) {
        const std::uint64_t left = end - core_.instructions;
        block = find_block(static_cast<unsigned>(std::min<std::uint64_t>(left, BlockCache::max_ops)));
        if (block == nullptr) return deliver(nullptr);
    }
    for (;;) {
        if (core_.vectors_elsewhere && block->vectors) [[unlikely]] {
            vectors_wanted_ = without_vectors_;
            if (vectors_wanted_) return std::nullopt;
            fetch_vectors();
        }
        ++core_.blocks_run;
        const std::uint64_t left = end - core_.instructions;
        const Flow flow = block->count <= left ? run_ops<Limit::none>(*block, 0, last)
                                               : run_ops<Limit::ops>(*block, left, last);
        const auto done = static_cast<std::uint64_t>(last - block->ops);
        if (flow != Flow::leave) [[unlikely]] {
            core_.instructions += done;
            advance(last->offset);
            return flow == Flow::fault ? deliver(last) : stop_for_exit();
        }
        // The op that leaves is an instruction unless it is the synthetic one.
        core_.instructions += std::min<std::uint64_t>(done + 1, block->count);
        if (core_.instructions >= end || must_look()) [[unlikely]] return std::nullopt;

        const std::uint64_t rip = core_.state.rip;
        Block* next = last->link;
        if (next != nullptr && blocks_.current(*next, rip, core_.mode_key)) [[likely]] {
            block = next;
            continue;
        }
        next = blocks_.jump_entry(rip);
        if (next == nullptr || !blocks_.current(*next, rip, core_.mode_key)) {
            // Decoding may drop every block, this one included: leave `last` alone.
            block = find_block(BlockCache::max_ops);
            if (block == nullptr) return deliver(nullptr);
            continue;
        }
        last->link = next;
        block = next;
    }
}

Runner::MaybeStop Runner::step()
{
    const bool tf = (core_.state.rflags & x86::rflags::TF) != 0;
    const bool debugging = tf || system_.debugging();
    if (debugging && !core_.in_device_access() && system_.instruction_breakpoint()) {
        return deliver(nullptr);
    }
    core_.choose_tables();
    core_.stepping = debugging;
    Block* block = current_block();
    if (block == nullptr) {
        block = find_block(1);
        if (block == nullptr) return deliver(nullptr);
    }
    // Both last for one instruction; it may set them again.
    const std::uint64_t resume = core_.state.rflags & x86::rflags::RF;
    const bool shadow = core_.state.events.interrupt_shadow;
    core_.state.rflags &= ~x86::rflags::RF;
    core_.state.events.interrupt_shadow = false;

    const Op& op = block->ops[0];
    if (op.vectors && core_.vectors_elsewhere) fetch_vectors();
    const Flow flow = op.run(core_, op);
    core_.stepping = false;
    if (flow == Flow::fault || flow == Flow::exit) {
        core_.state.rflags |= resume;
        core_.state.events.interrupt_shadow = shadow;
        return flow == Flow::fault ? deliver(&op) : stop_for_exit();
    }
    if (flow == Flow::next) advance(op.length);
    ++core_.instructions;
    core_.retire_device_log();
    core_.end_block_ = true;
    if (debugging && system_.debug_trap(tf)) return deliver(nullptr);
    return std::nullopt;
}

bool Runner::deliver_fault(const Fault& fault) noexcept
{
    begin();
    core_.fault = fault;
    return !deliver(nullptr).has_value();
}

Runner::MaybeStop Runner::deliver(const Op* op)
{
    core_.pending_ = Flow::next;
    if (core_.non_canonical_ && op != nullptr && op->segment == x86::SS) {
        core_.fault.vector = Vector::SS;
    }
    core_.non_canonical_ = false;
    core_.retire_device_log();
    const Fault fault = core_.fault;
    if (system_.deliver_fault(fault)) {
        core_.pending_ = Flow::next;
        core_.non_canonical_ = false;
        return std::nullopt;
    }
    core_.pending_ = Flow::next;
    return Stop::exit;
}

Runner::MaybeStop Runner::stop_for_exit()
{
    core_.pending_ = Flow::next;
    core_.device_cursor_ = 0;
    if (!system_.environment_refused) return Stop::exit;
    core_.retire_device_log();
    return Stop::environment;
}

}  // namespace doppel::engine::interpret
