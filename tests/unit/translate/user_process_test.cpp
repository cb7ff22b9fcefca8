#include "engine/translate/space/user_process.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "engine/translate/link/user_program.h"
#include "x86/registers.h"

namespace doppel::engine::translate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t ram_size = 16 << 20;
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t guest = 0x555555554000;  // where guest programs like to be
constexpr std::uint32_t site = 77;
constexpr std::uint64_t page_fault = 14, debug_exception = 1;
constexpr std::uint64_t error_write = 2, error_user = 4;

std::int64_t ns_since(Clock::time_point start)
{
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

// Host code in the code cache, byte by byte.
class Assembler {
public:
    Assembler(std::span<std::uint8_t> code, std::uint64_t at) : code_(code), at_(at) {}
    Assembler& bytes(std::initializer_list<unsigned> values)
    {
        for (const unsigned value : values) code_[at_++] = static_cast<std::uint8_t>(value);
        return *this;
    }
    Assembler& value(std::uint64_t value, unsigned size)
    {
        for (unsigned i = 0; i < size; ++i) code_[at_++] = static_cast<std::uint8_t>(value >> 8 * i);
        return *this;
    }
    Assembler& displacement(std::uint64_t target, unsigned behind)
    {
        return value(target - (user_code + at_ + 4 + behind), 4);
    }
    // mov dword [rip + ExecContext::exit], number; jmp common_exit
    Assembler& leave(std::uint32_t number)
    {
        bytes({0xc7, 0x05}).displacement(user_context + context_offset::exit, 4).value(number, 4);
        return bytes({0xe9}).displacement(user_common_exit, 0);
    }
    [[nodiscard]] std::uint64_t host() const { return user_code + at_; }

private:
    std::span<std::uint8_t> code_;
    std::uint64_t at_;
};

class UserProcessTest : public testing::Test {
protected:
    void SetUp() override { start({}); }

    void start(UserProcesses::Config config)
    {
        process_ = nullptr;
        processes_.reset();
        ram_fd_ = base::Fd{::memfd_create("ram", MFD_CLOEXEC)};
        ASSERT_EQ(::ftruncate(ram_fd_.get(), ram_size), 0);
        auto ram = base::MappedRegion::map(ram_size, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd_.get());
        ASSERT_TRUE(ram);
        ram_ = std::move(*ram);
        auto program = user_program_file();
        ASSERT_TRUE(program) << program.error().text();
        config.ram_fd = ram_fd_.get();
        config.program_fd = program->get();
        config.attention = &attention_;
        auto processes = UserProcesses::create(config);
        ASSERT_TRUE(processes) << processes.error().text();
        processes_ = std::move(*processes);
        auto process = processes_->start();
        ASSERT_TRUE(process) << process.error().text();
        process_ = *process;
    }

    ExecContext& context() { return process_->context(); }
    Assembler code(std::uint64_t at = 0) { return Assembler{processes_->code(), at}; }
    static UserMapping mapping(std::uint64_t address, std::uint64_t length, std::uint64_t offset,
                               std::uint32_t prot = PROT_READ | PROT_WRITE)
    {
        return {address, length, offset, prot, 0};
    }
    template <typename T>
    T& ram(std::uint64_t offset)
    {
        return *reinterpret_cast<T*>(ram_.data() + offset);
    }
    std::optional<std::uint32_t> run(std::uint32_t actions = 0)
    {
        return process_->enter(actions, user_code);
    }
    static std::vector<std::string> foreign_mappings(int pid)
    {
        std::vector<std::string> found;
        std::ifstream maps{"/proc/" + std::to_string(pid) + "/maps"};
        for (std::string line; std::getline(maps, line);) {
            const std::uint64_t begin = std::stoull(line, nullptr, 16);
            if ((begin < user_image || begin >= user_engine_end) &&
                line.find("[vsyscall]") == std::string::npos) {
                found.push_back(line);
            }
        }
        return found;
    }

    std::atomic<std::uint32_t> attention_{0};
    base::Fd ram_fd_;
    base::MappedRegion ram_;
    std::unique_ptr<UserProcesses> processes_;
    UserProcess* process_ = nullptr;
};

TEST_F(UserProcessTest, RegistersGoThereAndComeBack)
{
    // Each register but RSP one up by lea, which leaves the flags alone.
    Assembler program = code();
    for (unsigned reg = 0; reg < 16; ++reg) {
        if (reg == x86::RSP || reg == 12) continue;
        const unsigned rex = 0x48 | (reg >= 8 ? 5u : 0u);
        program.bytes({rex, 0x8d, 0x40 | (reg & 7) << 3 | (reg & 7), 1});
    }
    program.bytes({0x4d, 0x8d, 0x64, 0x24, 1});        // lea r12, [r12 + 1]
    program.bytes({0x48, 0x8d, 0x64, 0x24, 0x08});     // lea rsp, [rsp + 8]
    program.leave(site);
    for (unsigned reg = 0; reg < 16; ++reg) context().gpr[reg] = 0x1111111100000000ull * reg + reg;
    context().gpr[x86::RSP] = 0x7ffdeadbeef0;
    for (const std::uint64_t flags : {0ull, 0xcd5ull, 0x400ull, 0x41ull}) {
        const ExecContext before = context();
        context().flags = flags;
        context().fs_base = 0x7f0012345000;
        context().gs_base = 0xffff800000000000;
        ASSERT_EQ(run(), site);
        for (unsigned reg = 0; reg < 16; ++reg) {
            EXPECT_EQ(context().gpr[reg], before.gpr[reg] + (reg == x86::RSP ? 8 : 1)) << reg;
        }
        EXPECT_EQ(context().flags & 0xcd5, flags);
        EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
        EXPECT_EQ(context().fs_base, 0x7f0012345000u);
        EXPECT_EQ(context().gs_base, 0xffff800000000000u);
    }
}

TEST_F(UserProcessTest, SerialisingEntryHasTheSameRegisters)
{
    code().bytes({0x48, 0xff, 0xc0}).leave(site);  // inc rax
    for (unsigned reg = 0; reg < 16; ++reg) context().gpr[reg] = 0x0101010101010101ull * (reg + 1);
    const ExecContext before = context();
    context().flags = x86::rflags::CF;
    ASSERT_EQ(run(user_new_code), site);
    EXPECT_EQ(context().gpr[0], before.gpr[0] + 1);
    for (unsigned reg = 1; reg < 16; ++reg) EXPECT_EQ(context().gpr[reg], before.gpr[reg]) << reg;
    EXPECT_EQ(context().flags & x86::rflags::CF, x86::rflags::CF);
}

TEST_F(UserProcessTest, BasesSetByGuestCodeAreReported)
{
    code().bytes({0xf3, 0x48, 0x0f, 0xae, 0xd0}).leave(site);  // wrfsbase rax
    context().gpr[x86::RAX] = 0x123456789000;
    context().fs_base = 0x1000;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().fs_base, 0x123456789000u);
    context().fs_base = 0;
    context().gpr[x86::RAX] = 0;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().fs_base, 0u);
}

TEST_F(UserProcessTest, FpuStateIsLoadedAndSaved)
{
    x86::XsaveArea state{}, saved{};
    const std::uint16_t fcw = 0x37f;
    const std::uint32_t mxcsr = 0x1f80;
    const std::uint64_t present = 7;  // x87, SSE, AVX
    std::memcpy(&state.bytes[0], &fcw, sizeof fcw);
    std::memcpy(&state.bytes[24], &mxcsr, sizeof mxcsr);
    std::memcpy(&state.bytes[512], &present, sizeof present);
    for (unsigned i = 0; i < 256; ++i) {
        state.bytes[160 + i] = static_cast<std::uint8_t>(i + 3);
        state.bytes[x86::xsave_offset_avx + i] = static_cast<std::uint8_t>(i + 17);
    }
    code().bytes({0x66, 0x0f, 0xfe, 0xc1}).leave(site);  // paddd xmm0, xmm1
    process_->load_fpu(state);
    ASSERT_EQ(run(), site);
    // Signals and other turns in between leave it alone.
    context().flags = 0;
    ASSERT_EQ(process_->enter(user_single_step, user_code), exit_fault);
    ASSERT_TRUE(process_->save_fpu(saved));
    std::uint32_t expected[4], add[4], result[4];
    std::memcpy(expected, &state.bytes[160], sizeof expected);
    std::memcpy(add, &state.bytes[176], sizeof add);
    std::memcpy(result, &saved.bytes[160], sizeof result);
    for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(result[i], expected[i] + 2 * add[i]);
    EXPECT_TRUE(std::equal(&state.bytes[176], &state.bytes[416], &saved.bytes[176]));
    EXPECT_TRUE(std::equal(&state.bytes[576], &state.bytes[832], &saved.bytes[576]));
    process_->load_fpu(saved);
    x86::XsaveArea again{};
    ASSERT_TRUE(process_->save_fpu(again));  // not loaded yet: the same
    EXPECT_EQ(again, saved);
}

TEST_F(UserProcessTest, FaultIsReportedFilledAndGoneOnWith)
{
    Assembler program = code();
    program.bytes({0x48, 0xff, 0xc3});              // inc rbx
    const std::uint64_t load = program.host();
    program.bytes({0x48, 0x8b, 0x07});              // mov rax, [rdi]
    const std::uint64_t store = program.host();
    program.bytes({0x48, 0x89, 0x47, 0x08});        // mov [rdi + 8], rax
    program.leave(site);
    ram<std::uint64_t>(3 * page + 0x10) = 0x1122334455667788;
    context().gpr[x86::RDI] = guest + 0x10;
    context().gpr[x86::RBX] = 0;
    context().gpr[x86::RSP] = user_image + 0x2800;  // a stack pointer into the program's memory
    ASSERT_EQ(run(), exit_fault);
    EXPECT_EQ(context().trap, page_fault);
    EXPECT_EQ(context().error, error_user);
    EXPECT_EQ(context().address, guest + 0x10);
    EXPECT_EQ(context().host_rip, load);
    EXPECT_EQ(context().gpr[x86::RBX], 1u);

    process_->map(mapping(guest, page, 3 * page, PROT_READ));
    ASSERT_EQ(process_->enter(0, context().host_rip), exit_fault);
    EXPECT_EQ(context().error, error_user | error_write | 1);
    EXPECT_EQ(context().address, guest + 0x18);
    EXPECT_EQ(context().host_rip, store);
    EXPECT_EQ(context().gpr[x86::RBX], 1u);

    process_->map(mapping(guest, page, 0, PROT_READ | PROT_WRITE | user_protect_only));
    ASSERT_EQ(process_->enter(0, context().host_rip), site);
    EXPECT_EQ(ram<std::uint64_t>(3 * page + 0x18), 0x1122334455667788u);
    EXPECT_EQ(context().gpr[x86::RSP], user_image + 0x2800);
}

TEST_F(UserProcessTest, OtherExceptionsAreReported)
{
    // A non-canonical address: #GP has no address.
    code().bytes({0x48, 0x8b, 0x07}).leave(site);
    context().gpr[x86::RDI] = 0x8000000000000000;
    ASSERT_EQ(run(), exit_fault);
    EXPECT_EQ(context().trap, 13u);
    EXPECT_EQ(context().address, 0u);
    // A division by zero, an undefined instruction, a page beyond the end of RAM.
    code(0x100).bytes({0x31, 0xc9, 0xf7, 0xf1});
    ASSERT_EQ(process_->enter(user_new_code, user_code + 0x100), exit_fault);
    EXPECT_EQ(context().trap, 0u);
    EXPECT_EQ(context().host_rip, user_code + 0x102);
    code(0x200).bytes({0x0f, 0x0b});
    ASSERT_EQ(process_->enter(user_new_code, user_code + 0x200), exit_fault);
    EXPECT_EQ(context().trap, 6u);
    process_->map(mapping(guest, page, ram_size));
    context().gpr[x86::RDI] = guest;
    ASSERT_EQ(run(), exit_fault);
    EXPECT_EQ(context().trap, page_fault);
    EXPECT_EQ(context().address, guest);
}

TEST_F(UserProcessTest, SingleStep)
{
    Assembler program = code();
    program.bytes({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3});  // inc rax; inc rbx
    const std::uint64_t last = program.host() + 10;
    program.leave(site);
    context().gpr[x86::RAX] = context().gpr[x86::RBX] = 5;
    ASSERT_EQ(run(user_single_step), exit_fault);
    EXPECT_EQ(context().trap, debug_exception);
    EXPECT_EQ(context().host_rip, user_code + 3);
    EXPECT_EQ(context().gpr[x86::RAX], 6u);
    EXPECT_EQ(context().gpr[x86::RBX], 5u);
    EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
    ASSERT_EQ(process_->enter(user_single_step, user_code + 3), exit_fault);
    EXPECT_EQ(context().host_rip, user_code + 6);
    // The step that goes to the common exit is an ordinary exit.
    context().exit = 99;
    ASSERT_EQ(process_->enter(user_single_step, last), 99u);
    EXPECT_EQ(context().gpr[x86::RBX], 6u);
    EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
    ASSERT_EQ(run(), site);
    // A step that faults.
    code(0x100).bytes({0x48, 0x8b, 0x07});
    context().gpr[x86::RDI] = guest;
    ASSERT_EQ(process_->enter(user_new_code | user_single_step, user_code + 0x100), exit_fault);
    EXPECT_EQ(context().trap, page_fault);
    EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
}

TEST_F(UserProcessTest, UnmapAllAndManyMappings)
{
    code().bytes({0x48, 0x8b, 0x07}).leave(site);
    constexpr unsigned count = 3 * user_mappings_max + 5;
    for (unsigned i = 0; i < count; ++i) {
        ram<std::uint64_t>(i * page) = i;
        process_->map(mapping(guest + 2 * i * page, page, i * page));
    }
    for (const unsigned i : {0u, 300u, count - 1}) {
        context().gpr[x86::RDI] = guest + 2 * i * page;
        ASSERT_EQ(run(), site);
        EXPECT_EQ(context().gpr[x86::RAX], i);
    }
    EXPECT_GE(foreign_mappings(process_->pid()).size(), count);
    process_->map(mapping(guest, page, 0, 0));
    ASSERT_TRUE(process_->flush());
    context().gpr[x86::RDI] = guest;
    EXPECT_EQ(run(), exit_fault);
    process_->map(mapping(guest, page, 0));
    process_->unmap_all();
    process_->map(mapping(guest + page, page, 9 * page));
    ASSERT_EQ(run(), exit_fault);
    context().gpr[x86::RDI] = guest + page;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 9u);
    EXPECT_EQ(foreign_mappings(process_->pid()).size(), 1u);
    // Next to nothing at both ends of the window.
    process_->map(mapping(0x10000, page, 5 * page));
    process_->map(mapping(user_window_end - page, page, 6 * page));
    context().gpr[x86::RDI] = 0x10000;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 5u);
    context().gpr[x86::RDI] = user_window_end - page;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 6u);
    process_->unmap_all();
    ASSERT_TRUE(process_->flush());
    EXPECT_EQ(foreign_mappings(process_->pid()), std::vector<std::string>{});
}

TEST_F(UserProcessTest, RefusedMappingCancels)
{
    code().leave(site);
    for (const UserMapping& bad :
         {mapping(user_context, page, 0), mapping(user_image - page, 2 * page, 0),
          mapping(guest, page, 0, PROT_READ | PROT_EXEC), mapping(guest, 0, 0),
          mapping(user_window_end, page, 0), mapping(guest, ~0xfffull, 0), mapping(guest + 1, page, 0)}) {
        process_->map(bad);
        ASSERT_EQ(run(), exit_cancelled);
        EXPECT_EQ(process_->mapping_error(), EINVAL);
    }
    // The same when a full queue was carried out early.
    for (unsigned i = 0; i <= user_mappings_max; ++i) process_->map(mapping(user_context, page, 0));
    ASSERT_EQ(run(), exit_cancelled);
    EXPECT_EQ(process_->mapping_error(), EINVAL);
    process_->unmap_all();
    ASSERT_EQ(run(), site);
    EXPECT_EQ(process_->mapping_error(), 0);
}

TEST_F(UserProcessTest, KickGetsItOutOfALoop)
{
    code().bytes({0x48, 0xff, 0xc0, 0xeb, 0xfb});  // inc rax; jmp back
    constexpr int rounds = 50;
    std::vector<std::int64_t> latencies;
    for (int i = 0; i < rounds; ++i) {
        attention_ = 0;
        context().gpr[x86::RAX] = 0;
        std::atomic<Clock::rep> set{0};
        std::thread kicker{[&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(i % 3));
            set = Clock::now().time_since_epoch().count();
            attention_ = 1;
            ::syscall(SYS_futex, &attention_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
        }};
        const auto exit = run();
        const auto now = Clock::now().time_since_epoch().count();
        kicker.join();
        latencies.push_back(now - set);
        if (exit == exit_cancelled) continue;
        ASSERT_EQ(exit, exit_kick);
        EXPECT_TRUE(context().host_rip == user_code || context().host_rip == user_code + 3);
    }
    std::sort(latencies.begin(), latencies.end());
    std::printf("kick: %lld us median, %lld us at most\n",
                static_cast<long long>(latencies[rounds / 2] / 1000),
                static_cast<long long>(latencies.back() / 1000));
}

TEST_F(UserProcessTest, AttentionBeforehandCancels)
{
    code().bytes({0x48, 0xff, 0xc0}).leave(site);
    context().gpr[x86::RAX] = 7;
    attention_ = 1;
    ASSERT_EQ(run(), exit_cancelled);
    EXPECT_EQ(process_->mapping_error(), 0);
    EXPECT_EQ(context().gpr[x86::RAX], 7u);
    attention_ = 0;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 8u);
}

// Kicks at every moment: on the way in, inside, on the way out. No count is lost or made twice.
TEST_F(UserProcessTest, KicksAtAnyMomentLoseNothing)
{
    Assembler program = code();
    program.bytes({0x48, 0xff, 0xc0});                    // inc rax
    program.bytes({0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa});  // pause; dec ecx; jnz back
    program.leave(site);
    std::atomic<bool> stop{false};
    std::thread kicker{[&] {
        std::uint64_t random = 1;
        while (!stop) {
            attention_ = 1;
            ::syscall(SYS_futex, &attention_, FUTEX_WAKE, 1, nullptr, nullptr, 0);
            random = random * 6364136223846793005u + 1;
            for (std::uint64_t i = random >> 60; i != 0; --i) __builtin_ia32_pause();
            attention_ = 0;
            std::this_thread::sleep_for(std::chrono::microseconds(random >> 57));
        }
    }};
    unsigned done = 0, kicked = 0, cancelled = 0;
    std::uint64_t at = user_code;
    context().gpr[x86::RAX] = 0;
    const auto start = Clock::now();
    while (ns_since(start) < 500'000'000 || (kicked < 20 && ns_since(start) < 10'000'000'000)) {
        if (at == user_code) context().gpr[x86::RCX] = 1 + done * 7919u % 1000;
        const auto exit = process_->enter(0, at);
        ASSERT_TRUE(exit);
        if (*exit == site) {
            ASSERT_EQ(context().gpr[x86::RCX], 0u);
            ++done;
            at = user_code;
            ASSERT_EQ(context().gpr[x86::RAX], done);
        } else if (*exit == exit_kick) {
            ++kicked;
            at = context().host_rip;
        } else {
            ASSERT_EQ(*exit, exit_cancelled);
            ++cancelled;
        }
    }
    stop = true;
    kicker.join();
    EXPECT_EQ(context().gpr[x86::RAX], done + (at == user_code ? 0 : 1));
    std::printf("%u done, %u kicked, %u cancelled\n", done, kicked, cancelled);
    EXPECT_GT(done, 0u);
    EXPECT_GT(kicked, 0u);
}

TEST_F(UserProcessTest, NothingElseInItsAddressSpace)
{
    EXPECT_EQ(foreign_mappings(process_->pid()), std::vector<std::string>{});
}

TEST_F(UserProcessTest, TwoProcessesAreApart)
{
    auto second = processes_->start();
    ASSERT_TRUE(second);
    code().bytes({0x48, 0x8b, 0x07}).leave(site);
    ram<std::uint64_t>(0) = 1;
    ram<std::uint64_t>(page) = 2;
    process_->map(mapping(guest, page, 0));
    (*second)->map(mapping(guest, page, page));
    UserProcess* both[] = {process_, *second};
    for (int i = 0; i < 100; ++i) {
        UserProcess& process = *both[i & 1];
        process.context().gpr[x86::RDI] = guest;
        ASSERT_EQ(process.enter(0, user_code), site);
        ASSERT_EQ(process.context().gpr[x86::RAX], 1u + (i & 1));
    }
    processes_->stop(**second);
    EXPECT_EQ(processes_->running(), 1u);
    context().gpr[x86::RDI] = guest;
    EXPECT_EQ(run(), site);
}

TEST_F(UserProcessTest, EverySlotCanBeUsedAndUsedAgain)
{
    std::vector<UserProcess*> all{process_};
    while (all.size() < user_slots) {
        auto process = processes_->start();
        ASSERT_TRUE(process) << process.error().text();
        all.push_back(*process);
    }
    EXPECT_FALSE(processes_->start());
    code().leave(site);
    for (UserProcess* process : all) EXPECT_EQ(process->enter(0, user_code), site);
    for (UserProcess* process : all) processes_->stop(*process);
    const auto start = Clock::now();
    for (int i = 0; i < 20; ++i) {
        auto process = processes_->start();
        ASSERT_TRUE(process);
        EXPECT_EQ((*process)->enter(0, user_code), site);
        processes_->stop(**process);
    }
    std::printf("start, run, stop: %lld us\n", static_cast<long long>(ns_since(start) / 20000));
}

TEST_F(UserProcessTest, DeathIsAnError)
{
    code().bytes({0xeb, 0xfe});  // jmp itself
    std::thread killer{[&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ::kill(process_->pid(), SIGKILL);
    }};
    EXPECT_EQ(run(), std::nullopt);
    killer.join();
    EXPECT_EQ(run(), std::nullopt);
    EXPECT_FALSE(process_->flush());
    x86::XsaveArea state;
    EXPECT_FALSE(process_->save_fpu(state));
    // The others go on.
    auto process = processes_->start();
    ASSERT_TRUE(process);
    code(64).leave(site);
    EXPECT_EQ((*process)->enter(0, user_code + 64), site);
}

TEST_F(UserProcessTest, FaultOfTheProgramItselfIsAnError)
{
    code().bytes({0xff, 0xe0});  // jmp rax: to where no translated code is
    context().gpr[x86::RAX] = 0x12345678;
    EXPECT_EQ(run(), std::nullopt);
}

TEST_F(UserProcessTest, SystemCallsInTheCodeCacheKill)
{
    code().bytes({0x0f, 0x05}).leave(site);
    context().gpr[x86::RAX] = 39;  // getpid
    EXPECT_EQ(run(), std::nullopt);
}

TEST_F(UserProcessTest, ExecutableMappingsKill)
{
    // mmap(guest, 4096, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, RAM, 0)
    const auto set = [&](std::uint64_t prot) {
        context().gpr[x86::RAX] = 9;
        context().gpr[x86::RDI] = guest;
        context().gpr[x86::RSI] = page;
        context().gpr[x86::RDX] = prot;
        context().gpr[10] = MAP_SHARED | MAP_FIXED;
        context().gpr[8] = user_ram_fd;
        context().gpr[9] = 0;
    };
    code().bytes({0x0f, 0x05}).leave(site);
    set(PROT_READ);
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], guest);
    set(PROT_READ | PROT_EXEC);
    EXPECT_EQ(run(), std::nullopt);
}

TEST_F(UserProcessTest, EndsWithItsParent)
{
    const int pid = process_->pid();
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t parent = ::fork();
    if (parent == 0) {
        auto program = user_program_file();
        auto processes = UserProcesses::create({ram_fd_.get(), program->get()});
        auto process = (*processes)->start();
        const int child = (*process)->pid();
        if (::write(pipe[1], &child, sizeof child) != sizeof child) ::_exit(1);
        ::_exit(0);  // without a destructor
    }
    int child = 0;
    ASSERT_EQ(::read(pipe[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
    ::close(pipe[0]);
    ::close(pipe[1]);
    ASSERT_EQ(::waitpid(parent, nullptr, 0), parent);
    ASSERT_GT(child, 0);
    const auto gone = [](int which) {
        std::ifstream status{"/proc/" + std::to_string(which) + "/stat"};
        std::string line;
        return !std::getline(status, line) || line.find(") Z") != std::string::npos;
    };
    for (int i = 0; i < 200 && !gone(child); ++i) ::usleep(10000);
    EXPECT_TRUE(gone(child));
    EXPECT_FALSE(gone(pid));
}

std::int64_t round_trip(UserProcess& process, int rounds)
{
    const auto start = Clock::now();
    for (int i = 0; i < rounds; ++i) {
        if (process.enter(0, user_code) != site) return -1;
    }
    return ns_since(start) / rounds;
}

TEST_F(UserProcessTest, RoundTripTimes)
{
    code().leave(site);
    const auto best = [&](int rounds) {
        std::int64_t least = 1 << 30;
        for (int i = 0; i < 20; ++i) least = std::min(least, round_trip(*process_, rounds));
        return static_cast<long long>(least);
    };
    ASSERT_EQ(run(), site);
    const long long spinning = best(2000);
    std::printf("round trip, spinning: %lld ns\n", spinning);
    EXPECT_GT(spinning, 0);
    // A fill and an access to what was filled.
    code(0x100).bytes({0x48, 0x8b, 0x07}).leave(site);
    const auto fills = [&](const char* name, std::uint64_t length) {
        std::int64_t least = 1 << 30;
        for (int round = 0; round < 10; ++round) {
            constexpr int count = 100;
            process_->unmap_all();
            ASSERT_EQ(run(), site);
            const auto begin = Clock::now();
            for (int i = 0; i < count; ++i) {
                context().gpr[x86::RDI] = guest + static_cast<unsigned>(i) * 2 * length;
                process_->map(mapping(context().gpr[x86::RDI], length, 0));
                ASSERT_EQ(process_->enter(0, user_code + 0x100), site);
            }
            least = std::min(least, ns_since(begin) / count);
        }
        std::printf("%s: %lld ns\n", name, static_cast<long long>(least));
    };
    fills("turn with a page mapped and read", page);
    fills("turn with 16 pages mapped, one read", 16 * page);
    fills("turn with 64 pages mapped, one read", 64 * page);
    start({.spin_ns = 0});
    code().leave(site);
    ASSERT_EQ(run(), site);
    const long long sleeping = best(500);
    std::printf("round trip, sleeping: %lld ns\n", sleeping);
    EXPECT_GT(sleeping, 0);
}

}  // namespace
}  // namespace doppel::engine::translate
