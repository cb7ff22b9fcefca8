// Direct kernel boot: from image files to bytes in guest memory and a vCPU state.
//
// Planning checks everything and touches nothing; a plan that exists can be carried out,
// again at every reset. All file contents are taken as hostile. Works on byte spans, so
// that tests and fuzzers need no files.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "machine/memory_map.h"
#include "memory/guest_memory.h"
#include "x86/cpu_state.h"

namespace doppel::machine::boot {

struct BootRequest {
    std::span<const std::byte> kernel;
    std::string kernel_name;  // as the user gave it
    std::optional<std::span<const std::byte>> initrd;
    std::string initrd_name;
    std::string cmdline;
    MemoryMap memory_map;
    std::uint64_t rsdp = 0;  // guest-physical address of the ACPI RSDP; 0: none
};

// Bytes for one place. Either a part of the request's files, or made by the loader.
struct LoadSegment {
    std::uint64_t start = 0;
    std::span<const std::byte> file;
    std::vector<std::byte> made;
    [[nodiscard]] std::span<const std::byte> bytes() const
    {
        return made.empty() ? file : std::span<const std::byte>{made};
    }
};

enum class Protocol { linux64, linux32, pvh, multiboot };
[[nodiscard]] std::string_view name(Protocol protocol);

// Refers to the request's files, which must outlive it.
struct BootPlan {
    Protocol protocol = Protocol::linux64;
    std::vector<LoadSegment> segments;
    x86::CpuState cpu;
};

// What the image is, by content, and where everything goes. Errors are usage errors of one
// line that name the option.
base::Result<BootPlan> plan_boot(const BootRequest& request);

// Writes a plan's segments. Guest memory is cleared before (a reset does so).
base::Result<void> load(const BootPlan& plan, memory::GuestMemory& memory);

}  // namespace doppel::machine::boot
