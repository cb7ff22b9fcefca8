#include "backends/block/qcow2/table_cache.h"

#include <algorithm>

namespace doppel::backends::qcow2 {

TableCache::TableCache(ByteFile& file, std::uint64_t table_size, std::uint64_t memory)
    : file_(file),
      table_size_(table_size),
      limit_(std::max<std::size_t>(16, static_cast<std::size_t>(memory / table_size)))
{
}

std::shared_ptr<Table> TableCache::get(std::uint64_t host, int& error)
{
    error = 0;
    if (auto known = cached(host)) return known;
    auto table = std::make_shared<Table>();
    table->host = host;
    table->bytes.resize(table_size_);
    error = file_.read_at(host, table->bytes);
    return error == 0 ? insert(std::move(table)) : nullptr;
}

std::shared_ptr<Table> TableCache::cached(std::uint64_t host)
{
    const auto found = by_host_.find(host);
    if (found == by_host_.end()) return nullptr;
    recent_.splice(recent_.begin(), recent_, found->second);
    return *found->second;
}

std::shared_ptr<Table> TableCache::make(std::uint64_t host)
{
    forget(host);
    auto table = std::make_shared<Table>();
    table->host = host;
    table->bytes.resize(table_size_);
    table = insert(std::move(table));
    mark_dirty(*table);
    return table;
}

std::shared_ptr<Table> TableCache::insert(std::shared_ptr<Table> table)
{
    if (recent_.size() >= limit_) {
        // From the back; what is changed or held stays, and a flush comes before there is much.
        std::size_t looked_at = 0;
        for (auto at = recent_.end(); at != recent_.begin() && looked_at < 64; ++looked_at) {
            --at;
            if ((*at)->dirty || at->use_count() > 1) continue;
            by_host_.erase((*at)->host);
            at = recent_.erase(at);
            if (recent_.size() < limit_) break;
        }
    }
    recent_.push_front(table);
    by_host_[table->host] = recent_.begin();
    return table;
}

void TableCache::mark_dirty(Table& table)
{
    if (!table.dirty) ++dirty_;
    table.dirty = true;
}

void TableCache::forget(std::uint64_t host)
{
    const auto found = by_host_.find(host);
    if (found == by_host_.end()) return;
    if ((*found->second)->dirty) {
        --dirty_;
        (*found->second)->dirty = false;
    }
    recent_.erase(found->second);
    by_host_.erase(found);
}

std::vector<TableCache::Copy> TableCache::take_dirty()
{
    std::vector<Copy> copies;
    if (dirty_ == 0) return copies;
    for (const auto& table : recent_) {
        if (!table->dirty) continue;
        copies.push_back({table, table->bytes});
        table->dirty = false;
    }
    dirty_ = 0;
    std::sort(copies.begin(), copies.end(),
              [](const Copy& a, const Copy& b) { return a.table->host < b.table->host; });
    return copies;
}

void TableCache::give_back(const std::vector<Copy>& copies)
{
    for (const Copy& copy : copies) {
        const auto found = by_host_.find(copy.table->host);
        if (found != by_host_.end() && *found->second == copy.table) mark_dirty(*copy.table);
    }
}

}  // namespace doppel::backends::qcow2
