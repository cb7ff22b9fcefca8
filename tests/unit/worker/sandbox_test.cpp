// What the worker may still do in its sandbox: each call in a child of its own.
#include "engine/translate/worker/sandbox.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "engine/translate/link/arena.h"

namespace doppel::engine::translate {
namespace {

enum class Fate { done, failed, killed };

// The descriptor is an eventfd; `call` says whether it succeeded.
template <typename Call>
Fate in_sandbox(int fd, Call call)
{
    const pid_t pid = ::fork();
    if (pid == 0) {
        const int event = ::eventfd(1, EFD_NONBLOCK);
        if (event < 0 || ::dup2(event, fd) != fd || !enter_sandbox()) ::_exit(2);
        ::_exit(call(fd) ? 0 : 1);
    }
    int status = 0;
    if (::waitpid(pid, &status, 0) != pid) return Fate::failed;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) return Fate::killed;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? Fate::done : Fate::failed;
}

bool write_one(int fd)
{
    const std::uint64_t one = 1;
    return ::write(fd, &one, sizeof one) == static_cast<ssize_t>(sizeof one);
}

bool read_one(int fd)
{
    std::uint64_t value = 0;
    return ::read(fd, &value, sizeof value) == static_cast<ssize_t>(sizeof value);
}

TEST(Sandbox, WritesToDoorbellsAndStandardErrorAlone)
{
    const int last = doorbell_fd + static_cast<int>(doorbell_count) - 1;
    for (const int fd : {STDERR_FILENO, doorbell_fd, doorbell_fd + 20, last}) {
        EXPECT_EQ(in_sandbox(fd, write_one), Fate::done) << fd;
    }
    for (const int fd : {STDOUT_FILENO, arena_fd, lifeline_fd, last + 1, 500}) {
        EXPECT_EQ(in_sandbox(fd, write_one), Fate::killed) << fd;
    }
}

TEST(Sandbox, ReadsTheLifelineAlone)
{
    EXPECT_EQ(in_sandbox(lifeline_fd, read_one), Fate::done);
    for (const int fd : {STDIN_FILENO, doorbell_fd, doorbell_fd + 20}) {
        EXPECT_EQ(in_sandbox(fd, read_one), Fate::killed) << fd;
    }
}

TEST(Sandbox, HasNoOtherFiles)
{
    EXPECT_EQ(in_sandbox(doorbell_fd, [](int fd) { return ::dup(fd) >= 0; }), Fate::killed);
    EXPECT_EQ(in_sandbox(doorbell_fd, [](int) { return ::eventfd(0, 0) >= 0; }), Fate::killed);
}

TEST(Sandbox, ChoosesItsOwnProcessorAlone)
{
    for (const int thread : {0, 1}) {
        const auto choose = [thread](int) {
            cpu_set_t set;
            return ::sched_getaffinity(thread, sizeof set, &set) == 0 &&
                   ::sched_setaffinity(thread, sizeof set, &set) == 0;
        };
        EXPECT_EQ(in_sandbox(doorbell_fd, choose), thread == 0 ? Fate::done : Fate::killed);
    }
}

}  // namespace
}  // namespace doppel::engine::translate
