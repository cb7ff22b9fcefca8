#include "engine/translate/space/user_process.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <x86intrin.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "base/assert.h"
#include "engine/translate/space/user_wait.h"

namespace doppel::engine::translate
{

using base::Result;

namespace
{

using Word = std::atomic_ref<std::uint32_t>;

constexpr unsigned xsave_x87_end = 160, xsave_xmm = 160, xsave_xmm_end = 416, xsave_mxcsr = 24,
                   xsave_header = 512, xsave_header_end = 576;
constexpr std::uint64_t x87 = 1, sse = 2;

// Looks at the report's turn for each at its begin, which costs the process a cache line: about a
// microsecond, so that the shortest stretches of guest code count as hand-over.
constexpr std::uint32_t looks_for_begin = 32;

// So many runs save the FPU state ahead after it was wanted: a save is a tenth of a microsecond, a
// turn for it one to three.
constexpr unsigned runs_to_save_after = 8;

// XSAVE leaves components in their initial state out. The engines read these two without asking.
void fill_in_legacy(x86::XsaveArea& state, std::uint64_t present)
{
    auto& bytes = state.bytes;
    if ((present & x87) == 0) {
        std::memset(&bytes[0], 0, xsave_mxcsr);
        std::memset(&bytes[32], 0, xsave_x87_end - 32);
        bytes[0] = 0x7f;  // FCW 0x37f
        bytes[1] = 0x03;
    }
    if ((present & sse) == 0) std::memset(&bytes[xsave_xmm], 0, xsave_xmm_end - xsave_xmm);
}

// The state comes from where guest code can write: made into one that XRSTOR takes.
void make_loadable(x86::XsaveArea& state, std::uint64_t components)
{
    std::uint32_t mxcsr;
    std::memcpy(&mxcsr, &state.bytes[xsave_mxcsr], sizeof mxcsr);
    mxcsr &= 0xffff;
    std::memcpy(&state.bytes[xsave_mxcsr], &mxcsr, sizeof mxcsr);
    std::uint64_t present;
    std::memcpy(&present, &state.bytes[xsave_header], sizeof present);
    present &= components;
    fill_in_legacy(state, present);
    present |= x87 | sse;
    std::memset(&state.bytes[xsave_header], 0, xsave_header_end - xsave_header);
    std::memcpy(&state.bytes[xsave_header], &present, sizeof present);
}

}  // namespace

UserProcess::UserProcess(unsigned slot, std::byte* area, UserWait& wait, std::uint64_t xsave_mask,
                         const UserFiles& files)
    : slot_(slot),
      context_(*reinterpret_cast<ExecContext*>(area + slot_context)),
      report_(*reinterpret_cast<UserReport*>(area + slot_context + report_offset)),
      command_(*reinterpret_cast<UserCommand*>(area + slot_command)),
      targets_(reinterpret_cast<std::uint64_t*>(area + slot_targets)),
      links_(reinterpret_cast<std::uint64_t*>(area + slot_links)),
      wait_(wait),
      xsave_mask_(xsave_mask)
{
    context_ = ExecContext{};
    report_ = UserReport{};
    command_ = UserCommand{};
    command_.turn = turn_ = 1;
    command_.spin = 0;
    command_.xsave_mask = xsave_mask;
    command_.files = files;
}

UserProcess::~UserProcess()
{
    if (wait_.last == this) wait_.last = nullptr;
    if (!pidfd_.valid()) return;
    ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
    pollfd gone{pidfd_.get(), POLLIN, 0};
    while (::poll(&gone, 1, -1) < 0 && errno == EINTR) {
    }
}

Result<void> UserProcess::attach(int pid)
{
    pid_ = pid;
    pidfd_ = base::Fd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
    if (!pidfd_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot watch a user process", errno);
    }
    // It reports its first turn when it is ready.
    if (!wait_for_report(nullptr)) return base::host_error("A user process ended at its start");
    return {};
}

bool UserProcess::dead() const
{
    return process_ended(pidfd_.get());
}

void UserProcess::map(const UserMapping& mapping)
{
    if (queued_ == user_mappings_max) flush();
    command_.mappings[queued_++] = mapping;
    ++counters_.changes;
}

void UserProcess::unmap_all()
{
    queued_ = 0;
    queued_error_ = 0;
    queued_actions_ |= user_unmap_all;
}

bool UserProcess::flush()
{
    if (queued_ == 0 && (queued_actions_ & user_unmap_all) == 0) return !lost_;
    if (!hand_over(0)) return false;
    if (queued_error_ == 0) queued_error_ = report_.mapping_error;
    return true;
}

void UserProcess::load_fpu(const x86::XsaveArea& state)
{
    static_assert(sizeof state.bytes == user_xsave_size);
    std::memcpy(command_.xsave, state.bytes.data(), user_xsave_size);
    queued_actions_ |= user_load_fpu;
    saved_ahead_ = false;  // of what is about to be replaced
}

bool UserProcess::save_fpu(x86::XsaveArea& state)
{
    if ((queued_actions_ & user_load_fpu) != 0) {  // what it would load is newer
        std::memcpy(state.bytes.data(), command_.xsave, user_xsave_size);
        return !lost_;
    }
    saves_ahead_ = runs_to_save_after;
    if (!saved_ahead_) {
        if (!hand_over(user_save_fpu)) return false;
        if (queued_error_ == 0) queued_error_ = report_.mapping_error;
    }
    std::memcpy(state.bytes.data(), report_.xsave, user_xsave_size);
    make_loadable(state, xsave_mask_);
    return true;
}

std::optional<std::uint32_t> UserProcess::enter(std::uint32_t actions, std::uint64_t host_rip)
{
    if (queued_error_ != 0) {
        mapping_error_ = queued_error_;
        queued_error_ = 0;
        return lost_ ? std::nullopt : std::optional{exit_cancelled};
    }
    command_.host_rip = host_rip;
    const bool ahead = saves_ahead_ != 0;
    if (ahead) {
        --saves_ahead_;
        actions |= user_save_fpu_after;
    }
    saved_ahead_ = false;
    if (!hand_over(user_run | actions)) return std::nullopt;
    mapping_error_ = report_.mapping_error;
    saved_ahead_ = ahead && mapping_error_ == 0;  // else it was refused before it ran
    return mapping_error_ != 0 ? exit_cancelled : context_.exit;
}

// The one that had the last turn goes to sleep: it would take a processor from this one. Not before
// this one was woken: a processor that has nothing to do in between takes longer to come back from
// that than to go from one process to the next.
void UserProcess::take_over_spinning()
{
    if (wait_.last == this) return;
    if (wait_.last != nullptr) {
        Word{wait_.last->command_.spin}.store(0, std::memory_order_relaxed);
    }
    wait_.last = this;
}

void UserProcess::set_turn()
{
    // Sequentially consistent on both sides: it sets user_sleeping and looks at the turn
    // again before it sleeps.
    Word{command_.turn}.store(turn_, std::memory_order_seq_cst);
    if (Word{report_.user_sleeping}.load(std::memory_order_seq_cst) != 0) {
        ++counters_.wakes;
        wake_word(command_.turn);
    }
}

// What is read now and written for the next turn, in one transfer of each line.
void UserProcess::prefetch_context() const
{
    constexpr std::size_t line = 64, lines = 4;
    const auto* at = reinterpret_cast<const std::byte*>(&context_);
    for (std::size_t i = 0; i < lines; ++i) asm volatile("prefetchw %0" : : "m"(at[i * line]));
    asm volatile("prefetchw %0" : : "m"(command_.actions));
}

// A turn of the process, from ++turn to its report. False: it is dead.
bool UserProcess::hand_over(std::uint32_t actions)
{
    if (lost_) return false;
    const bool runs = (actions & (user_run | user_single_step)) == user_run;
    const auto* attention = runs ? wait_.attention : nullptr;
    command_.actions = actions | queued_actions_;
    command_.mapping_count = queued_;
    queued_actions_ = 0;
    queued_ = 0;
    kicked_ = attention != nullptr && attention->load(std::memory_order_relaxed) != 0;
    ++turn_;
    if (kicked_) command_.kicked = turn_;
    const std::uint64_t begin = __rdtsc();
    const std::uint32_t here = this_processor();
    if (command_.processor != here) command_.processor = here;
    wait_.switches.turn(wait_.last == this, begin);
    const std::uint32_t joined = wait_.on_one_processor(begin) ? here : 0;
    wait_.processor_choice.stay_on(joined);
    if (command_.joined != joined) command_.joined = joined;
    ++counters_.turns;
    set_turn();
    take_over_spinning();
    wait_.process_budget.waited(begin - wait_.reported);
    // For its next wait, after this turn.
    const std::uint32_t looks =
        std::min(wait_.looks(wait_.budget, begin), wait_.process_budget.looks(begin));
    if (looks != command_.spin) Word{command_.spin}.store(looks, std::memory_order_relaxed);
    lost_ = !wait_for_report(attention);
    wait_.reported = __rdtsc();
    wait_.budget.waited(wait_.reported - begin);
    prefetch_context();
    return !lost_;
}

void UserProcess::kick()
{
    kicked_ = true;
    ++counters_.kicks;
    Word{command_.kicked}.store(turn_, std::memory_order_seq_cst);
    ::syscall(SYS_pidfd_send_signal, pidfd_.get(), user_kick_signal, nullptr, 0);
}

void UserProcess::note_guest_code()
{
    if (wait_.place != nullptr) wait_.place->store(Place::user, std::memory_order_relaxed);
}

bool UserProcess::spin_for_report(const std::atomic<std::uint32_t>* attention)
{
    const Word turn{report_.turn};
    std::uint64_t before = __rdtsc();
    const std::uint32_t looks = wait_.looks(wait_.budget, before);
    const Word processor{report_.processor};
    for (std::uint32_t i = 0; i < looks; ++i) {
        if (turn.load(std::memory_order_acquire) == turn_) return true;
        // Where it was last: if it still is, it does not run before this thread sleeps.
        if (processor.load(std::memory_order_relaxed) == this_processor()) break;
        if (attention != nullptr && i % looks_for_begin == looks_for_begin - 1 &&
            Word{report_.begun}.load(std::memory_order_relaxed) == turn_) {
            note_guest_code();
        }
        if (attention != nullptr && !kicked_ && attention->load(std::memory_order_relaxed) != 0) {
            kick();
        }
        __builtin_ia32_pause();
        const std::uint64_t now = __rdtsc();
        if (!wait_.budget.looked(before, now)) break;
        before = now;
    }
    return false;
}

bool UserProcess::wait_for_report(const std::atomic<std::uint32_t>* attention)
{
    const Word turn{report_.turn};
    const Word sleeping{command_.worker_sleeping};
    if (!spin_for_report(attention)) {
        ++counters_.sleeps;
        // It takes long enough not to matter when it began.
        if (attention != nullptr) note_guest_code();
        for (;;) {
            sleeping.store(1, std::memory_order_seq_cst);
            const std::uint32_t seen = turn.load(std::memory_order_seq_cst);
            if (seen == turn_) break;
            if (attention != nullptr && !kicked_ && attention->load() != 0) kick();
            const bool watch = attention != nullptr && !kicked_;
            if (!wait_on_word(report_.turn, seen, watch ? attention : nullptr) && dead()) {
                return turn.load() == turn_;
            }
        }
        sleeping.store(0, std::memory_order_relaxed);
    }
    return true;
}

}  // namespace doppel::engine::translate
