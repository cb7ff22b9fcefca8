#include "engine/translate/vmm/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

namespace doppel::engine::translate {

base::Result<Arena> Arena::create(const EngineConfig& config, unsigned vcpu_index)
{
    const auto& slots = config.memory.slots();
    const auto& cpuid = config.cpuid.entries();
    const auto& files = config.memory.files();
    if (slots.size() > slots_max || files.size() > memory_files_max || cpuid.size() > cpuid_entries_max) {
        return base::host_error("The translate engine has no room for this machine's description");
    }
    Arena arena;
    arena.fd_ = base::Fd{::memfd_create("doppel-arena", MFD_CLOEXEC)};
    if (!arena.fd_.valid() || ::ftruncate(arena.fd_.get(), static_cast<off_t>(arena_size)) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a memfd", errno);
    }
    arena.region_ = TRY(base::MappedRegion::map(arena_size, PROT_READ | PROT_WRITE,
                                                MAP_SHARED | MAP_NORESERVE, arena.fd_.get()));
    std::byte* const base = arena.region_.data();
    // SAFETY: the region is page-aligned and has room for both.
    arena.mailbox_ = new (base + arena_offset::mailbox) Mailbox{};
    arena.setup_ = new (base + arena_offset::setup) Setup{};

    Setup& setup = *arena.setup_;
    setup.version = setup_version;
    setup.vcpu_index = vcpu_index;
    setup.ram_size = config.memory.ram_size();
    setup.tsc_hz = config.clock.tsc_hz();
    setup.lock_step = config.lock_step;
    for (const memory::Slot& slot : slots) {
        setup.slots[setup.slot_count++] = {slot.start.value, slot.size, slot.offset,
                                           slot.read_only ? 1u : 0u};
    }
    for (const auto& view : files) {
        setup.files[setup.file_count++] = {view.file.size, view.file.read_only ? 1u : 0u};
    }
    setup.cpuid_count = static_cast<std::uint32_t>(cpuid.size());
    std::copy(cpuid.begin(), cpuid.end(), setup.cpuid);
    return arena;
}

}  // namespace doppel::engine::translate
