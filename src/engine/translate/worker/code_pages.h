// Linear pages that translations rely on: where a page's code was found when a link to it or a
// table entry for it was made. Part of the TLB, so to speak: what the guest flushes is looked
// up again, and what leads elsewhere now is reported.
#pragma once

#include <cstdint>
#include <unordered_map>
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
        pages_.insert_or_assign(linear & ~base::page_mask, Page{ram_offset & ~base::page_mask, global});
        if (!global) some_not_global_ = true;
    }
    [[nodiscard]] bool knows(std::uint64_t linear) const
    {
        return pages_.contains(linear & ~base::page_mask);
    }
    void clear()
    {
        pages_.clear();
        some_not_global_ = false;
    }

    // look_up(linear_page, Page& now) -> false: nothing executable there any more.
    template <typename LookUp>
    std::vector<Changed> revalidate(bool keep_global, LookUp&& look_up)
    {
        std::vector<Changed> changed;
        if (keep_global && !some_not_global_) return changed;
        for (auto at = pages_.begin(); at != pages_.end();) {
            if ((keep_global && at->second.global) || still_there(*at, look_up)) {
                ++at;
                continue;
            }
            changed.push_back({at->first, at->second.ram_page});
            at = pages_.erase(at);
        }
        return changed;
    }
    template <typename LookUp>
    std::vector<Changed> revalidate_page(std::uint64_t linear, LookUp&& look_up)
    {
        std::vector<Changed> changed;
        // INVLPG drops all of a large page: look at whatever may belong to one.
        constexpr std::uint64_t large = 2 * 1024 * 1024;
        const std::uint64_t first = linear & ~(large - 1);
        for (auto at = pages_.begin(); at != pages_.end();) {
            if (at->first - first >= large || still_there(*at, look_up)) {
                ++at;
                continue;
            }
            changed.push_back({at->first, at->second.ram_page});
            at = pages_.erase(at);
        }
        return changed;
    }

private:
    template <typename LookUp>
    static bool still_there(const std::pair<const std::uint64_t, Page>& page, LookUp& look_up)
    {
        Page now;
        return look_up(page.first, now) && now.ram_page == page.second.ram_page &&
               now.global == page.second.global;
    }

    std::unordered_map<std::uint64_t, Page> pages_;
    bool some_not_global_ = false;  // so that a CR3 load need not look
};

}  // namespace doppel::engine::translate
