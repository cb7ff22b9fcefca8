// Which processors of the host a thread runs on, within those it may use.
#pragma once

#include <sched.h>

#include <cstdint>

namespace doppel::base {

// Threads: the one that it is for.
class ProcessorChoice {
public:
    // Processors count from 1; 0 lifts the restriction. What cannot be is left as it was: a
    // processor that the thread may not use, or the only one taken from it. What somebody else
    // allows the thread meanwhile (taskset) is what it may use from then on.
    void stay_on(std::uint32_t processor) noexcept { choose(Rule::only, processor); }
    void stay_off(std::uint32_t processor) noexcept { choose(Rule::all_but, processor); }
    [[nodiscard]] std::uint32_t chosen() const { return chosen_; }

private:
    enum class Rule { only, all_but };
    void choose(Rule rule, std::uint32_t processor) noexcept;

    std::uint32_t chosen_ = 0;
    // While one is chosen: what the thread may use, and what was made of that.
    cpu_set_t allowed_{}, made_{};
};

}  // namespace doppel::base
