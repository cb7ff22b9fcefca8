// The memory functions of Core: the fast path here, the slow path in memory_access.cpp.
// Included by core.h only.
#pragma once

#include <bit>
#include <cstring>

#include "engine/interpret/core.h"

namespace doppel::engine::interpret {

// Slow paths: TLB misses, page crossings, devices, pages with code, alignment checks.
class MemoryAccess {
public:
    // Explicit accesses are the program's (alignment checks, data breakpoints); implicit ones
    // the processor's own.
    enum class Kind : std::uint8_t { explicit_data, implicit };

    static bool load(Core& core, std::uint64_t linear, unsigned size, unsigned mmu, Kind kind,
                     std::uint64_t& value) noexcept;
    static bool store(Core& core, std::uint64_t linear, unsigned size, unsigned mmu, Kind kind,
                      std::uint64_t value) noexcept;
    static bool load_bytes(Core& core, std::uint64_t linear, std::span<std::byte> to, unsigned mmu,
                           Kind kind) noexcept;
    static bool store_bytes(Core& core, std::uint64_t linear, std::span<const std::byte> from,
                            unsigned mmu, Kind kind) noexcept;
    static bool check(Core& core, std::uint64_t linear, unsigned size, x86::Access access,
                      unsigned mmu) noexcept;
    static std::byte* write_pointer(Core& core, std::uint64_t linear, unsigned size) noexcept;
    // Host pointer for reading `size` bytes within one page, or nullptr (as write_pointer).
    static std::byte* read_pointer(Core& core, std::uint64_t linear, unsigned size) noexcept;
    // The same for an implicit supervisor access.
    static std::byte* system_pointer(Core& core, std::uint64_t linear, unsigned size) noexcept;

    // Where the page of `linear` is fetched from: its offset in RAM, or
    // FetchEntry::no_memory. False: fault set.
    static bool fetch_page(Core& core, std::uint64_t linear, std::uint64_t& ram_offset) noexcept;

    // The page tables, past the TLB; supervisor accesses with EFLAGS.AC clear.
    static x86::WalkResult walk(Core& core, std::uint64_t linear, x86::Access access,
                                bool user) noexcept;
    static x86::WalkResult probe(Core& core, std::uint64_t linear, x86::Access access,
                                 bool user) noexcept;

    static void flush(Core& core, bool keep_global) noexcept;
    static void flush_local(Tlb& tlb) noexcept;
    static void flush_page(Core& core, std::uint64_t linear) noexcept;
    // A page of RAM got its first decoded code: stores to it must be seen from now on.
    static void watch_page(Core& core, std::uint64_t ram_offset) noexcept;

    // Guest-physical read and write of page tables, with code invalidation.
    static bool device(Core& core, const Exit& what, std::uint64_t& value) noexcept;

    // A fault of a stack access: non-canonical addresses give #SS instead of #GP.
    static void as_stack_fault(Core& core)
    {
        if (core.non_canonical_) core.fault.vector = Vector::SS;
        core.non_canonical_ = false;
    }

    template <typename T>
    static bool load_fast(Core& core, const TlbEntry* table, std::uint64_t linear, T& value)
    {
        static_cast<void>(core);
        const TlbEntry& entry = table[Tlb::slot(linear)];
        if (((linear + sizeof(T) - 1) & ~base::page_mask) != entry.tag) [[unlikely]] return false;
        std::memcpy(&value, std::bit_cast<const std::byte*>(linear + entry.addend), sizeof(T));
        return true;
    }
    template <typename T>
    static bool store_fast(const TlbEntry* table, std::uint64_t linear, T value)
    {
        const TlbEntry& entry = table[Tlb::slot(linear)];
        if (((linear + sizeof(T) - 1) & ~base::page_mask) != entry.tag) [[unlikely]] return false;
        std::memcpy(std::bit_cast<std::byte*>(linear + entry.addend), &value, sizeof(T));
        return true;
    }

    // What the inline members of Core need of its private parts.
    static const TlbEntry* read_table(const Core& core) { return core.read_table_; }
    static const TlbEntry* write_table(const Core& core) { return core.write_table_; }
    // False while every access has to be seen one by one.
    static bool fast_tables(const Core& core)
    {
        return !core.alignment_checks_ && !core.data_breakpoints_;
    }

private:
    struct Target {
        std::byte* host = nullptr;  // nullptr: a device, or nothing
        base::Gpa gpa;              // only without host
        bool read_only = false;     // ROM
    };
    struct Range;  // of at most two pages

    static bool resolve(Core& core, std::uint64_t linear, x86::Access access, unsigned mmu,
                        Target& target) noexcept;
    static bool admit(Core& core, std::uint64_t& linear, std::size_t size, unsigned mmu, Kind kind,
                      x86::Access access) noexcept;
    static x86::PagingState paging_state(const Core& core, unsigned mmu) noexcept;
    static bool resolve_range(Core& core, std::uint64_t linear, std::size_t size,
                              x86::Access access, unsigned mmu, Range& range) noexcept;
    static std::byte* read_pointer(Core& core, std::uint64_t linear, unsigned size, unsigned mmu,
                                   Kind kind) noexcept;
    static bool device_read(Core& core, base::Gpa gpa, std::span<std::byte> to) noexcept;
    static bool device_write(Core& core, base::Gpa gpa, std::span<const std::byte> from) noexcept;
    static bool may_write(Core& core, const std::byte* host, std::size_t size) noexcept;
    static bool refuse_in_trial(Core& core) noexcept;
    static void note_read(Core& core, const std::byte* host,
                          std::span<const std::byte> bytes) noexcept;
    static void about_to_write(Core& core, const std::byte* host, std::size_t size) noexcept;
};

template <typename T>
inline bool Core::load(std::uint64_t linear, T& value)
{
    if (MemoryAccess::load_fast(*this, read_table_, linear, value)) [[likely]] return true;
    std::uint64_t wide = 0;
    if (!MemoryAccess::load(*this, linear, sizeof(T), data_mmu, MemoryAccess::Kind::explicit_data,
                            wide)) {
        return false;
    }
    value = static_cast<T>(wide);
    return true;
}

template <typename T>
inline bool Core::store(std::uint64_t linear, T value)
{
    if (MemoryAccess::store_fast(write_table_, linear, value)) [[likely]] return true;
    return MemoryAccess::store(*this, linear, sizeof(T), data_mmu,
                               MemoryAccess::Kind::explicit_data, value);
}

template <typename T>
inline bool Core::load_system(std::uint64_t linear, T& value)
{
    const auto& table = tlb_->read[mmu_supervisor];
    if (MemoryAccess::load_fast(*this, table.data(), linear, value)) return true;
    std::uint64_t wide = 0;
    if (!MemoryAccess::load(*this, linear, sizeof(T), mmu_supervisor, MemoryAccess::Kind::implicit,
                            wide)) {
        return false;
    }
    value = static_cast<T>(wide);
    return true;
}

template <typename T>
inline bool Core::store_system(std::uint64_t linear, T value)
{
    return store_at(linear, value, false);
}

template <typename T>
inline bool Core::store_at(std::uint64_t linear, T value, bool user)
{
    const unsigned mmu = user ? mmu_user : mmu_supervisor;
    const auto& table = tlb_->write[mmu];
    if (MemoryAccess::store_fast(table.data(), linear, value)) return true;
    return MemoryAccess::store(*this, linear, sizeof(T), mmu, MemoryAccess::Kind::implicit, value);
}

inline std::byte* Core::write_pointer(std::uint64_t linear, unsigned size)
{
    const TlbEntry& entry = write_table_[Tlb::slot(linear)];
    if (((linear + size - 1) & ~base::page_mask) == entry.tag) [[likely]] {
        return std::bit_cast<std::byte*>(linear + entry.addend);
    }
    return MemoryAccess::write_pointer(*this, linear, size);
}

}  // namespace doppel::engine::interpret
