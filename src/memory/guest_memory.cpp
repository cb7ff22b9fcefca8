#include "memory/guest_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#ifdef __SANITIZE_THREAD__
// ThreadSanitizer's runtime, that of g++ 12; later ones have the function and ignore it.
extern "C" void AnnotateBenignRaceSized(const char* file, int line, const volatile void* start,
                                        std::size_t size, const char* description);
#endif

namespace doppel::memory {

namespace {

// What the guest's processors, its drivers and our devices do to guest memory at once is the
// guest's affair, as on a machine; we copy, check the copy and use the copy. Everything else in
// this process stays checked.
void allow_races([[maybe_unused]] const base::MappedRegion& memory)
{
#ifdef __SANITIZE_THREAD__
    AnnotateBenignRaceSized(__FILE__, __LINE__, memory.data(), memory.size(), "guest memory");
#endif
}

}  // namespace

std::uint64_t GuestMemory::lay_out(std::uint64_t ram_size, std::vector<MemoryFile> files)
{
    constexpr std::uint64_t alignment = MemoryFile::alignment;
    ram_size_ = ram_size;
    std::uint64_t end = ram_size;
    for (MemoryFile& file : files) {
        const std::uint64_t start = (end + base::page_size + alignment - 1) & ~(alignment - 1);
        end = start + file.size;
        files_.push_back({std::move(file), start});
    }
    return end;
}

// First all of the addresses, then what belongs there.
base::Result<void> GuestMemory::map(void* address, std::uint64_t size)
{
    constexpr int nothing = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    all_ = address == nullptr
               ? TRY(base::MappedRegion::map(size, PROT_NONE, nothing))
               : TRY(base::MappedRegion::map_at(address, size, PROT_NONE, nothing));
    const auto show = [this](std::uint64_t offset, std::uint64_t length, int prot, int fd) {
        constexpr int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;
        return ::mmap(all_.data() + offset, length, prot, flags, fd, 0) != MAP_FAILED;
    };
    bool shown = show(0, ram_size_, PROT_READ | PROT_WRITE, fd_.get());
    for (const FileView& view : files_) {
        const int prot = view.file.read_only ? PROT_READ : PROT_READ | PROT_WRITE;
        shown = shown && show(view.offset, view.file.size, prot, view.file.fd.get());
    }
    if (!shown) return base::errno_error(base::ErrorKind::host, "Cannot map guest memory", errno);
    ::madvise(all_.data(), ram_size_, MADV_HUGEPAGE);
    allow_races(all_);
    return {};
}

base::Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::uint64_t ram_size,
                                                               std::vector<MemoryFile> files)
{
    if (ram_size == 0 || ram_size % base::page_size != 0) {
        return base::usage_error("Guest memory must be a positive multiple of 4 KiB");
    }
    std::unique_ptr<GuestMemory> memory{new GuestMemory};
    memory->fd_ = base::Fd{::memfd_create("doppel-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (!memory->fd_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a memfd", errno);
    }
    if (::ftruncate(memory->fd_.get(), static_cast<off_t>(ram_size)) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot size guest memory", errno);
    }
    // Other processes get the descriptor: made shorter by one of them, it would be a SIGBUS here.
    if (::fcntl(memory->fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot seal guest memory", errno);
    }
    TRY(memory->map(nullptr, memory->lay_out(ram_size, std::move(files))));
    return memory;
}

base::Result<std::unique_ptr<GuestMemory>> GuestMemory::attach(base::Fd fd, std::uint64_t ram_size,
                                                               void* address,
                                                               std::vector<MemoryFile> files)
{
    if (ram_size == 0 || ram_size % base::page_size != 0) {
        return base::host_error("Guest memory to attach has no whole number of pages");
    }
    std::unique_ptr<GuestMemory> memory{new GuestMemory};
    memory->fd_ = std::move(fd);
    TRY(memory->map(address, memory->lay_out(ram_size, std::move(files))));
    return memory;
}

base::Result<void> GuestMemory::add_slot(Gpa start, std::uint64_t size, std::uint64_t offset,
                                         bool read_only)
{
    ASSERT(size != 0 && size % base::page_size == 0 && start.page_offset() == 0);
    ASSERT(offset <= end() && size <= end() - offset);
    for (const Slot& slot : slots_) {
        ASSERT(start.value + size <= slot.start.value || slot.start.value + slot.size <= start.value);
    }
    slots_.push_back({start, size, all_.data() + offset, offset, read_only});
    return {};
}

std::span<std::byte> GuestMemory::span(Gpa gpa, std::uint64_t size) const
{
    const Slot* slot = find(gpa);
    if (slot == nullptr) return {};
    const std::uint64_t at = gpa.value - slot->start.value;
    if (size > slot->size - at) return {};
    return {slot->host + at, size};
}

bool GuestMemory::read(Gpa gpa, std::span<std::byte> to) const
{
    if (const auto whole = span(gpa, to.size()); !whole.empty()) {
        std::memcpy(to.data(), whole.data(), to.size());
        return true;
    }
    for (std::size_t done = 0; done < to.size();) {
        const Slot* slot = find(gpa + done);
        if (slot == nullptr) return false;
        const std::uint64_t at = gpa.value + done - slot->start.value;
        const std::size_t part = std::min<std::uint64_t>(to.size() - done, slot->size - at);
        std::memcpy(to.data() + done, slot->host + at, part);
        done += part;
    }
    return true;
}

bool GuestMemory::copy_in(Gpa gpa, std::span<const std::byte> from, bool into_rom)
{
    for (std::size_t done = 0; done < from.size();) {
        const Slot* slot = find(gpa + done);
        if (slot == nullptr || (slot->read_only && !into_rom)) return false;
        done += std::min<std::uint64_t>(from.size() - done,
                                        slot->size - (gpa.value + done - slot->start.value));
    }
    for (std::size_t done = 0; done < from.size();) {
        const Slot* slot = find(gpa + done);
        const std::uint64_t at = gpa.value + done - slot->start.value;
        const std::size_t part = std::min<std::uint64_t>(from.size() - done, slot->size - at);
        std::memcpy(slot->host + at, from.data() + done, part);
        done += part;
    }
    for (WriteListener* listener : listeners_) listener->on_write(gpa, from.size());
    return true;
}

bool GuestMemory::write(Gpa gpa, std::span<const std::byte> from)
{
    return copy_in(gpa, from, false);
}

bool GuestMemory::load(Gpa gpa, std::span<const std::byte> from)
{
    return copy_in(gpa, from, true);
}

bool GuestMemory::discard(Gpa start, std::uint64_t size)
{
    const Slot* slot = find(start);
    if (slot == nullptr || slot->read_only || slot->offset >= ram_size_ || size == 0 ||
        (start.value | size) % base::page_size != 0 || size > slot->size - (start - slot->start)) {
        return false;
    }
    if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(slot->offset + (start - slot->start)),
                    static_cast<off_t>(size)) != 0) {
        return false;
    }
    written_elsewhere(start, size);
    return true;
}

void GuestMemory::written_elsewhere(Gpa start, std::uint64_t size)
{
    for (WriteListener* listener : listeners_) listener->on_write(start, size);
}

void GuestMemory::clear()
{
    if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(ram_size_)) != 0) {
        std::memset(all_.data(), 0, ram_size_);
    }
    for (const Slot& slot : slots_) {
        for (WriteListener* listener : listeners_) listener->on_write(slot.start, slot.size);
    }
}

}  // namespace doppel::memory
