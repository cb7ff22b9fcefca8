// Guest-physical memory: the only owner of raw guest pointers.
//
// All of it lies at one place of this process, one offset after the other: RAM, a memfd, and
// behind it files of the host. Slots say which guest-physical ranges show which part of that. The
// slot table is fixed after the machine is built (no locks on the read path).
//
//   offset  0          ram_size()      gap, at least a page       end()
//           │── RAM ──────│               │── file ──│  ...  ── file ──│
//
// The gaps keep what is adjacent in offsets adjacent in one descriptor.
//
// Threads: reads and writes from any thread. Guest memory is shared with running vCPUs,
// so a value read twice may differ; copy, check the copy, use the copy.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/address.h"
#include "base/fd.h"
#include "base/mapped_region.h"
#include "base/result.h"
#include "memory/memory_file.h"

namespace doppel::memory {

using base::Gpa;

struct Slot {
    Gpa start;
    std::uint64_t size = 0;  // bytes, page-aligned
    std::byte* host = nullptr;
    std::uint64_t offset = 0;  // of `host`, see above
    bool read_only = false;    // ROM: guest writes are dropped
};

// Told of writes that did not come through the CPU being interpreted (devices, loaders,
// other vCPUs), so that decoded or translated code from those pages can be dropped.
class WriteListener {
public:
    virtual ~WriteListener() = default;
    virtual void on_write(Gpa start, std::uint64_t size) noexcept = 0;
};

class GuestMemory {
public:
    // ram_size: bytes, a multiple of 4 KiB, not zero. RAM and files become slots through add_slot.
    static base::Result<std::unique_ptr<GuestMemory>> create(std::uint64_t ram_size,
                                                             std::vector<MemoryFile> files = {});

    // Another process's guest memory: `fd` is that memory's fd(), ram_size its ram_size(), `files`
    // have its files' descriptors in the same order, and `address` is where to map it (nullptr:
    // anywhere). Slots are added as by the other process.
    static base::Result<std::unique_ptr<GuestMemory>> attach(base::Fd fd, std::uint64_t ram_size,
                                                             void* address,
                                                             std::vector<MemoryFile> files = {});

    // Shows [offset, offset+size) at guest-physical `start`. Slots may not overlap.
    base::Result<void> add_slot(Gpa start, std::uint64_t size, std::uint64_t offset,
                                bool read_only = false);

    [[nodiscard]] std::uint64_t ram_size() const { return ram_size_; }
    // Behind the last offset.
    [[nodiscard]] std::uint64_t end() const { return all_.size(); }
    struct FileView {
        MemoryFile file;
        std::uint64_t offset = 0;  // of its first byte
    };
    [[nodiscard]] const std::vector<FileView>& files() const { return files_; }
    // What to map for an offset of RAM or a file, and for what lies behind it there.
    struct Place {
        int fd;
        std::uint64_t offset;  // in that descriptor
    };
    [[nodiscard]] Place place(std::uint64_t offset) const
    {
        for (const FileView& view : files_) {
            if (offset - view.offset < view.file.size) {
                return {view.file.fd.get(), offset - view.offset};
            }
        }
        return {fd_.get(), offset};
    }
    [[nodiscard]] const std::vector<Slot>& slots() const { return slots_; }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] std::byte* ram() const { return all_.data(); }

    // The slot that holds gpa, or nullptr (MMIO or nothing).
    [[nodiscard]] const Slot* find(Gpa gpa) const
    {
        for (const Slot& slot : slots_) {
            if (gpa.value - slot.start.value < slot.size) return &slot;
        }
        return nullptr;
    }
    // Host address of one byte of RAM or ROM, nullptr when gpa is not memory.
    [[nodiscard]] std::byte* host(Gpa gpa) const
    {
        const Slot* slot = find(gpa);
        return slot == nullptr ? nullptr : slot->host + (gpa.value - slot->start.value);
    }
    // [gpa, gpa+size) as one span, empty unless all of it lies in one slot.
    [[nodiscard]] std::span<std::byte> span(Gpa gpa, std::uint64_t size) const;

    // False, and nothing touched, unless every byte is memory. write() refuses ROM and
    // tells the listeners; load() is for the machine's own loaders and may fill ROM.
    [[nodiscard]] bool read(Gpa gpa, std::span<std::byte> to) const;
    [[nodiscard]] bool write(Gpa gpa, std::span<const std::byte> from);
    [[nodiscard]] bool load(Gpa gpa, std::span<const std::byte> from);

    template <typename T>
    [[nodiscard]] bool read_value(Gpa gpa, T& value) const
    {
        return read(gpa, std::as_writable_bytes(std::span{&value, 1}));
    }
    template <typename T>
    [[nodiscard]] bool write_value(Gpa gpa, const T& value)
    {
        return write(gpa, std::as_bytes(std::span{&value, 1}));
    }

    // Fills RAM with zeros (machine reset) and tells the listeners. Files keep what they have.
    void clear();

    // Gives the memory behind [start, start+size) back to the host: it reads as zeros from then
    // on. Whole pages, of RAM; false, and nothing done, otherwise or when the host refuses.
    [[nodiscard]] bool discard(Gpa start, std::uint64_t size);

    // Tells the listeners of a write that did not come through write(): another process made it,
    // or a device into a span.
    void written_elsewhere(Gpa start, std::uint64_t size);

    // A word a page, up to end(): with `bit` when code was decoded or translated from it by way of
    // this object and is still known. Shared with other processes that attached this memory, which
    // may skip telling of their writes to pages without the bit. Set before any vCPU runs.
    void share_code_map(std::atomic<std::uint64_t>* map, std::uint64_t bit)
    {
        code_map_ = map;
        code_bit_ = bit;
    }
    // Before the code's bytes are read: a writer writes first and looks at the bit second.
    void note_code(std::uint64_t ram_offset)
    {
        if (code_map_ == nullptr) return;
        const std::uint64_t page = ram_offset >> base::page_shift;
        code_map_[page].fetch_or(code_bit_, std::memory_order_seq_cst);
    }
    // After all of the page's code has been forgotten.
    void forget_code(std::uint64_t ram_offset)
    {
        if (code_map_ == nullptr) return;
        const std::uint64_t page = ram_offset >> base::page_shift;
        code_map_[page].fetch_and(~code_bit_, std::memory_order_seq_cst);
    }

    // Listeners are added before any vCPU runs and outlive the memory's last write.
    void add_listener(WriteListener& listener) { listeners_.push_back(&listener); }

private:
    GuestMemory() = default;
    // Where end() will be; sets the files' offsets.
    std::uint64_t lay_out(std::uint64_t ram_size, std::vector<MemoryFile> files);
    base::Result<void> map(void* address, std::uint64_t size);
    bool copy_in(Gpa gpa, std::span<const std::byte> from, bool into_rom);

    base::Fd fd_;
    std::uint64_t ram_size_ = 0;
    std::vector<FileView> files_;
    base::MappedRegion all_;
    std::vector<Slot> slots_;
    std::vector<WriteListener*> listeners_;
    std::atomic<std::uint64_t>* code_map_ = nullptr;
    std::uint64_t code_bit_ = 0;
};

}  // namespace doppel::memory
