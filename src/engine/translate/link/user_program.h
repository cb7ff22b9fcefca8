// The user processes' program as a file image (library doppel_user_image).
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/result.h"

extern "C" {
extern const std::uint8_t doppel_user_program[];
extern const std::uint8_t doppel_user_program_end[];
}

namespace doppel::engine::translate {

// A new memory file that may be executed and mapped executable, closed on exec.
inline base::Result<base::Fd> executable_file(const char* name)
{
    constexpr unsigned mfd_exec = 0x10;  // Linux 6.3 and later; before, all are
    base::Fd file{::memfd_create(name, MFD_CLOEXEC | mfd_exec)};
    if (!file.valid() && errno == EINVAL) file = base::Fd{::memfd_create(name, MFD_CLOEXEC)};
    if (!file.valid()) {
        return base::errno_error(base::ErrorKind::host,
                                 "Cannot make an executable memory file (vm.memfd_noexec?)", errno);
    }
    return file;
}

// The program in a file to be executed.
inline base::Result<base::Fd> user_program_file()
{
    base::Fd file = TRY(executable_file("doppel-user"));
    std::span<const std::uint8_t> rest{doppel_user_program, doppel_user_program_end};
    while (!rest.empty()) {
        const ssize_t written = ::write(file.get(), rest.data(), rest.size());
        if (written <= 0) {
            return base::errno_error(base::ErrorKind::host, "Cannot write a memory file", errno);
        }
        rest = rest.subspan(static_cast<std::size_t>(written));
    }
    return file;
}

}  // namespace doppel::engine::translate
