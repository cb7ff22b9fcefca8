// Which processors of the host a thread runs on, within those it may use.
#pragma once

#include <sched.h>

#include <cstdint>

namespace doppel::base {

// Threads: the one that it is for.
class ProcessorChoice {
public:
    // Processors count from 1; 0 lifts the restriction. What cannot be is left as it was: a
    // processor that the thread may not use, or the only one taken from it.
    void stay_on(std::uint32_t processor) noexcept { choose(Rule::only, processor); }
    void stay_off(std::uint32_t processor) noexcept { choose(Rule::all_but, processor); }

private:
    enum class Rule { only, all_but };
    void choose(Rule rule, std::uint32_t processor) noexcept;

    std::uint32_t chosen_ = 0;
    cpu_set_t allowed_{};  // while one is chosen: those before
};

}  // namespace doppel::base
