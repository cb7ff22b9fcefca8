// Linear pages that translations rely on: where a page's code was found when a link to it or a
// table entry for it was made. Part of the TLB, so to speak: what the guest flushes is looked
// up again, and what leads elsewhere now is reported.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "base/address.h"

namespace doppel::engine::translate {

class CodePages {
public:
    struct Page {
        std::uint64_t ram_page = 0;
        bool global = false;
    };
    struct Changed {
        std::uint64_t linear_page = 0, ram_page = 0;
    };

    void note(std::uint64_t linear, std::uint64_t ram_offset, bool global)
    {
        const std::uint64_t page = linear & ~base::page_mask;
        pages_[global ? 0 : 1].erase(page);
        pages_[global ? 1 : 0].insert_or_assign(page, ram_offset & ~base::page_mask);
    }
    [[nodiscard]] bool knows(std::uint64_t linear) const
    {
        const std::uint64_t page = linear & ~base::page_mask;
        return pages_[0].contains(page) || pages_[1].contains(page);
    }
    static constexpr std::uint64_t unknown = ~std::uint64_t{0};
    [[nodiscard]] std::uint64_t ram_page(std::uint64_t linear_page) const
    {
        for (const Pages& pages : pages_) {
            if (const auto at = pages.find(linear_page); at != pages.end()) return at->second;
        }
        return unknown;
    }
    void clear()
    {
        for (Pages& pages : pages_) pages.clear();
    }

    // look_up(linear_page, Page& now) -> false: nothing executable there any more.
    template <typename LookUp>
    std::vector<Changed> revalidate(bool keep_global, LookUp&& look_up)
    {
        std::vector<Changed> changed;
        look_again(false, 0, last_page, look_up, changed);
        if (!keep_global) look_again(true, 0, last_page, look_up, changed);
        return changed;
    }
    template <typename LookUp>
    std::vector<Changed> revalidate_page(std::uint64_t linear, LookUp&& look_up)
    {
        std::vector<Changed> changed;
        // INVLPG drops all of a large page: look at whatever may belong to one.
        constexpr std::uint64_t large = 2 * 1024 * 1024;
        const std::uint64_t first = linear & ~(large - 1);
        const std::uint64_t last = first + (large - base::page_size);
        for (const bool global : {false, true}) look_again(global, first, last, look_up, changed);
        return changed;
    }

private:
    using Pages = std::map<std::uint64_t, std::uint64_t>;  // linear to RAM
    static constexpr std::uint64_t last_page = ~base::page_mask;

    template <typename LookUp>
    void look_again(bool global, std::uint64_t first, std::uint64_t last, LookUp& look_up,
                    std::vector<Changed>& changed)
    {
        Pages& pages = pages_[global ? 1 : 0];
        for (auto at = pages.lower_bound(first); at != pages.end() && at->first <= last;) {
            Page now;
            if (look_up(at->first, now) && now.ram_page == at->second && now.global == global) {
                ++at;
                continue;
            }
            changed.push_back({at->first, at->second});
            at = pages.erase(at);
        }
    }

    std::array<Pages, 2> pages_;  // index: global; a CR3 load looks at the others alone
};

}  // namespace doppel::engine::translate
