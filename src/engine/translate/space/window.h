// A window: the part of a host address space that shows guest-linear memory, and the record
// of what it shows. It is a TLB: a cache of the guest's page tables that the guest flushes, and
// nothing in it is a promise. One for supervisor addresses (the worker), one for each guest
// address space's user addresses (a user process).
//
//   fault ──▶ fill(): walk the guest's tables ──▶ map a run of pages
//   flush ──▶ revalidate: probe what is recorded, unmap what changed
//
// A mapping is made for the largest run around the fault whose pages are physically
// contiguous and have equal rights; pages whose D bit is clear, and pages that hold
// translated code, are mapped read-only until a write. Pure: the guest and the host are
// injected. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/translate/space/guest_pages.h"
#include "x86/fault.h"

namespace doppel::engine::translate {

struct WindowConfig {
    bool user = false;             // walks as user accesses, else as supervisor (EFLAGS.AC clear)
    std::uint64_t fold = 0;        // host address = guest-linear address + fold (mod 2^64)
    // Host addresses outside [begin, end), or inside a hole, cannot be shown.
    std::uint64_t begin = 0, end = 0;
    struct Hole { std::uint64_t begin = 0, end = 0; };
    std::vector<Hole> holes;
    std::uint64_t mappings_max = 50000;   // more: everything is dropped
    // A run is extended over at most so many further leaf entries in each direction
    // (neighbours whose entries are present and accessed already).
    unsigned neighbours = 16;
    std::uint64_t run_max = 1ull << 30;   // bytes
};

class Window {
public:
    enum class Fill : std::uint8_t {
        mapped,      // try again
        fault,       // the guest's own page fault: see fault()
        device,      // translates to no memory: the interpreter's
        code,        // a write to a page that holds translated code: drop the code first
        unmappable,  // outside the window, ROM written, or the host refused: the interpreter's
    };

    Window(WindowConfig config, GuestPages& pages, HostMapper& mapper);
    ~Window();
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;

    // Whether what lies around a page of 4 KiB is looked at, too.
    enum class Around : std::uint8_t { neighbours, nothing };
    // The host faulted at `address` (a host address). write: it was a write.
    Fill fill(std::uint64_t address, bool write, Around around = Around::neighbours);
    [[nodiscard]] const x86::Fault& fault() const;

    // Guest-linear address of a host address in this window's range (pure arithmetic).
    [[nodiscard]] std::uint64_t linear(std::uint64_t address) const;

    // The guest flushed translations. Entries that still say the same stay.
    void flush(bool keep_global);
    void flush_page(std::uint64_t linear);   // guest-linear
    // Forget everything; `unmap`: and tell the mapper (false: the caller dropped the whole
    // address range at once).
    void clear(bool unmap);

    // Translated code appeared in the RAM page: its mappings become read-only.
    void protect(std::uint64_t ram_offset);

    struct Counters {
        std::uint64_t fills = 0, pages = 0, upgrades = 0, flushes = 0, page_flushes = 0,
            revalidated = 0, dropped = 0, overflows = 0;
    };
    [[nodiscard]] const Counters& counters() const;
    [[nodiscard]] std::uint64_t mappings() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace doppel::engine::translate
