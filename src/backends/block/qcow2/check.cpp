#include "backends/block/qcow2/check.h"

#include <algorithm>
#include <set>

#include "backends/block/qcow2/checker.h"
#include "backends/block/qcow2/refcounts.h"

namespace doppel::backends::qcow2 {

namespace {

base::Result<void> done(int error, std::string_view what)
{
    if (error == 0) return {};
    return base::errno_error(base::ErrorKind::io, "Cannot write " + std::string{what}, error);
}

base::Result<void> give_back_leaks(ByteFile& file, Header& header, const Checker& checker)
{
    const auto refcounts = TRY(Refcounts::load(file, header));
    for (const auto& leak : checker.leaked()) {
        TRY(done(refcounts->set(leak.cluster, leak.counted), "a refcount"));
        if (refcounts->many_dirty()) TRY(done(refcounts->write_out(), "a refcount"));
    }
    TRY(done(refcounts->write_out(), "a refcount"));
    return done(file.flush(), "a refcount");
}

// New blocks and a new table behind everything else, from what was counted; then the header. Until
// then the old ones are as they were.
base::Result<void> count_anew(ByteFile& file, Header& header, const ReferenceCounts& counts)
{
    const std::uint64_t per_block = header.refcounts_per_block();
    const std::uint64_t start = header.clusters_for(file.size());
    std::set<std::uint64_t> ranges;
    bool fits = true;
    counts.for_each([&](std::uint64_t cluster, std::uint64_t count) {
        ranges.insert(cluster / per_block);
        fits = fits && count <= header.largest_refcount();
    });
    if (!fits) return base::io_error("A cluster is shared more often than its refcount can say");
    // The new clusters are counted, too, which may take more of them.
    std::uint64_t table_clusters = 0;
    std::uint64_t end = start;
    while (true) {
        table_clusters = header.clusters_for((*ranges.rbegin() + 1) * 8);
        const std::uint64_t needed = start + ranges.size() + table_clusters;
        if (needed == end) break;
        end = needed;
        for (std::uint64_t c = start / per_block; c <= (end - 1) / per_block; ++c) ranges.insert(c);
    }
    if (table_clusters << header.cluster_bits > max_refcount_table_bytes) {
        return base::io_error("The image is too large to be counted anew");
    }
    std::vector<std::byte> table(table_clusters << header.cluster_bits);
    std::uint64_t at = start << header.cluster_bits;
    for (const std::uint64_t range : ranges) {
        std::vector<std::byte> block(header.cluster_size());
        for (std::uint64_t i = 0; i < per_block; ++i) {
            const std::uint64_t cluster = range * per_block + i;
            const std::uint64_t count =
                cluster >= start && cluster < end ? 1 : counts.get(cluster);
            if (count != 0) store_refcount(block, header.refcount_order, i, count);
        }
        TRY(done(file.write_at(at, block), "a refcount block"));
        store_be(&table[range * 8], at);
        at += header.cluster_size();
    }
    TRY(done(file.write_at(at, table), "the refcount table"));
    TRY(done(file.flush(), "the refcount table"));
    std::byte place[12];
    store_be(place, at);
    store_be(place + 8, static_cast<std::uint32_t>(table_clusters));
    TRY(done(file.write_at(48, place), "the header"));
    header.refcount_table_offset = at;
    header.refcount_table_clusters = static_cast<std::uint32_t>(table_clusters);
    return done(file.flush(), "the header");
}

base::Result<void> clear_marks(ByteFile& file, Header& header)
{
    constexpr std::uint64_t marks = incompatible_dirty | incompatible_corrupt;
    if ((header.incompatible & marks) == 0) return {};
    std::byte features[8];
    store_be(features, header.incompatible & ~marks);
    TRY(done(file.write_at(72, features), "the header"));
    header.incompatible &= ~marks;
    return done(file.flush(), "the header");
}

base::Result<CheckReport> check_all(ByteFile& file, const Header& header,
                                    const CheckOptions& options)
{
    Checker checker{file, header, options};
    TRY(checker.walk(Checker::Structures::all));
    TRY(checker.compare());
    return checker.report();
}

}  // namespace

base::Result<CheckReport> check_image(ByteFile& file, const Header& header,
                                      const CheckOptions& options)
{
    return check_all(file, header, options);
}

base::Result<CheckReport> repair_image(ByteFile& file, Header& header, Repair how)
{
    Checker checker{file, header, {}};
    TRY(checker.walk(Checker::Structures::all));
    TRY(checker.compare());
    CheckReport found = checker.report();
    if (how == Repair::leaks && found.corruptions != 0) {
        return base::io_error("The image is damaged, so giving back leaked clusters could harm it: " +
                              found.messages.front() + "; use --repair all");
    }
    const bool wrong = found.corruptions != 0 || refcounts_are_late(header);
    if (how == Repair::all && wrong) {
        Checker again{file, header, {}};
        TRY(again.walk(Checker::Structures::without_refcounts));
        TRY(count_anew(file, header, again.counts()));
        TRY(again.fix_copied_flags());
        TRY(done(file.flush(), "a table"));
    } else if (found.leaks != 0) {
        TRY(give_back_leaks(file, header, checker));
    }
    const CheckReport after = TRY(check_all(file, header, {}));
    if (how == Repair::all && after.corruptions == 0) TRY(clear_marks(file, header));
    found.fixed_corruptions = found.corruptions - std::min(found.corruptions, after.corruptions);
    found.fixed_leaks = found.leaks - std::min(found.leaks, after.leaks);
    return found;
}

}  // namespace doppel::backends::qcow2
