#include "engine/translate/worker/executor.h"

#include <sys/mman.h>

#include <utility>

#include "base/assert.h"
#include "engine/translate/dispatch/supervisor.h"
#include "engine/translate/layout.h"
#include "x86/canonical.h"

namespace doppel::engine::translate {

namespace {

using x86::rflags::AC, x86::rflags::IF, x86::rflags::IOPL, x86::rflags::NT, x86::rflags::RF,
    x86::rflags::TF, x86::rflags::VIF, x86::rflags::VIP, x86::rflags::VM;

// A stretch of interpretation where translated code cannot run at all (real mode, ...).
constexpr std::uint64_t interpreted_stretch = 512;
// One in code that is not worth translating.
constexpr std::uint64_t untranslated_stretch = 32;

// A page of 2 MiB, where the host has one to give: big programs miss the TLB of instructions a lot
// (a run of gcc takes 5 % less). Asked for explicitly, it does not depend on the host's settings for
// shared memory. Linux collapses only what has something in it.
void use_large_page(std::uint8_t* at)
{
    constexpr int madv_collapse = 25;  // Linux 6.1
    const volatile std::uint8_t* const first = at;
    static_cast<void>(*first);
    static_cast<void>(::madvise(at, large_page, madv_collapse));
}

CodeCache::Config supervisor_cache_config(std::uint8_t* alias)
{
    return {.user = false, .address = supervisor_code, .write = alias, .size = supervisor_code_size,
            .common_exit = supervisor_exit_address(), .prepare = use_large_page};
}

CodeCache::Config user_cache_config(UserProcesses& processes)
{
    return {.user = true, .address = user_code, .write = processes.code().data(),
            .size = user_code_size, .common_exit = user_common_exit, .prepare = use_large_page};
}

// With the guest's vector registers in the processor. Nothing may come between the entry and
// the two instructions around it that the compiler could use such a register for.
__attribute__((noinline)) void enter_with_vectors(x86::XsaveArea& area, std::uint64_t components)
{
    const auto low = static_cast<std::uint32_t>(components);
    const auto high = static_cast<std::uint32_t>(components >> 32);
    asm volatile("xrstor64 %0" : : "m"(area), "a"(low), "d"(high) : "memory");
    doppel_enter_supervisor();
    asm volatile("xsave64 %0" : "+m"(area) : "a"(low), "d"(high) : "memory");
}

WindowConfig supervisor_window_config()
{
    WindowConfig config;
    config.user = false;
    config.fold = fold;
    config.begin = worker_low_end;
    config.end = window_end;
    config.holes = {{worker_high, worker_high_end}};
    return config;
}

WindowConfig window32_config()
{
    WindowConfig config;
    config.user = false;
    config.fold = window32;
    config.begin = window32;
    config.end = window32 + window32_size;
    return config;
}

}  // namespace

Executor::Executor(const Parts& parts)
    : interpreter_(parts.interpreter), registers_(parts.interpreter.direct()),
      memory_(parts.memory), cpuid_(parts.cpuid), siblings_(parts.siblings),
      attention_(parts.attention), place_(parts.place),
      supervisor_cache_(supervisor_cache_config(parts.supervisor_code_alias), parts.cpuid),
      user_cache_(user_cache_config(parts.processes), parts.cpuid),
      supervisor_mapper_(parts.memory),
      supervisor_window_(supervisor_window_config(), *this, supervisor_mapper_),
      window32_(window32_config(), *this, supervisor_mapper_),
      spaces_(parts.processes, *this, user_cache_, parts.spaces)
{
    supervisor_space_ = supervisor_cache_.add_space(targets_of_supervisor());
    interpreter_.set_observer(this);
    memory_.add_listener(*this);
    if (parts.lock_step != 0) {
        lock_step_ = std::make_unique<LockStep>(
            LockStep::Parts{interpreter_, memory_, cpuid_, parts.lock_step});
    }
}

Executor::~Executor() { interpreter_.set_observer(nullptr); }

// ---- the loop ------------------------------------------------------------------------------------

Executor::Stop Executor::run(std::uint64_t budget)
{
    if (budget != 0) return interpret_many(budget);
    Next next = Next::dispatch;
    for (;;) {
        switch (next) {
        case Next::dispatch: next = dispatch(); break;
        case Next::resume: next = enter(); break;
        case Next::stop: settle(); return stop_;
        }
    }
}

void Executor::want_interrupt_window(bool wanted)
{
    window_wanted_ = wanted;
    supervisor().pending = wanted ? 1 : 0;
}

bool Executor::must_leave() const
{
    return (attention_.load(std::memory_order_acquire) & called) != 0 ||
           (window_wanted_ && !in_context_ && interpreter_.interruptible());
}

Executor::Stop Executor::interpret_many(std::uint64_t budget)
{
    ++counts_.interpreted_runs;
    return at(Place::interpreter, [&] { return interpreter_.execute(budget); });
}

Executor::Next Executor::interpret_one()
{
    ASSERT(!in_context_);
    ++counts_.interpreted;
    stop_ = at(Place::interpreter, [this] { return interpreter_.step(); });
    return stop_ == Stop::budget ? Next::dispatch : Next::stop;
}

// What no translation may do now.
Executor::Next Executor::interpret_here()
{
    // Conditions that last an instruction or two need no stretch.
    const x86::CpuState& state = *registers_.state;
    Mode mode;
    const bool translatable = state.code64() || eligible_code32(mode);
    if (!translatable || state.events.activity != x86::Activity::running) {
        stop_ = interpret_many(interpreted_stretch);
    } else {
        return accesses_user_memory() ? interpret_user_access() : interpret_one();
    }
    return stop_ == Stop::budget ? Next::dispatch : Next::stop;
}

// From STAC, or what follows it, to CLAC.
Executor::Next Executor::interpret_user_access()
{
    ++counts_.interpreted_runs;
    stop_ = at(Place::interpreter, [this] { return interpreter_.execute_while(AC); });
    return stop_ == Stop::budget ? Next::dispatch : Next::stop;
}

// Between STAC and CLAC, which supervisor code means for a few accesses to the lower half: no
// window of the worker shows that.
bool Executor::accesses_user_memory() const
{
    return (registers_.state->rflags & AC) != 0 && registers_.state->cpl() == 0;
}

Executor::Next Executor::dispatch()
{
    if (lock_step_ != nullptr && !lock_step_->difference().empty()) {
        return fail(lock_step_->difference());
    }
    settle();
    settled_drops_ = false;  // no code is being run
    if (flush_.any) at(Place::windows, [this] { return apply_flushes(), 0; });
    if (must_leave()) {
        stop_ = Stop::attention;
        return Next::stop;
    }
    // Done with the device, not yet with the instruction.
    if (interpreter_.in_device_access()) {
        stop_ = at(Place::interpreter, [this] { return interpreter_.step(); });
        return stop_ == Stop::budget ? Next::dispatch : Next::stop;
    }
    Mode mode;
    if (!eligible(mode)) return interpret_here();
    if (awaits_fs(mode)) return interpret_until_fs();
    mode_ = mode;
    if (!mode.user && mode != targets_mode_) {
        targets_mode_ = mode;
        supervisor_cache_.clear_targets(supervisor_space_);
    }
    if (mode.user) {
        if (!prepare_space(mode)) return fail("the host refused another user process");
        if (user_fault_.pending) fill_after_fault();
    }
    Block* block = block_for(*registers_.rip, mode, false);
    if (block == nullptr) {
        // Code that is rewritten all the time, or none that can be fetched.
        stop_ = interpret_many(untranslated_stretch);
        return stop_ == Stop::budget ? Next::dispatch : Next::stop;
    }
    if (block->guest_count == 0) return interpret_exit(block->exits.front().kind, *block);
    load_context();
    host_rip_ = block->host;
    return Next::resume;
}

bool Executor::prepare_space(const Mode& mode)
{
    const SpaceKind kind = mode.privileged ? SpaceKind::identity
                           : mode.code32  ? SpaceKind::user32
                                          : SpaceKind::user;
    if (space_ == nullptr || !space_->is(page_tables(), kind)) {
        space_ = spaces_.find(page_tables(), kind);
        if (space_ == nullptr) return false;
    }
    if (space_->stale) at(Place::windows, [this] { return refresh(*space_), 0; });
    if (space_->targets_mode != mode) {
        user_cache_.clear_targets(space_->code());
        space_->targets_mode = mode;
    }
    return true;
}

// The guest handled a page fault and goes back to the instruction: its next access would fault
// once more, for us.
void Executor::fill_after_fault()
{
    user_fault_.pending = false;
    if (user_fault_.rip != *registers_.rip || user_fault_.space != space_) return;
    // The page was made for this write: there is no more around it than before.
    const auto around = user_fault_.write ? Window::Around::nothing : Window::Around::neighbours;
    at(Place::windows,
       [&] { return space_->window().fill(user_fault_.address, user_fault_.write, around); });
}

bool Executor::eligible(Mode& mode)
{
    x86::CpuState& state = *registers_.state;
    // RF is for instruction breakpoints, and lasts for one instruction.
    if ((state.dr7 & x86::dr7::ENABLE_MASK) == 0) state.rflags &= ~RF;
    if (state.events.interrupt_shadow || state.events.activity != x86::Activity::running ||
        (state.rflags & (TF | RF | VM | NT | IOPL | VIF | VIP)) != 0 ||
        (state.dr7 & x86::dr7::ENABLE_MASK) != 0) {
        return false;
    }
    const unsigned cpl = state.cpl();
    note_vector_state();
    if (!state.code64()) return eligible_code32(mode) && !accesses_user_memory();
    allow_vectors(mode);
    mode.gs_free = state.segments[x86::GS].base == 0;  // of user code, see below
    if (cpl == 3) {
        mode.user = true;
        mode.masked = (state.rflags & IF) == 0;
        return (state.rflags & AC) == 0 && (state.cr4 & x86::cr4::TSD) == 0;
    }
    if (cpl != 0) return false;
    if (!upper_half(*registers_.rip)) {
        mode.user = true;
        mode.privileged = true;
        return (state.rflags & AC) == 0;
    }
    mode = supervisor_mode();
    return gs_fits() && !accesses_user_memory();
}

Mode Executor::supervisor_mode() const
{
    Mode mode;
    allow_vectors(mode);
    mode.vector = false;
    mode.bases = (registers_.state->cr4 & x86::cr4::FSGSBASE) != 0;
    return mode;
}

void Executor::note_vector_state()
{
    const x86::CpuState& state = *registers_.state;
    if (state.cr0 == vector_cr0_ && state.cr4 == vector_cr4_ && state.xcr0 == vector_xcr0_) return;
    vector_cr0_ = state.cr0;
    vector_cr4_ = state.cr4;
    vector_xcr0_ = state.xcr0;
    constexpr std::uint64_t needed = x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT;
    constexpr std::uint64_t avx = x86::xcr0::SSE | x86::xcr0::AVX;
    constexpr std::uint64_t avx512 =
        avx | x86::xcr0::OPMASK | x86::xcr0::ZMM_HI256 | x86::xcr0::HI16_ZMM;
    const std::uint64_t on = (state.cr4 & x86::cr4::OSXSAVE) != 0 ? state.xcr0 : 0;
    vector_ok_ = (state.cr0 & (x86::cr0::EM | x86::cr0::TS)) == 0 && (state.cr4 & needed) == needed;
    no_avx_ = (on & avx) != avx;
    no_avx512_ = (on & avx512) != avx512;
}

// As note_vector_state() found.
void Executor::allow_vectors(Mode& mode) const
{
    mode.vector = vector_ok_;
    mode.no_avx = no_avx_;
    mode.no_avx512 = no_avx512_;
}

Executor::Next Executor::enter()
{
    if (lock_step_ != nullptr && begin_check()) return Next::dispatch;
    settle();
    const bool stale = in_dropped_code();
    if (stale || must_leave()) {
        const bool stop = must_leave();
        if (unload_at_point()) {
            stop_ = Stop::attention;
            return stop ? Next::stop : Next::dispatch;
        }
        stepping_ = true;
    } else {
        stepping_ = false;
    }
    context().exit = resume_exit_;
    return mode_.user ? enter_user() : enter_supervisor();
}

Executor::Next Executor::enter_user()
{
    ++counts_.entries_user;
    UserProcess& process = space_->process();
    std::uint32_t actions = stepping_ ? std::uint32_t{user_single_step} : 0;
    if (fpu_owner_ != &process) {
        take_fpu();
        make_initial(registers_.state->xsave);
        process.load_fpu(registers_.state->xsave);
        fpu_owner_ = &process;
        interpreter_.vectors_elsewhere(true);
        ++counts_.fpu_loads;
    }
    if (space_->code_version != code_version_) {
        space_->code_version = code_version_;
        actions |= user_new_code;
    }
    // From Place::user on when the process has begun: see UserWait.
    const auto left = at(Place::hand_over, [&] { return process.enter(actions, host_rip_); });
    if (!left) return fail("a user process died");
    if (*left == exit_cancelled && process.mapping_error() != 0) return mappings_refused();
    return after_exit(*left);
}

Executor::Next Executor::enter_supervisor()
{
    ++counts_.entries_supervisor;
    ExecContext& registers = supervisor();
    registers.host_rip = host_rip_;
    if (stepping_) registers.flags |= TF;
    registers.kicked = 0;
    if (attention_.load(std::memory_order_seq_cst) != 0 && !stepping_) return Next::resume;
    if (mode_.code32 != window32_shown_) {
        window32_shown_ = mode_.code32;
        asm volatile("wrgsbase %0" : : "r"(mode_.code32 ? window32 : fold));
    }
    place_.store(Place::supervisor, std::memory_order_relaxed);
    if (mode_.vector) {
        make_initial(registers_.state->xsave);
        enter_with_vectors(registers_.state->xsave, cpuid_.xcr0_mask());
    } else {
        doppel_enter_supervisor();
    }
    place_.store(Place::engine, std::memory_order_relaxed);
    registers.flags &= ~TF;
    return after_exit(registers.exit);
}

// The host has no room for more: start over with an empty window.
Executor::Next Executor::mappings_refused()
{
    if (++refusals_ > 3) return fail("the host refuses mappings of guest memory");
    space_->process().unmap_all();
    space_->window().clear(false);
    return Next::resume;
}

Executor::Next Executor::after_exit(std::uint32_t exit)
{
    refusals_ = 0;
    if (exit == exit_no_target && !x86::canonical(branch_target())) {
        return branch_to_nowhere(cache().branch_at(context().branch));
    }
    const bool exited = exit == exit_no_target || exit >= first_exit_site;
    if (exited && lock_step_ != nullptr && lock_step_->armed()) {
        stepping_ = false;
        return end_check(exit);
    }
    switch (exit) {
    case exit_cancelled: return Next::resume;
    case exit_kick: return after_kick();
    case exit_fault: return after_fault();
    case exit_no_target: stepping_ = false; return after_missing_target(branch_target());
    default: break;
    }
    stepping_ = false;
    const Site site = cache().site(exit);
    if (site.block == nullptr || (mode_.user && site.block->mode != mode_)) {
        return lost("translated code left by an exit that does not exist");
    }
    return after_site(site);
}

Executor::Next Executor::fail(std::string text)
{
    failure_ = std::move(text);
    stop_ = Stop::environment;
    return Next::stop;
}

// What a context says cannot be. Guest user code can write its process's, so there it is that
// program's own fault; nothing else can.
Executor::Next Executor::lost(std::string text)
{
    if (!mode_.user || mode_.privileged) return fail(std::move(text));
    ++counts_.lost;
    stepping_ = false;
    unload_context(*registers_.rip);
    return deliver(x86::make_fault(x86::Vector::GP));
}

}  // namespace doppel::engine::translate
