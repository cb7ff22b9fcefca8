#include "engine/translate/worker/device_sites.h"

#include <algorithm>

#include "base/address.h"

namespace doppel::engine::translate {

DeviceSites::Site& DeviceSites::site(std::uint64_t ram_offset)
{
    const std::uint64_t page = ram_offset & ~base::page_mask;
    const auto offset = static_cast<std::uint16_t>(ram_offset & base::page_mask);
    std::vector<Site>& sites = pages_[page];
    const auto found = std::find_if(sites.begin(), sites.end(),
                                    [offset](const Site& site) { return site.offset == offset; });
    if (found != sites.end()) return *found;
    if (count_ == most) {
        pages_.clear();
        count_ = 0;
        return site(ram_offset);
    }
    ++count_;
    Site fresh;
    fresh.offset = offset;
    return sites.emplace_back(fresh);
}

bool DeviceSites::faulted(std::uint64_t ram_offset)
{
    Site& it = site(ram_offset);
    if (it.credit == 0 && ++it.faults < it.needed) return false;
    // Learned already: another block that has it was translated before.
    if (it.credit == 0) ++learned_;
    it.credit = std::min(it.credit + credit_each, credit_most);
    return true;
}

bool DeviceSites::interpreted(std::uint64_t ram_offset, bool device)
{
    Site& it = site(ram_offset);
    if (it.credit == 0) return false;  // forgotten since its block was made
    if (device) {
        it.credit = std::min(it.credit + credit_each, credit_most);
        return true;
    }
    if (--it.credit != 0) return true;
    ++forgotten_;
    it.faults = 0;
    it.needed = std::min(it.needed * 2, faults_most);
    return false;
}

std::span<const std::uint16_t> DeviceSites::learned(std::uint64_t ram_page)
{
    offsets_.clear();
    const auto found = pages_.find(ram_page);
    if (found == pages_.end()) return {};
    for (const Site& it : found->second) {
        if (it.credit != 0) offsets_.push_back(it.offset);
    }
    return offsets_;
}

void DeviceSites::forget_page(std::uint64_t ram_page)
{
    const auto found = pages_.find(ram_page);
    if (found == pages_.end()) return;
    count_ -= found->second.size();
    pages_.erase(found);
}

}  // namespace doppel::engine::translate
