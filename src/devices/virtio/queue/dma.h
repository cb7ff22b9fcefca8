// Guest memory as a device reaches it: the addresses in rings and descriptors go through here and
// nowhere else.
//
// They are guest-physical, with VIRTIO_F_ACCESS_PLATFORM and without. An IOMMU would translate
// them in span(); a device that was offered that bit uses whatever comes back.
//
// Threads: as GuestMemory.
#pragma once

#include <cstdint>
#include <span>

#include "memory/guest_memory.h"

namespace doppel::devices::virtio {

enum class Access { read, write };

// Some bytes that are one piece here. `at`: what the listeners of guest memory know them as.
struct DmaSpan {
    base::Gpa at;
    std::span<std::byte> bytes;
};

class Dma {
public:
    explicit Dma(memory::GuestMemory& memory) : memory_(memory) {}

    // The longest piece of [address, address + size) from its beginning; empty when the device
    // may not access its first byte, or size is 0.
    [[nodiscard]] DmaSpan span(std::uint64_t address, std::uint64_t size, Access access) const
    {
        const base::Gpa at{address};
        const memory::Slot* slot = memory_.find(at);
        if (slot == nullptr || (access == Access::write && slot->read_only)) return {};
        const std::uint64_t offset = at - slot->start;
        const std::uint64_t part = size < slot->size - offset ? size : slot->size - offset;
        return {at, {slot->host + offset, part}};
    }
    // All of it in one piece, or nothing: for rings.
    [[nodiscard]] DmaSpan whole(std::uint64_t address, std::uint64_t size, Access access) const
    {
        const DmaSpan found = span(address, size, access);
        return found.bytes.size() == size ? found : DmaSpan{};
    }
    // After every write: code may have been translated from those bytes.
    void written(base::Gpa at, std::uint64_t size) const 
    {
        if (size != 0) memory_.written_elsewhere(at, size);
    }

    [[nodiscard]] memory::GuestMemory& memory() const { return memory_; }

private:
    memory::GuestMemory& memory_;
};

}  // namespace doppel::devices::virtio
