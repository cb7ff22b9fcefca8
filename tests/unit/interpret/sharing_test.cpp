// What another engine uses to share a vCPU with the interpreter: direct state, single steps,
// faults, page walks, the observer.
#include <gtest/gtest.h>

#include "engine/interpret/interpreter.h"
#include "system_machine.h"

namespace doppel::engine::interpret {
namespace {

using Stop = Interpreter::Stop;

class Recorder final : public Observer {
public:
    void tlb_flushed(bool keep_global) noexcept override { add("flush", keep_global); }
    void page_flushed(std::uint64_t linear) noexcept override { add("page", linear); }
    void address_space_changed(std::uint64_t cr3, bool keep) noexcept override
    {
        add("cr3", cr3, keep);
    }
    void pcid_flushed(unsigned type, std::uint16_t pcid, std::uint64_t linear) noexcept override
    {
        add("pcid", type, pcid, linear);
    }
    void code_written(std::uint64_t ram_offset) noexcept override { add("written", ram_offset); }
    void code_decoded(std::uint64_t ram_offset) noexcept override { decoded.push_back(ram_offset); }

    std::vector<std::string> take() { return std::exchange(events_, {}); }
    std::vector<std::uint64_t> decoded;

private:
    template <typename... Values>
    void add(std::string text, Values... values)
    {
        ((text += " " + std::to_string(values)), ...);
        events_.push_back(text);
    }
    std::vector<std::string> events_;
};

using Events = std::vector<std::string>;

class SharingTest : public testing::Test {
protected:
    SharingTest()
    {
        machine.interpreter->set_observer(&recorder);
        start();
        recorder.take();
    }
    ~SharingTest() override { machine.interpreter->set_observer(nullptr); }
    void start() { vcpu().set_state(machine.state); }
    Interpreter& vcpu() { return *machine.interpreter; }
    std::uint64_t& gpr(unsigned n) { return vcpu().direct().gpr[n]; }
    std::uint64_t& rip() { return *vcpu().direct().rip; }
    // The test's own writes to code ask for attention.
    Stop step()
    {
        const Stop stop = vcpu().step();
        return stop == Stop::attention ? vcpu().step() : stop;
    }
    void put_code(std::initializer_list<unsigned> bytes)
    {
        machine.put_code(SystemMachine::code, bytes);
        rip() = SystemMachine::code;
    }

    SystemMachine machine{SystemMachine::Mode::long64};
    Recorder recorder;
};

TEST_F(SharingTest, StateIsSharedWithoutCopies)
{
    put_code({0x48, 0x01, 0xd8, 0x90});  // add rax, rbx
    gpr(x86::RAX) = 40;
    gpr(x86::RBX) = 2;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(gpr(x86::RAX), 42u);
    EXPECT_EQ(rip(), SystemMachine::code + 3);
    EXPECT_EQ(vcpu().instructions(), 1u);
    rip() = SystemMachine::code;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(gpr(x86::RAX), 44u);
}

TEST_F(SharingTest, FlagsGoInAndOut)
{
    put_code({0xf5});  // cmc
    vcpu().set_rflags(x86::rflags::CF | x86::rflags::ZF | x86::rflags::OF | x86::rflags::DF);
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(vcpu().rflags(), x86::rflags::RESERVED1 | x86::rflags::ZF | x86::rflags::OF |
                                   x86::rflags::DF);
}

TEST_F(SharingTest, StepRunsOneInstructionOfADecodedBlock)
{
    put_code({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0xf4});
    gpr(x86::RAX) = 0;
    ASSERT_EQ(vcpu().execute(0), Stop::exit);
    rip() = SystemMachine::code;
    vcpu().direct().state->events.activity = x86::Activity::running;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(gpr(x86::RAX), 3u);
    EXPECT_EQ(rip(), SystemMachine::code + 3);
}

TEST_F(SharingTest, StepStopsForHaltDevicesAndAttention)
{
    put_code({0xf4});
    ASSERT_EQ(step(), Stop::budget);
    ASSERT_EQ(step(), Stop::exit);
    EXPECT_TRUE(std::holds_alternative<HaltExit>(vcpu().exit()));

    vcpu().wake();
    put_code({0xe4, 0x60});  // in al, 0x60
    ASSERT_EQ(step(), Stop::exit);
    EXPECT_TRUE(std::holds_alternative<IoReadExit>(vcpu().exit()));
    EXPECT_EQ(rip(), SystemMachine::code);
    vcpu().complete_read(0x5a);
    ASSERT_EQ(vcpu().step(), Stop::budget);
    EXPECT_EQ(gpr(x86::RAX) & 0xff, 0x5au);
    EXPECT_EQ(rip(), SystemMachine::code + 2);

    vcpu().request_attention();
    EXPECT_EQ(vcpu().step(), Stop::attention);
}

TEST_F(SharingTest, StepEndsWithTheHandlerNext)
{
    put_code({0x0f, 0x0b});  // ud2
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(rip(), SystemMachine::handlers + 6);
    EXPECT_EQ(vcpu().instructions(), 0u);
    ASSERT_EQ(step(), Stop::budget);  // its HLT
    EXPECT_EQ(vcpu().direct().state->events.activity, x86::Activity::halted);
}

TEST_F(SharingTest, StepWithTheTrapFlag)
{
    put_code({0x90, 0x90});
    vcpu().set_rflags(x86::rflags::TF);
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(rip(), SystemMachine::handlers + 1);
}

TEST_F(SharingTest, FaultIsDelivered)
{
    rip() = SystemMachine::code + 0x123;
    ASSERT_TRUE(vcpu().deliver_fault(x86::make_page_fault(6, 0xdead000)));
    EXPECT_EQ(rip(), SystemMachine::handlers + 14);
    EXPECT_EQ(vcpu().direct().state->cr2, 0xdead000u);
    const std::uint64_t rsp = gpr(x86::RSP);
    EXPECT_EQ(machine.word64(rsp), 6u);
    EXPECT_EQ(machine.word64(rsp + 8), SystemMachine::code + 0x123);
}

TEST_F(SharingTest, FaultWithoutHandlersIsAShutdown)
{
    vcpu().direct().state->idtr.limit = 0;
    EXPECT_FALSE(vcpu().deliver_fault(x86::make_fault(x86::Vector::UD)));
    EXPECT_FALSE(vcpu().deliver_fault(x86::make_fault(x86::Vector::UD)));
    ASSERT_EQ(vcpu().step(), Stop::exit);
    EXPECT_TRUE(std::holds_alternative<ShutdownExit>(vcpu().exit()));
    ASSERT_EQ(vcpu().execute(0), Stop::exit);
}

TEST_F(SharingTest, ModeChangesMadeOutside)
{
    put_code({0xfa});  // cli: privileged
    auto* state = vcpu().direct().state;
    machine.state = vcpu().state();
    machine.enter_user();
    state->segments = machine.state.segments;
    vcpu().mode_changed();
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(rip(), SystemMachine::handlers + 13);
    EXPECT_EQ(state->cpl(), 0u);
}

TEST_F(SharingTest, WalkSetsWhatProbeDoesNot)
{
    const std::uint64_t linear = SystemMachine::data;
    const auto probed = vcpu().probe(linear, x86::Access::write, false);
    ASSERT_TRUE(std::holds_alternative<x86::Translation>(probed));
    EXPECT_FALSE(std::get<x86::Translation>(probed).dirty);
    const auto walked = vcpu().walk(linear, x86::Access::write, false);
    ASSERT_TRUE(std::holds_alternative<x86::Translation>(walked));
    EXPECT_EQ(std::get<x86::Translation>(walked).gpa.value, linear);
    EXPECT_TRUE(std::get<x86::Translation>(vcpu().probe(linear, x86::Access::read, false)).dirty);
    const auto missing = vcpu().walk(0x123456789000, x86::Access::read, false);
    ASSERT_TRUE(std::holds_alternative<x86::Fault>(missing));
    EXPECT_EQ(std::get<x86::Fault>(missing).address, 0x123456789000u);
}

TEST_F(SharingTest, FetchTellsWhereCodeLies)
{
    std::uint64_t offset = 0;
    EXPECT_FALSE(vcpu().fetch(SystemMachine::code + 5, offset).has_value());
    EXPECT_EQ(offset, SystemMachine::code + 5);
    const auto fault = vcpu().fetch(0x123456789abc, offset);
    ASSERT_TRUE(fault.has_value());
    EXPECT_EQ(fault->vector, x86::Vector::PF);
    EXPECT_EQ(fault->address, 0x123456789abcu);
    const auto beyond = vcpu().fetch(0x800000000000, offset);
    ASSERT_TRUE(beyond.has_value());
    EXPECT_EQ(beyond->vector, x86::Vector::GP);
    // Nothing was delivered.
    EXPECT_EQ(vcpu().direct().state->cr2, 0u);
    put_code({0x90});
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(rip(), SystemMachine::code + 1);
}

TEST_F(SharingTest, SystemMemoryIsReadWithoutAFault)
{
    std::uint64_t value = 0;
    const auto read = [&](std::uint64_t linear) {
        return vcpu().read_system(linear, std::as_writable_bytes(std::span{&value, 1}));
    };
    machine.put(SystemMachine::data, std::uint64_t{0x1122334455667788});
    for (int i = 0; i < 2; ++i) {
        value = 0;
        EXPECT_TRUE(read(SystemMachine::data));
        EXPECT_EQ(value, 0x1122334455667788u);
    }
    value = 5;
    EXPECT_FALSE(read(0x123456789000));                   // not mapped
    EXPECT_FALSE(read(0x800000000000));                   // not canonical
    EXPECT_FALSE(read(0x7ffffffffffc));
    EXPECT_FALSE(read(SystemMachine::data + 0xffc));      // two pages
    EXPECT_EQ(value, 5u);
    // Nothing is delivered later.
    put_code({0x90});
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(rip(), SystemMachine::code + 1);
    EXPECT_EQ(vcpu().direct().state->cr2, 0u);
}

TEST_F(SharingTest, ObserverHearsOfFlushes)
{
    put_code({0x0f, 0x22, 0xd8,          // mov cr3, rax
              0x0f, 0x01, 0x3b,          // invlpg [rbx]
              0x0f, 0x20, 0xe1,          // mov rcx, cr4
              0x48, 0x83, 0xf1, 0x10,    // xor rcx, PSE
              0x0f, 0x22, 0xe1});        // mov cr4, rcx
    gpr(x86::RAX) = SystemMachine::page_tables;
    gpr(x86::RBX) = 0x1234567;
    for (int i = 0; i < 5; ++i) ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(recorder.take(), (Events{"cr3 " + std::to_string(SystemMachine::page_tables) + " 0",
                                       "page " + std::to_string(0x1234567), "flush 0"}));
}

TEST_F(SharingTest, ObserverHearsOfProcessContexts)
{
    auto* state = vcpu().direct().state;
    state->cr4 |= x86::cr4::PCIDE;
    vcpu().mode_changed();
    put_code({0x0f, 0x22, 0xd8,                      // mov cr3, rax
              0x66, 0x0f, 0x38, 0x82, 0x0b});        // invpcid rcx, [rbx]
    gpr(x86::RAX) = SystemMachine::page_tables | 5 | std::uint64_t{1} << 63;
    gpr(x86::RBX) = SystemMachine::data;
    gpr(x86::RCX) = 0;
    machine.put(SystemMachine::data, std::uint64_t{7});
    machine.put(SystemMachine::data + 8, std::uint64_t{0x5000});
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(state->cr3, SystemMachine::page_tables | 5);
    EXPECT_EQ(recorder.take(),
              (Events{"cr3 " + std::to_string(SystemMachine::page_tables | 5) + " 1"}));
    for (unsigned type = 0; type < 4; ++type) {
        rip() = SystemMachine::code + 3;
        gpr(x86::RCX) = type;
        ASSERT_EQ(step(), Stop::budget);
        ASSERT_EQ(rip(), SystemMachine::code + 8) << type;
        EXPECT_EQ(recorder.take(),
                  (Events{"pcid " + std::to_string(type) + " 7 " + std::to_string(0x5000)}));
    }
}

TEST_F(SharingTest, ObserverHearsOfWritesToWatchedCode)
{
    constexpr std::uint64_t page = SystemMachine::data;
    put_code({0x48, 0x89, 0x03});  // mov [rbx], rax
    gpr(x86::RBX) = page + 0x10;
    const auto store = [&] {
        rip() = SystemMachine::code;
        ASSERT_EQ(step(), Stop::budget);
        ASSERT_EQ(rip(), SystemMachine::code + 3);
    };
    store();  // fills the TLB
    EXPECT_TRUE(recorder.take().empty());
    vcpu().watch_code(page + 0x800);
    EXPECT_TRUE(vcpu().holds_code(page));
    const std::string written = "written " + std::to_string(page);
    store();
    store();
    EXPECT_EQ(recorder.take(), (Events{written, written}));
    // A new translation of a watched page.
    vcpu().flush_translations(false);
    EXPECT_TRUE(recorder.take().empty());
    store();
    EXPECT_EQ(recorder.take(), Events{written});
    // Bytes that cross into it.
    gpr(x86::RBX) = page - 4;
    store();
    EXPECT_EQ(recorder.take(), Events{written});
    // From outside.
    machine.put(page + 0x20, std::uint8_t{1});
    ASSERT_EQ(vcpu().step(), Stop::attention);
    EXPECT_EQ(recorder.take(), Events{written});
    vcpu().unwatch_code(page);
    gpr(x86::RBX) = page + 0x10;
    store();
    EXPECT_TRUE(recorder.take().empty());
    EXPECT_FALSE(vcpu().holds_code(page));
}

TEST_F(SharingTest, WatchSurvivesTheInterpretersOwnCode)
{
    constexpr std::uint64_t page = SystemMachine::code & ~std::uint64_t{0xfff};
    vcpu().watch_code(page);
    put_code({0x90});
    ASSERT_EQ(vcpu().step(), Stop::attention);
    ASSERT_EQ(vcpu().step(), Stop::budget);
    recorder.take();
    vcpu().forget_code();
    EXPECT_TRUE(vcpu().holds_code(page));
    machine.put(page, std::uint8_t{0x90});
    ASSERT_EQ(vcpu().step(), Stop::attention);
    EXPECT_EQ(recorder.take(), Events{"written " + std::to_string(page)});
}

TEST_F(SharingTest, CodeThatOthersWrite)
{
    put_code({0x48, 0xff, 0xc0});  // inc rax
    gpr(x86::RAX) = 0;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(recorder.decoded.back(), SystemMachine::code);
    EXPECT_TRUE(vcpu().holds_code(SystemMachine::code));
    // Behind the interpreter's back: dec rax.
    machine.memory->ram()[SystemMachine::code + 2] = std::byte{0xc8};
    vcpu().code_changed(SystemMachine::code + 2, 1);
    EXPECT_TRUE(recorder.take().empty());
    rip() = SystemMachine::code;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(gpr(x86::RAX), 0u);
}

// An instruction that goes on in a page that is not there leaves its own page watched.
TEST_F(SharingTest, APageWithoutABlockCanBeFreedOfCode)
{
    constexpr std::uint64_t page = SystemMachine::ram - 0x1000;
    machine.put(SystemMachine::ram - 1, std::uint8_t{0x0f});
    rip() = SystemMachine::ram - 1;
    step();
    EXPECT_NE(rip(), SystemMachine::ram - 1);  // a page fault
    EXPECT_TRUE(vcpu().holds_code(page));
    vcpu().code_changed(page, 0x1000);
    EXPECT_FALSE(vcpu().holds_code(page));
}

TEST_F(SharingTest, RepeatedStoresIntoWatchedPagesAreBulkAndSeen)
{
    constexpr std::uint64_t page = SystemMachine::data;
    put_code({0xf3, 0xaa});  // rep stosb
    vcpu().watch_code(page + 0x1000);
    gpr(x86::RDI) = page;
    gpr(x86::RCX) = 0x3000;
    gpr(x86::RAX) = 0x5a;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(gpr(x86::RCX), 0u);
    EXPECT_EQ(gpr(x86::RDI), page + 0x3000);
    EXPECT_EQ(recorder.take(), Events{"written " + std::to_string(page + 0x1000)});
    EXPECT_EQ(machine.get<std::uint8_t>(page + 0x2fff), 0x5a);
}

TEST_F(SharingTest, RepeatedCopyFaultsAtTheRightElement)
{
    put_code({0xf3, 0xa4});  // rep movsb
    constexpr std::uint64_t last = SystemMachine::ram;  // nothing is mapped beyond
    gpr(x86::RSI) = SystemMachine::data;
    gpr(x86::RDI) = last - 0x1003;
    gpr(x86::RCX) = 0x2000;
    ASSERT_EQ(step(), Stop::budget);
    EXPECT_EQ(rip(), SystemMachine::handlers + 14);
    EXPECT_EQ(vcpu().direct().state->cr2, last);
    EXPECT_EQ(gpr(x86::RDI), last);
    EXPECT_EQ(gpr(x86::RSI), SystemMachine::data + 0x1003);
    EXPECT_EQ(gpr(x86::RCX), 0x2000u - 0x1003u);
}

}  // namespace
}  // namespace doppel::engine::interpret
