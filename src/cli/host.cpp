#include "cli/host.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/fd.h"
#include "vm/vm_config.h"

namespace doppel::cli {

namespace {

std::string first_line(const char* path)
{
    std::ifstream file{path};
    std::string line;
    std::getline(file, line);
    return line;
}

// The value of "name : value" in /proc/cpuinfo or /proc/meminfo, first occurrence.
std::string field(const char* path, const std::string& name)
{
    std::ifstream file{path};
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with(name)) continue;
        const std::size_t colon = line.find(':');
        if (colon == std::string::npos) continue;
        const std::size_t start = line.find_first_not_of(" \t", colon + 1);
        return start == std::string::npos ? std::string{} : line.substr(start);
    }
    return {};
}

std::uint64_t number(const std::string& text)
{
    std::uint64_t value = 0;
    std::istringstream{text} >> value;
    return value;
}

bool has_word(const std::string& text, const std::string& word)
{
    std::istringstream words{text};
    for (std::string found; words >> found;) {
        if (found == word) return true;
    }
    return false;
}

std::string kvm_modules()
{
    std::string found;
    for (const char* module : {"kvm_intel", "kvm_amd", "kvm_pvm"}) {
        std::error_code ignored;
        if (!std::filesystem::exists(std::string{"/sys/module/"} + module, ignored)) continue;
        found += (found.empty() ? "" : " ") + std::string{module};
    }
    return found;
}

std::string probe_userfaultfd()
{
    const base::Fd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY))};
    return fd.valid() ? std::string{} : std::string{std::strerror(errno)};
}

std::string probe_io_uring()
{
    io_uring_params parameters{};
    const base::Fd fd{static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters))};
    return fd.valid() ? std::string{} : std::string{std::strerror(errno)};
}

// "always [madvise] never" says madvise.
std::string chosen(const std::string& line)
{
    const std::size_t open = line.find('['), close = line.find(']');
    if (open == std::string::npos || close == std::string::npos || close < open) return "none";
    return line.substr(open + 1, close - open - 1);
}

}  // namespace

Host probe_host()
{
    constexpr unsigned long hwcap2_fsgsbase = 1u << 1;  // asm/hwcap2.h
    Host host;
    const std::string flags = field("/proc/cpuinfo", "flags");
    host.cpu_model = field("/proc/cpuinfo", "model name");
    host.hypervisor = has_word(flags, "hypervisor");
    // ospke: the kernel lets programs use it.
    host.pku = has_word(flags, "ospke");
    host.fsgsbase = (::getauxval(AT_HWCAP2) & hwcap2_fsgsbase) != 0;
    host.kvm = engine::probe_kvm();
    host.translate_problem = engine::translate_problem();
    host.kvm_modules = kvm_modules();
    host.userfaultfd_problem = probe_userfaultfd();
    host.io_uring_problem = probe_io_uring();
    host.map_count = number(first_line("/proc/sys/vm/max_map_count"));
    host.transparent_huge_pages =
        chosen(first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
    host.huge_pages_free = number(field("/proc/meminfo", "HugePages_Free"));
    host.huge_page_kib = number(field("/proc/meminfo", "Hugepagesize"));
    host.processors = static_cast<unsigned>(::sysconf(_SC_NPROCESSORS_ONLN));
    host.memory_bytes = vm::host_memory_bytes();
    return host;
}

}  // namespace doppel::cli
