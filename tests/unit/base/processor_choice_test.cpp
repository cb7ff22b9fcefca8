#include "base/processor_choice.h"

#include <gtest/gtest.h>

#include <thread>

namespace doppel::base {
namespace {

cpu_set_t usable()
{
    cpu_set_t set;
    EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
    return set;
}

// From 1.
std::uint32_t first_of(const cpu_set_t& set)
{
    std::uint32_t processor = 0;
    while (!CPU_ISSET(processor, &set)) ++processor;
    return processor + 1;
}

// On a thread of its own, since what it chooses is not the other tests': with what the thread may
// use, which is the same at the end.
template <typename Test>
void on_a_thread(Test&& test)
{
    std::thread{[&test] {
        const cpu_set_t before = usable();
        test(before);
        const cpu_set_t after = usable();
        EXPECT_TRUE(CPU_EQUAL(&before, &after));
    }}.join();
}

TEST(ProcessorChoice, StaysOnOneAndGoesBack)
{
    on_a_thread([](const cpu_set_t& before) {
        const std::uint32_t first = first_of(before);
        ProcessorChoice choice;
        choice.stay_on(first);
        EXPECT_EQ(choice.chosen(), first);
        const cpu_set_t one = usable();
        EXPECT_EQ(CPU_COUNT(&one), 1);
        EXPECT_TRUE(CPU_ISSET(first - 1, &one));
        choice.stay_on(0);
    });
}

TEST(ProcessorChoice, StaysOffOneIfThereAreOthers)
{
    on_a_thread([](const cpu_set_t& before) {
        const std::uint32_t first = first_of(before);
        ProcessorChoice choice;
        choice.stay_off(first);
        const cpu_set_t others = usable();
        const bool only = CPU_COUNT(&before) == 1;
        EXPECT_EQ(CPU_COUNT(&others), only ? 1 : CPU_COUNT(&before) - 1);
        EXPECT_EQ(CPU_ISSET(first - 1, &others) != 0, only);
        choice.stay_off(0);
    });
}

TEST(ProcessorChoice, LeavesWhatCannotBe)
{
    on_a_thread([](const cpu_set_t&) {
        ProcessorChoice choice;
        choice.stay_on(CPU_SETSIZE);  // nobody has so many
        choice.stay_on(CPU_SETSIZE + 1);
        choice.stay_off(~0u);
        EXPECT_EQ(choice.chosen(), 0u);
    });
}

TEST(ProcessorChoice, WhatOthersAllowMeanwhileStays)
{
    on_a_thread([](const cpu_set_t& before) {
        if (CPU_COUNT(&before) == 1) return;
        const std::uint32_t first = first_of(before);
        ProcessorChoice choice;
        choice.stay_off(first);
        cpu_set_t theirs;
        CPU_ZERO(&theirs);
        CPU_SET(first - 1, &theirs);
        ASSERT_EQ(::sched_setaffinity(0, sizeof theirs, &theirs), 0);
        choice.stay_off(0);
        const cpu_set_t after = usable();
        EXPECT_TRUE(CPU_EQUAL(&after, &theirs));
        ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
    });
}

}  // namespace
}  // namespace doppel::base
