#include "engine/translate/worker/address_space.h"

#include <fcntl.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <string>

#include "base/fd.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {

namespace {

// [begin, end) at the start of a line: "7fbfffdd0000-7fbfffdf6000 r--p ...".
bool parse_range(std::string_view line, std::uint64_t& begin, std::uint64_t& end)
{
    const char* const last = line.data() + line.size();
    const auto first = std::from_chars(line.data(), last, begin, 16);
    if (first.ec != std::errc{} || first.ptr == last || *first.ptr != '-') return false;
    return std::from_chars(first.ptr + 1, last, end, 16).ec == std::errc{};
}

constexpr std::uint64_t end_of_users = 0x800000000000;  // behind it are the kernel's, and [vsyscall]

bool may_be_there(std::uint64_t begin, std::uint64_t end)
{
    return end <= worker_low_end || (begin >= worker_high && end <= worker_high_end) ||
           begin >= end_of_users;
}

}  // namespace

base::Result<void> check_address_space(std::string_view maps)
{
    while (!maps.empty()) {
        const std::string_view line = maps.substr(0, maps.find('\n'));
        maps.remove_prefix(std::min(line.size() + 1, maps.size()));
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        if (!parse_range(line, begin, end)) {
            return base::host_error("Cannot understand /proc/self/maps: " + std::string{line});
        }
        if (!may_be_there(begin, end)) {
            return base::host_error("The worker's memory lies where the guest's has to be: " +
                                    std::string{line});
        }
    }
    return {};
}

base::Result<void> check_own_address_space()
{
    const base::Fd file{::open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    if (!file.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot read /proc/self/maps", errno);
    }
    std::string text;
    char part[4096];
    for (ssize_t got = 0; (got = ::read(file.get(), part, sizeof part)) > 0;) {
        text.append(part, static_cast<std::size_t>(got));
    }
    return check_address_space(text);
}

}  // namespace doppel::engine::translate
