// 32-bit code: when it is translated, and how 32-bit kernels come to their own segments.
#include "engine/translate/worker/executor.h"

namespace doppel::engine::translate {

namespace {

using x86::rflags::AC, x86::rflags::IF;

bool is_flat(const x86::Segment& segment)
{
    return segment.present() && !segment.unusable() && segment.code_or_data() && segment.base == 0 &&
           segment.limit == 0xffffffff;
}

Reach reach_of(const x86::Segment& segment)
{
    constexpr unsigned code = 8, expand_down = 4, writable = 2;
    const bool data = segment.present() && !segment.unusable() && segment.code_or_data() &&
                      (segment.type() & (code | expand_down | writable)) == writable;
    if (!data || segment.limit < base::page_mask) return Reach::none;
    return segment.limit == 0xffffffff ? Reach::whole : Reach::page;
}

}  // namespace

// 32-bit code, in a legacy or a 64-bit guest: segments as any common system has them. The last page
// is the interpreter's, since behind it comes the first.
bool Executor::eligible_code32(Mode& mode) const
{
    const x86::CpuState& state = *registers_.state;
    const auto& segments = state.segments;
    const unsigned cpl = state.cpl();
    if (!state.protected_mode() || state.vm86() || (cpl != 0 && cpl != 3)) return false;
    if (!is_flat(segments[x86::CS]) || !segments[x86::CS].db() || !segments[x86::SS].db()) return false;
    for (const auto index : {x86::DS, x86::ES, x86::SS}) {
        if (!is_flat(segments[index]) || reach_of(segments[index]) != Reach::whole) return false;
    }
    mode.code32 = true;
    allow_vectors(mode);
    mode.vector = mode.vector && cpl != 0;
    mode.fs = reach_of(segments[x86::FS]);
    // A supervisor's own segment is FS; in GS it leaves what its programs have there, a different one
    // each time.
    if (cpl == 0) return true;
    mode.gs = reach_of(segments[x86::GS]);
    mode.user = mode.gs_free = true;
    mode.masked = (state.rflags & IF) == 0;
    return (state.rflags & AC) == 0 && (state.cr4 & x86::cr4::TSD) == 0;
}

// 32-bit kernels have a segment of their own in FS, and load it a few instructions after they were
// entered, with the program's still there. Those are not worth a change of mode, which empties the
// table of targets. A kernel that goes on without is believed in the end.
bool Executor::awaits_fs(const Mode& mode) const
{
    constexpr unsigned waits_max = 16;
    return mode.code32 && !mode.user && mode.fs != targets_mode_.fs &&
           targets_mode_.fs != Reach::none && waits_for_fs_ < waits_max;
}

Executor::Next Executor::interpret_until_fs()
{
    constexpr unsigned stretch_max = 32;
    ++waits_for_fs_;
    ++counts_.interpreted_runs;
    const x86::CpuState& state = *registers_.state;
    for (unsigned i = 0; i < stretch_max; ++i) {
        stop_ = at(Place::interpreter, [this] { return interpreter_.step(); });
        if (stop_ != Stop::budget) return Next::stop;
        if (reach_of(state.segments[x86::FS]) == targets_mode_.fs) waits_for_fs_ = 0;
        if (waits_for_fs_ == 0 || state.cpl() == 3 || attention_.load(std::memory_order_relaxed) != 0) break;
    }
    return Next::dispatch;
}

}  // namespace doppel::engine::translate
