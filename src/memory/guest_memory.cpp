#include "memory/guest_memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace doppel::memory {

base::Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::uint64_t ram_size)
{
    if (ram_size == 0 || ram_size % base::page_size != 0) {
        return base::usage_error("Guest memory must be a positive multiple of 4 KiB");
    }
    std::unique_ptr<GuestMemory> memory{new GuestMemory};
    memory->fd_ = base::Fd{::memfd_create("doppel-ram", MFD_CLOEXEC)};
    if (!memory->fd_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a memfd", errno);
    }
    if (::ftruncate(memory->fd_.get(), static_cast<off_t>(ram_size)) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot size guest memory", errno);
    }
    memory->ram_ = TRY(base::MappedRegion::map(ram_size, PROT_READ | PROT_WRITE,
                                               MAP_SHARED | MAP_NORESERVE, memory->fd_.get()));
    ::madvise(memory->ram_.data(), memory->ram_.size(), MADV_HUGEPAGE);
    return memory;
}

base::Result<std::unique_ptr<GuestMemory>> GuestMemory::attach(base::Fd fd, std::uint64_t ram_size,
                                                               void* address)
{
    if (ram_size == 0 || ram_size % base::page_size != 0) {
        return base::host_error("Guest memory to attach has no whole number of pages");
    }
    constexpr int prot = PROT_READ | PROT_WRITE;
    constexpr int flags = MAP_SHARED | MAP_NORESERVE;
    std::unique_ptr<GuestMemory> memory{new GuestMemory};
    memory->fd_ = std::move(fd);
    memory->ram_ = address == nullptr
                       ? TRY(base::MappedRegion::map(ram_size, prot, flags, memory->fd_.get()))
                       : TRY(base::MappedRegion::map_at(address, ram_size, prot, flags,
                                                        memory->fd_.get()));
    ::madvise(memory->ram_.data(), memory->ram_.size(), MADV_HUGEPAGE);
    return memory;
}

base::Result<void> GuestMemory::add_slot(Gpa start, std::uint64_t size, std::uint64_t offset,
                                         bool read_only)
{
    ASSERT(size != 0 && size % base::page_size == 0 && start.page_offset() == 0);
    ASSERT(offset <= ram_.size() && size <= ram_.size() - offset);
    for (const Slot& slot : slots_) {
        ASSERT(start.value + size <= slot.start.value || slot.start.value + slot.size <= start.value);
    }
    slots_.push_back({start, size, ram_.data() + offset, offset, read_only});
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
    if (slot == nullptr || slot->read_only || size == 0 || (start.value | size) % base::page_size != 0 ||
        size > slot->size - (start - slot->start)) {
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
                    static_cast<off_t>(ram_.size())) != 0) {
        std::memset(ram_.data(), 0, ram_.size());
    }
    for (const Slot& slot : slots_) {
        for (WriteListener* listener : listeners_) listener->on_write(slot.start, slot.size);
    }
}

}  // namespace doppel::memory
