#include "engine/host_probe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/fd.h"
#include "base/mapped_region.h"

namespace doppel::engine {

namespace {

// Real mode: mov ecx, iterations; 1: dec ecx; jnz 1b; hlt. Without an interrupt controller
// in the kernel, HLT comes back to us.
constexpr std::uint32_t iterations = 20'000;
constexpr std::uint64_t code_address = 0x1000;
// Hardware runs this loop at thousands of MIPS, entry included at hundreds; emulators at a few.
constexpr double hardware_mips = 50;

bool cpu_has_virtualization()
{
    std::ifstream file{"/proc/cpuinfo"};
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with("flags")) continue;
        std::istringstream words{line};
        for (std::string word; words >> word;) {
            if (word == "vmx" || word == "svm") return true;
        }
        return false;
    }
    return false;
}

std::string problem(const char* what) { return fmt::format("{}: {}", what, std::strerror(errno)); }

// Fills in mips; otherwise the text of what went wrong.
std::string measure(int kvm, KvmProbe& probe)
{
    const base::Fd vm{::ioctl(kvm, KVM_CREATE_VM, 0)};
    if (!vm.valid()) return problem("KVM_CREATE_VM");
    auto page = base::MappedRegion::map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!page) return page.error().text();
    const std::uint8_t code[] = {0x66, 0xb9, iterations & 0xff, iterations >> 8 & 0xff,
                                 iterations >> 16 & 0xff, iterations >> 24,
                                 0x66, 0x49, 0x75, 0xfc, 0xf4};
    std::memcpy(page->data(), code, sizeof code);
    kvm_userspace_memory_region region{};
    region.guest_phys_addr = code_address;
    region.memory_size = page->size();
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(page->data());
    if (::ioctl(vm.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        return problem("KVM_SET_USER_MEMORY_REGION");
    }
    // Wanted by some processors for real mode; an address that nothing else uses.
    if (::ioctl(vm.get(), KVM_SET_TSS_ADDR, 0xfeffd000ul) < 0) return problem("KVM_SET_TSS_ADDR");
    const base::Fd vcpu{::ioctl(vm.get(), KVM_CREATE_VCPU, 0)};
    if (!vcpu.valid()) return problem("KVM_CREATE_VCPU");
    const int size = ::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < static_cast<int>(sizeof(kvm_run))) return "KVM_GET_VCPU_MMAP_SIZE is too small";
    auto shared = base::MappedRegion::map(static_cast<std::size_t>(size), PROT_READ | PROT_WRITE,
                                          MAP_SHARED, vcpu.get());
    if (!shared) return shared.error().text();
    kvm_sregs sregs{};
    if (::ioctl(vcpu.get(), KVM_GET_SREGS, &sregs) < 0) return problem("KVM_GET_SREGS");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    if (::ioctl(vcpu.get(), KVM_SET_SREGS, &sregs) < 0) return problem("KVM_SET_SREGS");
    kvm_regs regs{};
    regs.rip = code_address;
    regs.rflags = 2;
    if (::ioctl(vcpu.get(), KVM_SET_REGS, &regs) < 0) return problem("KVM_SET_REGS");

    const auto start = std::chrono::steady_clock::now();
    int result;
    do {
        result = ::ioctl(vcpu.get(), KVM_RUN, 0);
    } while (result < 0 && errno == EINTR);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (result < 0) return problem("KVM_RUN");
    const auto reason = reinterpret_cast<const kvm_run*>(shared->data())->exit_reason;
    if (reason != KVM_EXIT_HLT) return fmt::format("KVM_RUN stopped with exit reason {}", reason);
    probe.mips = 2.0 * iterations / took.count();
    return {};
}

}  // namespace

KvmProbe probe_kvm()
{
    KvmProbe probe;
    probe.cpu_flag = cpu_has_virtualization();
    const base::Fd kvm{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
    if (!kvm.valid()) {
        probe.problem = problem("/dev/kvm");
        return probe;
    }
    probe.version = ::ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
    if (probe.version != KVM_API_VERSION) {
        probe.problem = fmt::format("API version {}, needed is {}", probe.version, KVM_API_VERSION);
        return probe;
    }
    probe.problem = measure(kvm.get(), probe);
    if (!probe.problem.empty()) return probe;
    const bool hardware = probe.cpu_flag && probe.mips >= hardware_mips;
    probe.kind = hardware ? KvmProbe::Kind::hardware : KvmProbe::Kind::emulated;
    return probe;
}

}  // namespace doppel::engine
