// What a window needs to know of the guest: its page tables and where its memory lies.
#pragma once

#include <cstdint>
#include <optional>

#include "base/address.h"
#include "x86/page_walk.h"

namespace doppel::engine::translate {

// A piece of guest memory as the host may map it.
struct RamPiece {
    std::uint64_t offset = 0;  // in the RAM file, of the address asked for
    std::uint64_t length = 0;  // bytes from there to the end of its slot
    bool read_only = false;    // ROM
};

class GuestPages {
public:
    virtual ~GuestPages() = default;
    // The current page tables; walk() sets A and D as a processor would, probe() nothing.
    // The address is canonical.
    virtual x86::WalkResult walk(std::uint64_t linear, x86::Access access, bool user) noexcept = 0;
    virtual x86::WalkResult probe(std::uint64_t linear, x86::Access access, bool user) noexcept = 0;
    // Nothing: no memory there (a device, or nothing at all).
    virtual std::optional<RamPiece> ram(base::Gpa gpa) noexcept = 0;
    // The RAM page at this offset holds translated code: it is mapped read-only.
    virtual bool holds_code(std::uint64_t ram_offset) noexcept = 0;
    // The first page in [begin, end) that holds code, or `end`; offsets of pages. Asked for
    // runs of up to a gigabyte: who has a map of code pages answers from that.
    virtual std::uint64_t next_code_page(std::uint64_t begin, std::uint64_t end) noexcept
    {
        while (begin < end && !holds_code(begin)) begin += base::page_size;
        return begin;
    }
};

// How a window changes the address space that it describes. Addresses are host addresses,
// lengths multiples of 4 KiB. False: the host refused (out of mappings or of memory).
class HostMapper {
public:
    virtual ~HostMapper() = default;
    virtual bool map(std::uint64_t address, std::uint64_t length, std::uint64_t ram_offset,
                     bool writable) noexcept = 0;
    virtual bool unmap(std::uint64_t address, std::uint64_t length) noexcept = 0;
    virtual bool protect(std::uint64_t address, std::uint64_t length, bool writable) noexcept = 0;
};

}  // namespace doppel::engine::translate
