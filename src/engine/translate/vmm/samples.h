// Where the worker's time goes, by looking now and then: every few milliseconds of run() the
// thread that waits for the worker reads one word of the mailbox. To measure instead would cost
// two reads of the TSC at each change, and a null system call of a guest has eight. The stretches
// that end while the VMM still looks for a reply, before it sleeps, are too short to be sampled.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include "engine/engine.h"
#include "engine/translate/link/mailbox.h"

namespace doppel::engine::translate {

// Threads: the vCPU thread alone.
class Samples {
public:
    // Not a multiple of any guest's timer tick, so that samples drift through it.
    static constexpr std::uint64_t period_ns = 3'700'000;
    // A worker that is found asleep may be left alone for longer: a sample counts for all the time
    // since the last one.
    static constexpr std::uint64_t idle_period_ns = 100'000'000;

    // ns of run() until the next sample is due; more than zero.
    [[nodiscard]] std::uint64_t due_in() const { return period_ > passed_ ? period_ - passed_ : 1; }
    // So much of run() has passed.
    void pass(std::uint64_t ns) { passed_ += ns; }
    void take(Place place, bool asleep)
    {
        if (!asleep && static_cast<unsigned>(place) < place_count) {
            spent_ns_[static_cast<unsigned>(place)] += passed_;
        }
        period_ = asleep ? idle_period_ns : period_ns;
        passed_ = 0;
    }

    void shares(RunTime& time) const
    {
        constexpr std::array<std::string_view, place_count> names{
            "engine", "hand_over", "guest_user", "guest_supervisor", "interpreter", "translation",
            "windows"};
        for (unsigned i = 0; i < place_count; ++i) time.shares.emplace_back(names[i], spent_ns_[i]);
    }

private:
    std::uint64_t period_ = period_ns, passed_ = 0;
    std::array<std::uint64_t, place_count> spent_ns_{};
};

}  // namespace doppel::engine::translate
