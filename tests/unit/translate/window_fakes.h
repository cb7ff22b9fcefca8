// A guest of few pages and a host that remembers what it was told, for the window's tests.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "engine/translate/space/window.h"

namespace doppel::engine::translate::test {

inline constexpr std::uint64_t KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB, page = 4096;

// A leaf entry, all levels in one.
struct Pte {
    std::uint64_t gpa = 0;
    std::uint64_t size = page;
    bool writable = true, user = true, global = false, accessed = false, dirty = false;
};

struct FakeSlot {
    std::uint64_t gpa = 0, size = 0, offset = 0;
    bool read_only = false;
};

class FakeGuest final : public GuestPages {
public:
    std::map<std::uint64_t, Pte> ptes;  // by linear address
    std::vector<FakeSlot> slots{{0, GIB, 0}};
    std::set<std::uint64_t> code;       // RAM pages
    std::uint64_t probes = 0, walks = 0;

    // The entry of a linear address and where it begins.
    std::map<std::uint64_t, Pte>::iterator entry(std::uint64_t linear)
    {
        auto after = ptes.upper_bound(linear);
        if (after == ptes.begin()) return ptes.end();
        --after;
        return linear - after->first < after->second.size ? after : ptes.end();
    }

    x86::WalkResult look(std::uint64_t linear, x86::Access access, bool user, bool update)
    {
        const bool write = access == x86::Access::write;
        std::uint32_t code_bits = (write ? x86::page_fault::W : 0u) | (user ? x86::page_fault::U : 0u);
        const auto found = entry(linear);
        if (found == ptes.end()) return x86::make_page_fault(code_bits, linear);
        Pte& pte = found->second;
        if ((write && !pte.writable) || (user && !pte.user)) {
            return x86::make_page_fault(code_bits | x86::page_fault::P, linear);
        }
        if (update) pte.accessed = true;
        if (update && write) pte.dirty = true;
        x86::Translation translation;
        translation.gpa = base::Gpa{pte.gpa + (linear - found->first)};
        translation.page_size = pte.size;
        translation.user = pte.user;
        translation.writable = pte.writable;
        translation.dirty = pte.dirty;
        translation.global = pte.global;
        translation.accessed = pte.accessed;
        return translation;
    }

    x86::WalkResult walk(std::uint64_t linear, x86::Access access, bool user) noexcept override
    {
        ++walks;
        return look(linear, access, user, true);
    }
    x86::WalkResult probe(std::uint64_t linear, x86::Access access, bool user) noexcept override
    {
        ++probes;
        return look(linear, access, user, false);
    }
    std::optional<RamPiece> ram(base::Gpa gpa) noexcept override
    {
        for (const FakeSlot& slot : slots) {
            const std::uint64_t inside = gpa.value - slot.gpa;
            if (gpa.value < slot.gpa || inside >= slot.size) continue;
            return RamPiece{slot.offset + inside, slot.size - inside, slot.read_only};
        }
        return std::nullopt;
    }
    bool holds_code(std::uint64_t ram_offset) noexcept override
    {
        return code.contains(ram_offset & ~(page - 1));
    }
    std::uint64_t next_code_page(std::uint64_t begin, std::uint64_t end) noexcept override
    {
        const auto found = code.lower_bound(begin);
        return found == code.end() ? end : std::min(*found, end);
    }
};

class FakeHost final : public HostMapper {
public:
    struct Page {
        std::uint64_t ram = 0;
        bool writable = false;
    };
    std::map<std::uint64_t, Page> pages;
    std::uint64_t maps = 0, unmaps = 0, protects = 0;
    unsigned refuse = 0;            // so many of the next calls, but for what starts over
    std::uint64_t whole_above = ~0ull;  // an unmap longer than this is never refused

    bool map(std::uint64_t address, std::uint64_t length, std::uint64_t ram_offset,
             bool writable) noexcept override
    {
        ++maps;
        if (refused()) return false;
        for (std::uint64_t at = 0; at < length; at += page) {
            pages[address + at] = {ram_offset + at, writable};
        }
        return true;
    }
    bool unmap(std::uint64_t address, std::uint64_t length) noexcept override
    {
        ++unmaps;
        if (length <= whole_above && refused()) return false;
        pages.erase(pages.lower_bound(address), pages.lower_bound(address + length));
        return true;
    }
    bool protect(std::uint64_t address, std::uint64_t length, bool writable) noexcept override
    {
        ++protects;
        if (refused()) return false;
        for (std::uint64_t at = 0; at < length; at += page) {
            const auto found = pages.find(address + at);
            if (found == pages.end()) return false;
            found->second.writable = writable;
        }
        return true;
    }
    [[nodiscard]] std::optional<Page> at(std::uint64_t address) const
    {
        const auto found = pages.find(address & ~(page - 1));
        return found == pages.end() ? std::nullopt : std::optional{found->second};
    }
    [[nodiscard]] bool readable(std::uint64_t address) const { return at(address).has_value(); }
    [[nodiscard]] bool writable(std::uint64_t address) const
    {
        const auto found = at(address);
        return found && found->writable;
    }

private:
    bool refused()
    {
        if (refuse == 0) return false;
        --refuse;
        return true;
    }
};

}  // namespace doppel::engine::translate::test
