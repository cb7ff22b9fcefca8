#include "engine/translate/vmm/launch.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <span>

#include "engine/translate/layout.h"
#include "engine/translate/link/arena.h"

extern "C" {
extern const std::byte doppel_worker_image[];
extern const std::byte doppel_worker_image_end[];
}

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

namespace doppel::engine::translate {

namespace {

std::span<const std::byte> image()
{
    return {doppel_worker_image,
            static_cast<std::size_t>(doppel_worker_image_end - doppel_worker_image)};
}

// The kernel's mappings end so far below the end of the address space.
constexpr rlim_t stack_limit = 0x800000000000 - worker_high_end;

// Of the child's descriptors while it arranges them.
constexpr int above_all_fixed = 2 * first_free_fd;

// ---- in the child, between fork and exec: system calls alone ----------------------------------

enum class Step : int { limit, personality, descriptors, execute };

struct Failure {
    Step step;
    int error;
};

struct ChildPlan {
    int null_device, arena, commons, ram, lifeline, program, report;  // all at least above_all_fixed
    DoorbellEvents doorbells;                                // these, too
    unsigned file_count;
    std::array<int, memory_files_max> files;
};

[[noreturn]] void fail(const ChildPlan& plan, Step step)
{
    const Failure failure{step, errno};
    static_cast<void>(::write(plan.report, &failure, sizeof failure));
    ::_exit(127);
}

[[noreturn]] void become_worker(const ChildPlan& plan)
{
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    // Not the terminal's: its signals are the VMM's to act on.
    ::setsid();

    rlimit limit{};
    if (::getrlimit(RLIMIT_STACK, &limit) != 0) fail(plan, Step::limit);
    limit.rlim_cur = stack_limit;
    if (::setrlimit(RLIMIT_STACK, &limit) != 0) fail(plan, Step::limit);
    if (::personality(ADDR_NO_RANDOMIZE) < 0) fail(plan, Step::personality);

    // Those that stay open across exec, at their numbers; then nothing else but these two.
    constexpr int program = first_free_fd;
    constexpr int report = first_free_fd + 1;
    bool arranged =
        ::dup2(plan.null_device, STDIN_FILENO) >= 0 && ::dup2(plan.null_device, STDOUT_FILENO) >= 0 &&
        ::dup2(plan.arena, arena_fd) >= 0 && ::dup2(plan.commons, commons_fd) >= 0 &&
        ::dup2(plan.ram, ram_fd) >= 0 && ::dup2(plan.lifeline, lifeline_fd) >= 0 && ::dup3(plan.program, program, O_CLOEXEC) >= 0 &&
        ::dup3(plan.report, report, O_CLOEXEC) >= 0;
    for (unsigned i = 0; i < doorbell_count; ++i) {
        arranged = arranged && ::dup2(plan.doorbells[i], doorbell_fd + static_cast<int>(i)) >= 0;
    }
    for (unsigned i = 0; i < memory_files_max; ++i) {
        const int fd = file_fd + static_cast<int>(i);
        if (i < plan.file_count) arranged = arranged && ::dup2(plan.files[i], fd) >= 0;
        else ::close(fd);
    }
    if (!arranged) fail(plan, Step::descriptors);
    ::syscall(SYS_close_range, report + 1, ~0u, 0);

    char name[] = "doppel-worker";
    char* arguments[] = {name, nullptr};
    char* environment[] = {nullptr};
    ::syscall(SYS_execveat, program, "", arguments, environment, AT_EMPTY_PATH);
    ChildPlan moved = plan;
    moved.report = report;
    fail(moved, Step::execute);
}

// ---- in the VMM --------------------------------------------------------------------------------

std::string text_of(const Failure& failure)
{
    const std::string reason = std::strerror(failure.error);
    switch (failure.step) {
    case Step::limit:
        return "The stack limit of the translate engine's worker cannot be raised to 256 GiB "
               "(ulimit -Hs): " + reason;
    case Step::personality:
        return "Address randomisation cannot be turned off for the translate engine's worker "
               "(personality): " + reason;
    case Step::descriptors:
        return "The translate engine's worker cannot get its files: " + reason;
    case Step::execute:
        return "The translate engine's worker cannot be executed from memory (memfd): " + reason;
    }
    return reason;
}

base::Result<base::Fd> program_file()
{
    base::Fd file{::memfd_create("doppel-worker", MFD_CLOEXEC | MFD_EXEC)};
    // Kernels before 6.3 do not know the flag, and need none.
    if (!file.valid()) file = base::Fd{::memfd_create("doppel-worker", MFD_CLOEXEC)};
    if (!file.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a memfd", errno);
    }
    for (std::span<const std::byte> left = image(); !left.empty();) {
        const ssize_t written = ::write(file.get(), left.data(), left.size());
        if (written <= 0) {
            return base::errno_error(base::ErrorKind::host, "Cannot write a memfd", errno);
        }
        left = left.subspan(static_cast<std::size_t>(written));
    }
    return file;
}

base::Result<base::Fd> duplicate(int fd)
{
    base::Fd copy{::fcntl(fd, F_DUPFD_CLOEXEC, above_all_fixed)};
    if (!copy.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot duplicate a descriptor", errno);
    }
    return copy;
}

struct Pipe {
    base::Fd read, write;
};

base::Result<Pipe> make_pipe()
{
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a pipe", errno);
    }
    return Pipe{base::Fd{ends[0]}, base::Fd{ends[1]}};
}

}  // namespace

std::string launch_problem()
{
    if (image().empty()) return "this build has no worker (built with sanitizers)";
    rlimit limit{};
    if (::getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_max < stack_limit) {
        return "the hard limit of the stack (ulimit -Hs) is below 256 GiB";
    }
    // Only for later programs of this thread, and at once undone.
    const int before = ::personality(0xffffffff);
    if (::personality(static_cast<unsigned long>(before) | ADDR_NO_RANDOMIZE) < 0) {
        return "address randomisation cannot be turned off (personality is not permitted)";
    }
    ::personality(static_cast<unsigned long>(before));
    return {};
}

base::Result<std::unique_ptr<WorkerProcess>> WorkerProcess::start(int arena, int commons,
                                                                   const memory::GuestMemory& memory,
                                                                   const DoorbellEvents& doorbells)
{
    const base::Fd null_device{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    if (!null_device.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot open /dev/null", errno);
    }
    const base::Fd program = TRY(program_file());
    Pipe lifeline = TRY(make_pipe());
    Pipe report = TRY(make_pipe());
    base::Fd copies[] = {TRY(duplicate(null_device.get())), TRY(duplicate(arena)),
                         TRY(duplicate(commons)), TRY(duplicate(memory.fd())), TRY(duplicate(lifeline.read.get())),
                         TRY(duplicate(program.get())), TRY(duplicate(report.write.get()))};
    ChildPlan plan{copies[0].get(), copies[1].get(), copies[2].get(), copies[3].get(),
                   copies[4].get(), copies[5].get(), copies[6].get(), {}, 0, {}};
    std::array<base::Fd, doorbell_count> events;
    for (unsigned i = 0; i < doorbell_count; ++i) {
        events[i] = TRY(duplicate(doorbells[i]));
        plan.doorbells[i] = events[i].get();
    }

    std::array<base::Fd, memory_files_max> files;
    for (const auto& view : memory.files()) {
        files[plan.file_count] = TRY(duplicate(view.file.fd.get()));
        plan.files[plan.file_count] = files[plan.file_count].get();
        ++plan.file_count;
    }

    const pid_t pid = ::fork();
    if (pid < 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot start a process", errno);
    }
    if (pid == 0) become_worker(plan);
    std::unique_ptr<WorkerProcess> worker{new WorkerProcess{pid, std::move(lifeline.write)}};

    // End of file: it became the worker, which closed its end.
    report.write.reset();
    copies[6].reset();
    Failure failure{};
    ssize_t got = 0;
    do {
        got = ::read(report.read.get(), &failure, sizeof failure);
    } while (got < 0 && errno == EINTR);
    if (got == static_cast<ssize_t>(sizeof failure)) return base::host_error(text_of(failure));
    return worker;
}

WorkerProcess::~WorkerProcess()
{
    ::kill(pid_, SIGKILL);
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
}

std::optional<std::string> WorkerProcess::death() const
{
    siginfo_t info{};
    const int result =
        ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
    if (result != 0 || info.si_pid == 0) return std::nullopt;
    if (info.si_code == CLD_EXITED) return "exit status " + std::to_string(info.si_status);
    if (info.si_status == SIGSYS) return "SIGSYS, a system call that its sandbox forbids";
    const char* name = ::sigabbrev_np(info.si_status);
    return name == nullptr ? "signal " + std::to_string(info.si_status) : "SIG" + std::string{name};
}

void WorkerProcess::signal(pid_t thread, int number) const
{
    ::syscall(SYS_tgkill, pid_, thread, number);
}

}  // namespace doppel::engine::translate
