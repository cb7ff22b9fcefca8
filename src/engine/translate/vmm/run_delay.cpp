#include "engine/translate/vmm/run_delay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <optional>

namespace doppel::engine::translate {

namespace {

// New user processes are rare, and lose nothing by being found late.
constexpr std::uint64_t search_every_ns = 1'000'000'000;
// Worker, zygote, user processes.
constexpr unsigned depth_max = 3;
constexpr std::size_t tasks_max = 64;

std::string read_file(int fd)
{
    std::array<char, 1024> text{};
    const ssize_t size = ::pread(fd, text.data(), text.size(), 0);
    return size > 0 ? std::string(text.data(), static_cast<std::size_t>(size)) : std::string{};
}

// Nanoseconds: on a processor, and waiting for one.
struct Account {
    std::uint64_t ran = 0, delay = 0;
};

// "ran delay turns"; nothing: the thread is gone.
std::optional<Account> account_in(const std::string& schedstat)
{
    Account account;
    const char* const end = schedstat.data() + schedstat.size();
    const auto ran = std::from_chars(schedstat.data(), end, account.ran);
    if (ran.ec != std::errc{} || ran.ptr == end) return std::nullopt;
    if (std::from_chars(ran.ptr + 1, end, account.delay).ec != std::errc{}) return std::nullopt;
    return account;
}

}  // namespace

void RunDelay::find_tasks_of(pid_t process, unsigned depth)
{
    const std::string folder = "/proc/" + std::to_string(process) + "/task";
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        const std::string path = entry.path().string();
        const auto task = static_cast<pid_t>(std::atoi(entry.path().filename().c_str()));
        if (tasks_.size() >= tasks_max) return;
        if (!tasks_.contains(task)) {
            base::Fd file{::open((path + "/schedstat").c_str(), O_RDONLY | O_CLOEXEC)};
            if (file.valid()) tasks_[task].schedstat = std::move(file);
        }
        if (depth == depth_max) continue;
        const base::Fd list{::open((path + "/children").c_str(), O_RDONLY | O_CLOEXEC)};
        const std::string children = list.valid() ? read_file(list.get()) : std::string{};
        for (const char* at = children.c_str();;) {
            char* end = nullptr;
            const long child = std::strtol(at, &end, 10);
            if (end == at) break;
            find_tasks_of(static_cast<pid_t>(child), depth + 1);
            at = end;
        }
    }
}

void RunDelay::find_tasks()
{
    // Of threads that ended nothing can be read any more.
    std::erase_if(tasks_, [](const auto& task) { return read_file(task.second.schedstat.get()).empty(); });
    find_tasks_of(worker_, 1);
}

std::uint64_t RunDelay::at(std::uint64_t now_ns)
{
    if (measured_ns_ != 0 && now_ns - measured_ns_ < period_ns) return total_ns_;
    if (searched_ns_ == 0 || now_ns - searched_ns_ >= search_every_ns) {
        searched_ns_ = now_ns;
        find_tasks();
    }
    std::uint64_t ran = 0, delay = 0;
    for (auto& [number, task] : tasks_) {
        const auto account = account_in(read_file(task.schedstat.get()));
        if (!account || account->ran < task.ran_ns || account->delay < task.delay_ns) continue;
        ran += account->ran - task.ran_ns;
        delay += account->delay - task.delay_ns;
        task.ran_ns = account->ran;
        task.delay_ns = account->delay;
    }
    // They take turns for one vCPU: what waits for another one's processor keeps nobody waiting.
    const std::uint64_t elapsed = measured_ns_ == 0 ? 0 : now_ns - measured_ns_;
    total_ns_ += std::min(delay, elapsed - std::min(elapsed, ran));
    measured_ns_ = now_ns;
    return total_ns_;
}

}  // namespace doppel::engine::translate
