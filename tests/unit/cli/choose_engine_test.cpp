#include "cli/choose_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace doppel::cli {
namespace {

using engine::EngineKind;
using testing::HasSubstr;
using testing::Not;
using Kvm = engine::KvmProbe::Kind;

EngineChoice choice(Kvm kvm, const std::string& translate_problem)
{
    Host host;
    host.kvm.kind = kvm;
    if (kvm == Kvm::missing) host.kvm.problem = "Permission denied";
    host.translate_problem = translate_problem;
    EngineChoice chosen = choose_engine(host);
    EXPECT_THAT(chosen.reason, Not(HasSubstr("\n")));
    return chosen;
}

TEST(ChooseEngine, HardwareKvmIsFastest)
{
    EXPECT_EQ(choice(Kvm::hardware, "").kind, EngineKind::kvm);
    EXPECT_EQ(choice(Kvm::hardware, "no worker").kind, EngineKind::kvm);
}

TEST(ChooseEngine, TranslatesWhereKvmIsMissing)
{
    const EngineChoice chosen = choice(Kvm::missing, "");
    EXPECT_EQ(chosen.kind, EngineKind::translate);
    EXPECT_THAT(chosen.reason, HasSubstr("/dev/kvm cannot be used here: Permission denied"));
}

TEST(ChooseEngine, TranslatesWhereKvmIsEmulated)
{
    const EngineChoice chosen = choice(Kvm::emulated, "");
    EXPECT_EQ(chosen.kind, EngineKind::translate);
    EXPECT_THAT(chosen.reason, HasSubstr("/dev/kvm has no hardware support"));
}

TEST(ChooseEngine, InterpretsWhereNothingElseWorksAndSaysWhy)
{
    for (const Kvm kvm : {Kvm::missing, Kvm::emulated}) {
        const EngineChoice chosen = choice(kvm, "no worker");
        EXPECT_EQ(chosen.kind, EngineKind::interpret);
        EXPECT_THAT(chosen.reason, HasSubstr("/dev/kvm"));
        EXPECT_THAT(chosen.reason, HasSubstr("translate does not work here: no worker"));
    }
}

}  // namespace
}  // namespace doppel::cli
