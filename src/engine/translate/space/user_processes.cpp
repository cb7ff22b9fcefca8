// Starting the zygote and having it fork.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/assert.h"
#include "engine/translate/link/user_program.h"
#include "engine/translate/space/user_process.h"
#include "engine/translate/space/user_wait.h"

namespace doppel::engine::translate
{

using base::Fd;
using base::Result;

namespace
{

using Word = std::atomic_ref<std::uint32_t>;

std::uint64_t host_xcr0()
{
    std::uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<std::uint64_t>(high) << 32 | low;
}

// The child shares the caller's memory until it executes the program, so nothing here
// copies a large address space. It makes system calls only.
int execute_program(const UserProcesses::Config& config, int arena_fd)
{
    char name[] = "doppel-user";
    char* const arguments[] = {name, nullptr};
    char* const environment[] = {nullptr};
    // The caller's signal handlers are not for the child. The program sets its own mask.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    const pid_t pid = ::vfork();
    if (pid != 0) {
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return pid;
    }
    // Out of the way first: a descriptor may have another one's final number.
    const int ram = ::fcntl(config.ram_fd, F_DUPFD_CLOEXEC, 16);
    const int arena = ::fcntl(arena_fd, F_DUPFD_CLOEXEC, 16);
    const int program = ::fcntl(config.program_fd, F_DUPFD_CLOEXEC, 16);
    int files[memory_files_max];
    for (std::size_t i = 0; i < config.files.size(); ++i) {
        files[i] = ::fcntl(config.files[i].file.fd.get(), F_DUPFD_CLOEXEC, 16);
    }
    bool arranged = ::dup2(ram, user_ram_fd) >= 0 && ::dup2(arena, user_arena_fd) >= 0;
    for (std::size_t i = 0; i < config.files.size(); ++i) {
        arranged = arranged && ::dup2(files[i], user_file_fd + static_cast<int>(i)) >= 0;
    }
    if (arranged) {
        ::syscall(SYS_execveat, program, "", arguments, environment, AT_EMPTY_PATH);
    }
    ::_exit(127);
}

}  // namespace

UserProcesses::UserProcesses(base::MappedRegion arena, const UserWait& wait)
    : arena_(std::move(arena)), wait_(wait), xsave_mask_(user_xsave_components & host_xcr0())
{
}

Result<std::unique_ptr<UserProcesses>> UserProcesses::create(const Config& config)
{
    const Fd arena = TRY(executable_file("doppel-user-arena"));
    if (::ftruncate(arena.get(), static_cast<off_t>(user_arena_size)) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot size a memory file", errno);
    }
    auto region = TRY(base::MappedRegion::map_aligned(
        user_arena_size, large_page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, arena.get()));
    const SpinBudget budget{looks_in(config.spin_ns)};
    const UserWait wait{config.attention, budget, budget, 0, nullptr, config.place,
                        config.vcpus, usable_processors(), config.devices, {}, {}};
    std::unique_ptr<UserProcesses> processes{new UserProcesses{std::move(region), wait}};
    TRY(processes->start_zygote(config, arena.get()));
    return processes;
}

UserProcesses::~UserProcesses()
{
    wait_.processor_choice.stay_on(0);
    for (auto& process : processes_) process.reset();
    if (zygote_ <= 0) return;
    if (zygote_pidfd_.valid()) {
        ::syscall(SYS_pidfd_send_signal, zygote_pidfd_.get(), SIGKILL, nullptr, 0);
    }
    while (::waitpid(zygote_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

ZygoteControl& UserProcesses::control()
{
    return *reinterpret_cast<ZygoteControl*>(arena_.data());
}

Result<void> UserProcesses::start_zygote(const Config& config, int arena_fd)
{
    control().parent = ::getpid();
    ASSERT(config.files.size() <= memory_files_max);
    control().files = UserFiles{};
    for (std::size_t i = 0; i < config.files.size(); ++i) {
        control().files.offsets[i] = config.files[i].offset;
    }
    zygote_ = execute_program(config, arena_fd);
    if (zygote_ <= 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot start the user program", errno);
    }
    zygote_pidfd_ = Fd{static_cast<int>(::syscall(SYS_pidfd_open, zygote_, 0))};
    if (!zygote_pidfd_.valid()) {
        ::kill(zygote_, SIGKILL);
        return base::errno_error(base::ErrorKind::host, "Cannot watch the user program", errno);
    }
    return {};
}

std::span<std::uint8_t> UserProcesses::code()
{
    return {reinterpret_cast<std::uint8_t*>(arena_.data()) + user_arena_code, user_code_size};
}

// The pid of the new process.
Result<int> UserProcesses::fork_process(unsigned slot)
{
    const Word done{control().done};
    const std::uint32_t turn = control().turn + 1;
    control().slot = slot;
    Word{control().turn}.store(turn);
    wake_word(control().turn);
    for (;;) {
        const std::uint32_t seen = done.load();
        if (seen == turn) break;
        if (!wait_on_word(control().done, seen, nullptr) && process_ended(zygote_pidfd_.get())) {
            return base::host_error("The zygote of the user processes is dead");
        }
    }
    if (control().pid <= 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot fork a user process",
                                 -control().pid);
    }
    return int{control().pid};
}

Result<UserProcess*> UserProcesses::start()
{
    const auto free = std::find(processes_.begin(), processes_.end(), nullptr);
    if (free == processes_.end()) return base::host_error("All slots for user processes are taken");
    const auto slot = static_cast<unsigned>(free - processes_.begin());
    std::unique_ptr<UserProcess> process{new UserProcess{
        slot, arena_.data() + user_arena_slots + slot * slot_size, wait_, xsave_mask_,
        control().files}};
    const int pid = TRY(fork_process(slot));
    TRY(process->attach(pid));
    *free = std::move(process);
    return free->get();
}

void UserProcesses::stop(UserProcess& process)
{
    ASSERT(processes_[process.slot()].get() == &process);
    processes_[process.slot()].reset();
}

unsigned UserProcesses::running() const
{
    return static_cast<unsigned>(std::count_if(processes_.begin(), processes_.end(),
                                               [](const auto& p) { return p != nullptr; }));
}

}  // namespace doppel::engine::translate
