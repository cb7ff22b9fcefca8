// Blocks that run in lock-step with the interpreter: where the executor hands them to LockStep.
#include <utility>

#include "engine/translate/worker/executor.h"

namespace doppel::engine::translate {

// Registers are in the context. False: enter at host_rip_, which may be of another translation
// now. True: they are in the interpreter's state, to be dispatched.
bool Executor::begin_check()
{
    if (lock_step_->armed()) {
        if (lock_step_->covers(host_rip_)) return false;
        lock_step_->abandon();
    }
    if (std::exchange(skip_check_, false) || stepping_) return false;
    const Block* block = cache().block_at(host_rip_);
    if (block == nullptr || block->host != host_rip_ || !lock_step_->due(*block)) return false;

    const std::uint64_t rip = block->rip;
    unload_context(rip);
    Mode alone = mode_;
    alone.alone = true;
    const Block* copy = block_for(rip, alone, false);
    if (copy == nullptr || copy->guest_count == 0) {
        // Written or mapped otherwise meanwhile.
        skip_check_ = true;
        return true;
    }
    if (lock_step_->prepare(*copy)) take_fpu();
    lock_step_->predict();
    load_context();
    host_rip_ = copy->host;
    return false;
}

// The block was left by one of its exits.
Executor::Next Executor::end_check(std::uint32_t exit)
{
    const Site site = exit == exit_no_target ? Site{} : cache().site(exit);
    if (exit != exit_no_target && site.block == nullptr) {
        return lost("translated code left by an exit that does not exist");
    }
    const bool leads_on = site.exit == nullptr || site.exit->kind == ExitKind::direct;
    left_ = leads_on ? LockStep::Left::end : LockStep::Left::stopped;
    unload_context(site.exit == nullptr ? context().target : site.exit->target);
    if (!lock_step_->difference().empty()) return fail(lock_step_->difference());
    if (leads_on) return Next::dispatch;
    load_context();
    return after_site(site);
}

// Registers went back to the interpreter's state.
void Executor::verify_check()
{
    if (lock_step_->armed() && lock_step_->vectors()) take_fpu();
    lock_step_->verify(std::exchange(left_, LockStep::Left::middle));
}

}  // namespace doppel::engine::translate
