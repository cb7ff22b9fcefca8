// A driver's side of a virtqueue, straight from sections 2.7 and 2.8 of Virtio 1.2: the reference
// that rings are tested against. Nothing here is shared with the device's side but the numbers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "devices/virtio/queue/descriptor.h"
#include "devices/virtio/queue/ring.h"
#include "memory/guest_memory.h"

namespace doppel::devices::virtio {

struct Buffer {
    std::uint64_t address;
    std::uint32_t size;
    bool write = false;
};
struct Used {
    std::uint16_t id;
    std::uint32_t written;
};

inline constexpr std::uint64_t test_ram = 1 << 20;

inline std::unique_ptr<memory::GuestMemory> make_memory()
{
    auto memory = std::move(memory::GuestMemory::create(test_ram)).value();
    static_cast<void>(memory->add_slot(base::Gpa{0}, test_ram, 0));
    return memory;
}

class TestDriver {
public:
    // Rings from `at` on, indirect tables from `tables` on.
    TestDriver(memory::GuestMemory& memory, std::uint16_t size, Features features,
               std::uint64_t at = 0x10000, std::uint64_t tables = 0x40000)
        : memory_(memory), features_(features), tables_(tables)
    {
        address_ = {size, at, at + 0x8000, at + 0xc000};
        for (std::uint16_t i = size; i-- > 0;) free_.push_back(i);
    }
    [[nodiscard]] const RingAddress& address() const { return address_; }
    [[nodiscard]] bool packed() const { return (features_ & VIRTIO_F_RING_PACKED) != 0; }
    [[nodiscard]] std::size_t room() const { return free_.size(); }

    template <typename T>
    void put(std::uint64_t at, T value)
    {
        ASSERT(memory_.write_value(base::Gpa{at}, value));
    }
    template <typename T>
    [[nodiscard]] T get(std::uint64_t at) const
    {
        T value{};
        ASSERT(memory_.read_value(base::Gpa{at}, value));
        return value;
    }

    // The id that it will come back with; nothing: no room.
    std::optional<std::uint16_t> add(const std::vector<Buffer>& buffers, bool indirect = false)
    {
        const std::size_t needed = indirect ? 1 : buffers.size();
        if (needed > free_.size()) return std::nullopt;
        return packed() ? add_packed(buffers, indirect) : add_split(buffers, indirect);
    }

    std::optional<Used> take()
    {
        return packed() ? take_packed() : take_split();
    }

    // Would it ring for what was added since it was last asked?
    bool must_ring()
    {
        const std::uint16_t moved = std::exchange(added_, std::uint16_t{0});
        if (packed()) {
            const auto flags = get<std::uint16_t>(address_.device + 2);
            if (flags != RING_EVENT_FLAGS_DESC) return flags == RING_EVENT_FLAGS_ENABLE;
            const auto wish = get<std::uint16_t>(address_.device);
            int event = wish & 0x7fff;
            if (((wish >> 15) != 0) != wrap_) event -= address_.size;
            return passed(event, next_, moved);
        }
        if ((features_ & VIRTIO_F_EVENT_IDX) != 0) {
            return passed(get<std::uint16_t>(address_.device + 4 + 8u * address_.size), next_, moved);
        }
        return get<std::uint16_t>(address_.device) == 0;
    }

    enum class Interrupts { always, never, at_next };
    void want(Interrupts wish)
    {
        if (packed()) {
            put(address_.driver, static_cast<std::uint16_t>(used_next_ | (used_wrap_ ? 0x8000 : 0)));
            const std::uint16_t flags[] = {RING_EVENT_FLAGS_ENABLE, RING_EVENT_FLAGS_DISABLE,
                                           RING_EVENT_FLAGS_DESC};
            put(address_.driver + 2, flags[static_cast<int>(wish)]);
        } else if ((features_ & VIRTIO_F_EVENT_IDX) != 0) {
            const int back = wish == Interrupts::never ? 1 : 0;
            put(address_.driver + 4 + 2u * address_.size,
                static_cast<std::uint16_t>(used_next_ - back));
        } else {
            put(address_.driver, static_cast<std::uint16_t>(wish == Interrupts::never ? 1 : 0));
        }
    }

private:
    static bool passed(int event, std::uint16_t now, std::uint16_t moved)
    {
        return static_cast<std::uint16_t>(now - event - 1) < moved;
    }
    static std::uint16_t flags_of(const Buffer& buffer)
    {
        return buffer.write ? VIRTQ_DESC_F_WRITE : std::uint16_t{0};
    }
    std::uint16_t take_free()
    {
        const std::uint16_t id = free_.back();
        free_.pop_back();
        return id;
    }
    std::optional<std::uint16_t> add_split(const std::vector<Buffer>& buffers, bool indirect)
    {
        const auto write = [&](std::uint64_t at, const Buffer& buffer, int next) {
            const auto flags = static_cast<std::uint16_t>(flags_of(buffer) |
                                                          (next >= 0 ? VIRTQ_DESC_F_NEXT : 0));
            put(at, SplitDescriptor{buffer.address, buffer.size, flags,
                                    static_cast<std::uint16_t>(next < 0 ? 0 : next)});
        };
        std::vector<std::uint16_t> slots;
        for (std::size_t i = 0; i < (indirect ? 1 : buffers.size()); ++i) slots.push_back(take_free());
        if (indirect) {
            const std::uint64_t table = tables_ + slots[0] * 256u;
            for (std::size_t i = 0; i < buffers.size(); ++i) {
                write(table + 16 * i, buffers[i], i + 1 < buffers.size() ? static_cast<int>(i + 1) : -1);
            }
            put(address_.descriptors + 16u * slots[0],
                SplitDescriptor{table, static_cast<std::uint32_t>(16 * buffers.size()),
                                VIRTQ_DESC_F_INDIRECT, 0});
        } else {
            for (std::size_t i = 0; i < slots.size(); ++i) {
                write(address_.descriptors + 16u * slots[i], buffers[i],
                      i + 1 < slots.size() ? slots[i + 1] : -1);
            }
        }
        put(address_.driver + 4 + 2u * (next_ % address_.size), slots[0]);
        put(address_.driver + 2, ++next_);
        ++added_;
        held_[slots[0]] = slots;
        return slots[0];
    }
    std::optional<Used> take_split()
    {
        if (get<std::uint16_t>(address_.device + 2) == used_next_) return std::nullopt;
        const auto used = get<SplitUsed>(address_.device + 4 + 8u * (used_next_ % address_.size));
        ++used_next_;
        const auto id = static_cast<std::uint16_t>(used.id);
        give_back(id);
        return Used{id, used.length};
    }

    std::optional<std::uint16_t> add_packed(const std::vector<Buffer>& buffers, bool indirect)
    {
        const std::size_t count = indirect ? 1 : buffers.size();
        const std::uint16_t id = take_free();
        std::vector<std::uint16_t> slots{id};
        for (std::size_t i = 1; i < count; ++i) slots.push_back(take_free());
        if (indirect) {
            for (std::size_t i = 0; i < buffers.size(); ++i) {
                put(tables_ + id * 256u + 16 * i,
                    PackedDescriptor{buffers[i].address, buffers[i].size, 0, flags_of(buffers[i])});
            }
        }
        for (std::size_t i = 0; i < count; ++i) {
            PackedDescriptor descriptor{buffers[i].address, buffers[i].size, id, flags_of(buffers[i])};
            if (indirect) {
                descriptor = {tables_ + id * 256u, static_cast<std::uint32_t>(16 * buffers.size()),
                              id, VIRTQ_DESC_F_INDIRECT};
            }
            if (i + 1 < count) descriptor.flags |= VIRTQ_DESC_F_NEXT;
            descriptor.flags |= wrap_ ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
            put(address_.descriptors + 16u * next_, descriptor);
            if (++next_ == address_.size) {
                next_ = 0;
                wrap_ = !wrap_;
            }
        }
        added_ = static_cast<std::uint16_t>(added_ + count);
        held_[id] = slots;
        return id;
    }
    std::optional<Used> take_packed()
    {
        const auto used = get<PackedDescriptor>(address_.descriptors + 16u * used_next_);
        const bool available = (used.flags & VIRTQ_DESC_F_AVAIL) != 0;
        const bool done = (used.flags & VIRTQ_DESC_F_USED) != 0;
        if (available != used_wrap_ || done != used_wrap_) return std::nullopt;
        const std::size_t slots = held_.at(used.id).size();
        used_next_ = static_cast<std::uint16_t>(used_next_ + slots);
        if (used_next_ >= address_.size) {
            used_next_ = static_cast<std::uint16_t>(used_next_ - address_.size);
            used_wrap_ = !used_wrap_;
        }
        give_back(used.id);
        return Used{used.id, used.length};
    }
    void give_back(std::uint16_t id)
    {
        for (const std::uint16_t slot : held_.at(id)) free_.push_back(slot);
        held_.erase(id);
    }

    memory::GuestMemory& memory_;
    Features features_;
    std::uint64_t tables_;
    RingAddress address_;
    std::vector<std::uint16_t> free_;
    std::map<std::uint16_t, std::vector<std::uint16_t>> held_;
    std::uint16_t next_ = 0, used_next_ = 0, added_ = 0;
    bool wrap_ = true, used_wrap_ = true;
};

}  // namespace doppel::devices::virtio
