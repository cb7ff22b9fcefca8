#include "engine/kvm/device.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <string>

#include "engine/kvm/api.h"

namespace doppel::engine::kvm {

namespace {

struct Needed {
    long capability;
    const char* name;
};

constexpr std::array needed{
    Needed{KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    Needed{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    Needed{KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    Needed{KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    Needed{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    Needed{KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    Needed{KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    Needed{KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    Needed{KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    Needed{KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    Needed{KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    Needed{KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    Needed{KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
    Needed{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

base::Error cannot_open(int error_number)
{
    const char* const advice =
        error_number == ENOENT ? "load the kvm module (kvm_intel or kvm_amd)"
        : error_number == EACCES || error_number == EPERM
            ? "run as root or join the group that owns it"
            : "check the host's virtualization";
    return base::errno_error(base::ErrorKind::host, "Cannot open /dev/kvm", error_number)
        .with_context(fmt::format("KVM is not usable here ({}, or use --engine interpret)", advice));
}

}  // namespace

base::Result<Device> open_device()
{
    Device device;
    device.fd = base::Fd{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
    if (!device.fd.valid()) return cannot_open(errno);
    const int fd = device.fd.get();

    const int version = TRY(checked("KVM_GET_API_VERSION", fd, KVM_GET_API_VERSION, 0));
    if (version != KVM_API_VERSION) {
        return base::host_error(
            fmt::format("/dev/kvm has API version {}, needed is {}", version, KVM_API_VERSION));
    }
    std::string missing;
    for (const Needed& entry : needed) {
        if (call(fd, KVM_CHECK_EXTENSION, entry.capability) > 0) continue;
        missing += missing.empty() ? "" : ", ";
        missing += entry.name;
    }
    if (!missing.empty()) {
        return base::host_error("This host's KVM lacks " + missing +
                                "; use --engine interpret, or a newer kernel");
    }
    const long maximum = KVM_CAP_MAX_VCPUS, on_failure = KVM_CAP_EXIT_ON_EMULATION_FAILURE;
    const int vcpus = call(fd, KVM_CHECK_EXTENSION, maximum);
    device.max_vcpus = vcpus > 0 ? static_cast<unsigned>(vcpus) : 4;  // as api.rst says
    device.exits_on_emulation_failure = call(fd, KVM_CHECK_EXTENSION, on_failure) > 0;
    device.immediate_exit = true;
    const int size = TRY(checked("KVM_GET_VCPU_MMAP_SIZE", fd, KVM_GET_VCPU_MMAP_SIZE, 0));
    if (static_cast<std::size_t>(size) < sizeof(kvm_run)) {
        return base::host_error("KVM_GET_VCPU_MMAP_SIZE is smaller than struct kvm_run");
    }
    device.run_size = static_cast<unsigned>(size);
    return device;
}

}  // namespace doppel::engine::kvm
