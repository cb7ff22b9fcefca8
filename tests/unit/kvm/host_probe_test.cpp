#include "engine/host_probe.h"

#include <gtest/gtest.h>

#include <chrono>

namespace doppel::engine {
namespace {

TEST(HostProbe, IsQuickAndSaysWhy)
{
    const auto start = std::chrono::steady_clock::now();
    const KvmProbe probe = probe_kvm();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds{2});
    EXPECT_EQ(probe.problem.empty(), probe.kind != KvmProbe::Kind::missing) << probe.problem;
    EXPECT_EQ(probe.mips > 0, probe.kind != KvmProbe::Kind::missing);
    RecordProperty("mips", std::to_string(probe.mips));
}

}  // namespace
}  // namespace doppel::engine
