// KVM's ioctls with their sizes written out, and one way to call them.
//
// Structures that end in a flexible array have another sizeof in C++ than in C with some
// versions of linux/kvm.h (an empty struct takes a byte), and the size is part of the ioctl
// number. Documentation/virt/kvm/api.rst.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace doppel::engine::kvm {

constexpr unsigned long ioctl_number(unsigned direction, unsigned number, unsigned long size)
{
    return (static_cast<unsigned long>(direction) << _IOC_DIRSHIFT) | (size << _IOC_SIZESHIFT) |
           (static_cast<unsigned long>(KVMIO) << _IOC_TYPESHIFT) |
           (static_cast<unsigned long>(number) << _IOC_NRSHIFT);
}

namespace request {
inline constexpr unsigned long
    GET_SUPPORTED_CPUID = ioctl_number(_IOC_READ | _IOC_WRITE, 0x05, 8),
    SET_GSI_ROUTING = ioctl_number(_IOC_WRITE, 0x6a, 8),
    GET_MSRS = ioctl_number(_IOC_READ | _IOC_WRITE, 0x88, 8),
    SET_MSRS = ioctl_number(_IOC_WRITE, 0x89, 8),
    SET_CPUID2 = ioctl_number(_IOC_WRITE, 0x90, 8),
    GET_XSAVE = ioctl_number(_IOC_READ, 0xa4, 4096),
    SET_XSAVE = ioctl_number(_IOC_WRITE, 0xa5, 4096);
}

// Layouts of the variable-length structures, with room for as much as we use.
struct CpuidList {
    static constexpr std::uint32_t capacity = 256;
    std::uint32_t count = capacity;
    std::uint32_t padding = 0;
    std::array<kvm_cpuid_entry2, capacity> entries{};
};
struct MsrList {
    static constexpr std::uint32_t capacity = 64;
    std::uint32_t count = 0;
    std::uint32_t padding = 0;
    std::array<kvm_msr_entry, capacity> entries{};
};
struct RoutingList {
    static constexpr std::uint32_t capacity = 48;
    std::uint32_t count = 0;
    std::uint32_t flags = 0;
    std::array<kvm_irq_routing_entry, capacity> entries{};
};
struct XsaveRegion {
    std::array<std::uint8_t, 4096> bytes{};
};
static_assert(offsetof(CpuidList, entries) == 8 && offsetof(MsrList, entries) == 8 &&
              offsetof(RoutingList, entries) == 8);
static_assert(sizeof(kvm_cpuid_entry2) == 40 && sizeof(kvm_msr_entry) == 16 &&
              sizeof(kvm_irq_routing_entry) == 48);

// The ioctl's result, or -1 with errno; repeated when a signal interrupts it.
template <typename Argument>
inline int call(int fd, unsigned long number, Argument argument) noexcept
{
    int result;
    do {
        result = ::ioctl(fd, number, argument);
    } while (result < 0 && errno == EINTR);
    return result;
}

// The same as a Result that names the ioctl.
template <typename Argument>
inline base::Result<int> checked(std::string_view name, int fd, unsigned long number,
                                 Argument argument)
{
    const int result = call(fd, number, argument);
    if (result < 0) return base::errno_error(base::ErrorKind::host, name, errno);
    return result;
}

}  // namespace doppel::engine::kvm
