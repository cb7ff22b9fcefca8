// What the executor does when translated code has been left.
#include <utility>

#include "engine/translate/worker/executor.h"
#include "x86/canonical.h"

namespace doppel::engine::translate {

namespace {

// Vectors as the host reports them.
constexpr std::uint64_t trap_debug = 1, trap_page_fault = 14;
constexpr std::uint64_t error_write = 2;

constexpr std::uint64_t end_of_code32 = std::uint64_t{1} << 32;

}  // namespace

Executor::Next Executor::after_site(const Site& site)
{
    const Exit exit = *site.exit;
    ++site_counts_[static_cast<unsigned>(exit.kind)];
    record(static_cast<std::uint8_t>(exit.kind), exit.target);
    if (exit.kind == ExitKind::vectors && vector_ok_) {
        Mode with_vectors = mode_;
        with_vectors.vector = true;
        Block* block = block_for(exit.target, with_vectors, false);
        if (block != nullptr && block->guest_count != 0) {
            take_fpu();
            mode_ = with_vectors;
            host_rip_ = block->host;
            return Next::resume;
        }
    }
    if (exit.kind == ExitKind::indirect) return after_indirect(site);
    if (exit.kind != ExitKind::direct) {
        if (const auto next = cross(exit.kind, *site.block)) return *next;
        unload_context(exit.target);
        if (must_leave()) {
            stop_ = Stop::attention;
            return Next::stop;
        }
        return interpret_exit(exit.kind, *site.block);
    }
    ++counts_.direct;
    const std::uint32_t number = site.number();
    Block* next = block_for(exit.target, exit.mode, exit.linkable());
    if (next == nullptr) {
        unload_context(exit.target);
        return Next::dispatch;
    }
    // Translating may have made room by dropping the block that was left.
    const Site again = cache().site(number);
    if (again.block == site.block && again.block != nullptr && !again.block->dropped &&
        may_link(again, *next)) {
        cache().link(again, *next, code_space());
        ++code_version_;
    }
    mode_ = exit.mode;
    return go_on_at(*next);
}

// An indirect branch of user code that may learn one more target.
Executor::Next Executor::after_indirect(const Site& site)
{
    const std::uint64_t rip = branch_target();
    const Block* const from = site.block;
    if (!x86::canonical(rip)) return branch_to_nowhere(from);
    const std::uint32_t number = site.number();
    Block* next = may_branch_to(rip) ? block_for(rip, mode_, true, true) : nullptr;
    if (next == nullptr) {
        unload_context(rip);
        return Next::dispatch;
    }
    ++code_version_;
    // Translating may have made room by dropping the block that was left.
    const Site again = cache().site(number);
    const bool learned = again.block == from && !again.block->dropped &&
                         cache().learn(again, *next, code_space());
    if (!learned) cache().enter_target(code_space(), *next);
    if (next->dropped) {
        unload_context(rip);
        return Next::dispatch;
    }
    return go_on_at(*next);
}

// User code is shared by address spaces, so what it jumps to by itself has to begin in its own page
// of RAM; all else it finds by a cell of this space. An exit's number comes from where the guest
// program can write: that is checked here.
bool Executor::may_link(const Site& from, const Block& to) const
{
    if (!mode_.user || from.exit->by_cell()) return true;
    return (to.second_page == Block::no_page || to.by_cell != 0) &&
           ((from.block->ram_offset ^ to.ram_offset) & ~base::page_mask) == 0;
}

// A block that is one exit is left at once, for what it would leave for.
Executor::Next Executor::go_on_at(const Block& block)
{
    if (block.guest_count == 0) {
        unload_context(block.rip);
        return Next::dispatch;
    }
    host_rip_ = block.host;
    return Next::resume;
}

// To code of the same mode: it changes privilege only by other ways; supervisor code may still leave
// for the low half.
bool Executor::may_branch_to(std::uint64_t rip) const
{
    return mode_.code32 || upper_half(rip) != mode_.user;
}

std::uint64_t Executor::branch_target()
{
    return mode_.code32 ? context().target & 0xffffffff : context().target;
}

// FS.base of the host takes the guest's GS.base, folded.
bool Executor::gs_fits() const
{
    return registers_.state->segments[x86::GS].base + fold < user_window_end;
}

// An indirect branch to an address that is not canonical. The fault is the branch's own (Intel's
// processors; AMD's take it behind), so the interpreter does it over again.
Executor::Next Executor::branch_to_nowhere(const Block* from)
{
    stepping_ = false;
    if (from == nullptr || from->points.empty()) {
        unload_context(context().target);
        return Next::dispatch;
    }
    context().gpr[x86::RSP] -= static_cast<std::uint64_t>(std::int64_t{from->branch_rsp});
    unload_context(from->rip + from->points.back().guest);
    return interpret_one();
}

Executor::Next Executor::after_missing_target(std::uint64_t rip)
{
    ++counts_.missing_targets;
    record(0x10, rip);
    Block* next = nullptr;
    if (!mode_.user) {
        // Entries are for the plain mode.
        mode_.vector = false;
    }
    if (may_branch_to(rip)) next = block_for(rip, mode_, true, true);
    if (next == nullptr) {
        unload_context(rip);
        return Next::dispatch;
    }
    cache().enter_target(code_space(), *next);
    ++code_version_;
    if (next->dropped) {
        unload_context(rip);
        return Next::dispatch;
    }
    return go_on_at(*next);
}

Executor::Next Executor::after_fault()
{
    const ExecContext& registers = context();
    if (!cache().contains(registers.host_rip)) return lost("a fault outside the code cache");
    const std::uint64_t from = std::exchange(host_rip_, registers.host_rip);
    resume_exit_ = registers.interrupted_exit;
    if (registers.trap == trap_debug) {
        ++counts_.steps;
        // In the middle of a repeated string instruction, which may have millions to go: as
        // after a fault there, its registers say how far it came.
        if (host_rip_ == from && unload_precisely()) return Next::dispatch;
        return Next::resume;  // enter() looks whether this is an exact point
    }
    ++counts_.faults;
    if (registers.trap == trap_page_fault) {
        return after_page_fault(registers.address, (registers.error & error_write) != 0);
    }
    // A non-canonical address, #DE, #UD and the like: the interpreter finds the same.
    ++counts_.odd_faults;
    record(0x11, registers.trap);
    if (!unload_precisely()) return lost("a fault in code that nobody knows");
    return interpret_one();
}

Executor::Next Executor::after_page_fault(std::uint64_t address, bool write)
{
    record(0x12, address);
    // An access across the end of its 4 GiB, for processors to disagree on.
    if (mode_.code32 && mode_.user && address >= end_of_code32) {
        if (!unload_precisely()) return lost("a page fault in code that nobody knows");
        return interpret_one();
    }
    const Window::Fill filled = at(Place::windows, [&] { return window().fill(address, write); });
    switch (filled) {
    case Window::Fill::mapped:
        return Next::resume;
    case Window::Fill::fault: {
        ++counts_.page_faults_guest;
        const x86::Fault fault = window().fault();
        if (!unload_precisely()) return lost("a page fault in code that nobody knows");
        if (mode_.user) user_fault_ = {true, write, *registers_.rip, address, space_};
        return deliver(fault);
    }
    case Window::Fill::code:
        return after_code_write(window().linear(address));
    case Window::Fill::device:
    case Window::Fill::unmappable:
        break;
    }
    ++counts_.device_faults;
    Block* const block = cache().block_at(host_rip_);
    if (!unload_precisely()) return lost("a device access in code that nobody knows");
    if (filled == Window::Fill::device) learn_device(*block);
    return interpret_one();
}

Executor::Next Executor::deliver(const x86::Fault& fault)
{
    if (lock_step_ != nullptr) lock_step_->fault_delivered();
    if (!interpreter_.deliver_fault(fault)) {
        stop_ = interpreter_.step();  // reports the triple fault
        return Next::stop;
    }
    return Next::dispatch;
}

Executor::Next Executor::after_code_write(std::uint64_t linear)
{
    ++counts_.code_writes;
    const Block* running = cache().block_at(host_rip_);
    const x86::WalkResult found =
        interpreter_.probe(linear, x86::Access::write, mode_.user && !mode_.privileged);
    const auto* translation = std::get_if<x86::Translation>(&found);
    const auto piece = translation == nullptr ? std::nullopt : ram(translation->gpa);
    if (running != nullptr && piece) {
        const std::uint64_t page = piece->offset & ~base::page_mask;
        const bool own = (running->ram_offset & ~base::page_mask) == page ||
                         running->second_page == page;
        // Code of siblings goes once the write has been done: the interpreter does it.
        if (!own && !siblings_.others_hold(page)) {
            interpreter_.code_changed(page, base::page_size);
            drop_code(page);
            interpreter_.unwatch_writes(page);
            return Next::resume;  // faults again and finds the page without code
        }
    }
    // The code overwrites its own page: what follows in this block may be out of date.
    if (!unload_precisely()) return lost("a write in code that nobody knows");
    return interpret_one();
}

Executor::Next Executor::after_kick()
{
    ++counts_.kicks;
    if (!cache().contains(context().host_rip)) return lost("kicked outside the code cache");
    host_rip_ = context().host_rip;
    resume_exit_ = context().interrupted_exit;
    record(0x13, host_rip_);
    return Next::resume;  // enter() leaves at an exact point, or steps to one
}

}  // namespace doppel::engine::translate
