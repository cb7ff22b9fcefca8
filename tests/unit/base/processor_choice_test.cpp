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

// On a thread of its own: what it chooses is not the other tests'.
template <typename Test>
void on_a_thread(Test&& test)
{
    std::thread{test}.join();
}

TEST(ProcessorChoice, StaysOnOneAndGoesBack)
{
    on_a_thread([] {
        const cpu_set_t before = usable();
        const std::uint32_t first = first_of(before);
        ProcessorChoice choice;
        choice.stay_on(first);
        const cpu_set_t one = usable();
        EXPECT_EQ(CPU_COUNT(&one), 1);
        EXPECT_TRUE(CPU_ISSET(first - 1, &one));
        choice.stay_on(0);
        const cpu_set_t after = usable();
        EXPECT_TRUE(CPU_EQUAL(&before, &after));
    });
}

TEST(ProcessorChoice, StaysOffOneIfThereAreOthers)
{
    on_a_thread([] {
        const cpu_set_t before = usable();
        const std::uint32_t first = first_of(before);
        ProcessorChoice choice;
        choice.stay_off(first);
        const cpu_set_t others = usable();
        const bool only = CPU_COUNT(&before) == 1;
        EXPECT_EQ(CPU_COUNT(&others), only ? 1 : CPU_COUNT(&before) - 1);
        EXPECT_EQ(CPU_ISSET(first - 1, &others) != 0, only);
        choice.stay_off(0);
        const cpu_set_t after = usable();
        EXPECT_TRUE(CPU_EQUAL(&before, &after));
    });
}

TEST(ProcessorChoice, LeavesWhatCannotBe)
{
    on_a_thread([] {
        const cpu_set_t before = usable();
        ProcessorChoice choice;
        choice.stay_on(CPU_SETSIZE);  // nobody has so many
        choice.stay_on(CPU_SETSIZE + 1);
        choice.stay_off(~0u);
        const cpu_set_t after = usable();
        EXPECT_TRUE(CPU_EQUAL(&before, &after));
    });
}

}  // namespace
}  // namespace doppel::base
