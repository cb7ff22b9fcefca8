#include "user_process_fixture.h"

#include <sched.h>

namespace doppel::engine::translate
{
namespace
{

// Start, end and what a process cannot do.

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
    EXPECT_EQ(process_->crashed(), page_fault + 1);
}

TEST_F(UserProcessTest, WhatGuestCodeWritesIsNotBelieved)
{
    // It writes the whole report and the program's memory, then leaves.
    Assembler program = code();
    for (const std::uint64_t begin : {user_context + report_offset + 4, user_program_data}) {
        program.bytes({0x48, 0xbf}).value(begin, 8);  // mov rdi, begin
        program.bytes({0xb9}).value(0x2000 - 4, 4);   // mov ecx, count
        program.bytes({0xb0, 0xff, 0xf3, 0xaa});      // mov al, 0xff; rep stosb
    }
    program.leave(site);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(run(), site);
    x86::XsaveArea state;
    ASSERT_TRUE(process_->save_fpu(state));
    process_->load_fpu(state);
    context().gpr[x86::RDI] = guest;
    code(0x100).bytes({0x48, 0x8b, 0x07}).leave(site);
    ASSERT_EQ(process_->enter(user_new_code, user_code + 0x100), exit_fault);
    EXPECT_EQ(context().address, guest);
}

TEST_F(UserProcessTest, MapsFilesThatLieBehindRam)
{
    std::vector<memory::GuestMemory::FileView> files(2);
    for (unsigned i = 0; i < files.size(); ++i) {
        base::Fd fd{::memfd_create("file", MFD_CLOEXEC)};
        const std::uint64_t value = 0x1111 * (i + 1);
        ASSERT_EQ(::ftruncate(fd.get(), 2 * page), 0);
        ASSERT_EQ(::pwrite(fd.get(), &value, sizeof value, page), 8);
        files[i] = {{std::move(fd), 2 * page, false}, ram_size + (1 + 3 * i) * page};
    }
    UserProcesses::Config config;
    config.files = files;
    start(config);
    code().bytes({0x48, 0x8b, 0x07}).leave(site);  // mov rax, [rdi]
    context().gpr[x86::RDI] = guest;
    ram<std::uint64_t>(page) = 0x77;
    for (const auto& [offset, value] : {std::pair{page, 0x77u},
                                        std::pair{files[0].offset + page, 0x1111u},
                                        std::pair{files[1].offset + page, 0x2222u}}) {
        process_->map(mapping(guest, page, offset));
        ASSERT_EQ(run(), site);
        EXPECT_EQ(context().gpr[x86::RAX], value);
    }
}

TEST_F(UserProcessTest, ProgramThatCannotBeExecutedIsAnError)
{
    auto processes = UserProcesses::create({ram_fd_.get(), ram_fd_.get()});
    ASSERT_TRUE(processes);
    auto process = (*processes)->start();
    ASSERT_FALSE(process);
}

TEST(SpinBudgetTest, ShrinksForAWhileWhenTheThreadWasPreempted)
{
    SpinBudget budget{1000};
    EXPECT_EQ(budget.looks(0), 1000u);
    EXPECT_TRUE(budget.looked(1'000'000, 1'000'200));
    EXPECT_EQ(budget.looks(1'000'300), 1000u);
    EXPECT_FALSE(budget.looked(1'000'300, 9'000'000));
    EXPECT_LT(budget.looks(9'000'100), 50u);
    EXPECT_GT(budget.looks(9'000'100), 0u);
    EXPECT_EQ(budget.looks(900'000'000), 1000u);
    const SpinBudget none{0};
    EXPECT_EQ(none.looks(0), 0u);
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

TEST_F(UserProcessTest, IsWhereTheWorkerIsWhileDevicesAreBusy)
{
    const auto usable = [](int pid) {
        cpu_set_t set;
        EXPECT_EQ(::sched_getaffinity(pid, sizeof set, &set), 0);
        return set;
    };
    const cpu_set_t all = usable(0);
    if (CPU_COUNT(&all) == 1) GTEST_SKIP() << "one processor";
    // Two of them: with more, nobody needs to.
    cpu_set_t two = all;
    for (unsigned i = CPU_SETSIZE; CPU_COUNT(&two) > 2;) CPU_CLR(--i, &two);
    ASSERT_EQ(::sched_setaffinity(0, sizeof two, &two), 0);
    DeviceLoad load;
    UserProcesses::Config config;
    config.devices = &load;
    start(config);
    code().leave(site);
    ASSERT_EQ(run(), site);
    const cpu_set_t idle = usable(process_->pid());
    EXPECT_TRUE(CPU_EQUAL(&idle, &two));

    // More than once: there are moments in which a load does not count.
    cpu_set_t busy = two;
    for (unsigned i = 0; i < 10'000 && CPU_COUNT(&busy) != 1; ++i) {
        for (unsigned ring = 0; ring < DeviceLoad::many; ++ring) load.rang(__builtin_ia32_rdtsc());
        ASSERT_EQ(run(), site);
        busy = usable(process_->pid());
    }
    EXPECT_EQ(CPU_COUNT(&busy), 1);
    EXPECT_TRUE(CPU_ISSET(static_cast<unsigned>(::sched_getcpu()), &busy)) << "where this thread is";

    load = {};
    ASSERT_EQ(run(), site);
    const cpu_set_t after = usable(process_->pid()), here = usable(0);
    EXPECT_TRUE(CPU_EQUAL(&after, &two));
    EXPECT_TRUE(CPU_EQUAL(&here, &two));
    ASSERT_EQ(::sched_setaffinity(0, sizeof all, &all), 0);
}

}  // namespace
}  // namespace doppel::engine::translate
