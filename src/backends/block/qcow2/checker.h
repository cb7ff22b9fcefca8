// One walk over all tables of an image; check.cpp and repair.cpp are what is made of it.
#pragma once

#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/reference_counts.h"
#include "backends/block/qcow2/table_cache.h"

namespace doppel::backends::qcow2 {

// Refcounts may be too low: another program updates them late, and did not come to it.
[[nodiscard]] inline bool refcounts_are_late(const Header& header)
{
    return (header.incompatible & incompatible_dirty) != 0;
}

class Checker {
public:
    enum class Structures : std::uint8_t { all, without_refcounts };

    Checker(ByteFile& file, const Header& header, const CheckOptions& options);

    // Counts what everything refers to. Fills the report but for refcounts.
    base::Result<void> walk(Structures structures);
    // Compares with the refcounts in the image.
    base::Result<void> compare();
    // Sets or clears "refcount is 1" in the disk's own tables, as counted by walk().
    base::Result<void> fix_copied_flags();

    [[nodiscard]] CheckReport& report() { return report_; }
    [[nodiscard]] const ReferenceCounts& counts() const { return counts_; }

    // One cluster whose refcount is not what was counted.
    struct Difference {
        std::uint64_t cluster = 0;
        std::uint64_t counted = 0;
    };
    [[nodiscard]] const std::vector<Difference>& leaked() const { return leaked_; }

private:
    enum class Table : std::uint8_t { active, snapshot };

    void complain(std::string text);
    base::Result<void> refer(std::uint64_t offset, std::uint64_t length);
    // False, and a complaint, when it is not inside the file.
    [[nodiscard]] bool inside(std::uint64_t offset, std::uint64_t length, std::string_view what);
    base::Result<void> walk_l1(const std::vector<std::uint64_t>& l1, std::uint64_t disk_size,
                               Table kind);
    base::Result<void> walk_l2(std::uint64_t host, std::uint64_t guest, std::uint64_t disk_size,
                               Table kind);
    base::Result<void> walk_refcounts();
    base::Result<void> walk_snapshots();
    base::Result<std::uint64_t> refcount(std::uint64_t cluster);
    base::Result<void> compare_copied(std::uint64_t raw, std::string_view what);
    [[nodiscard]] bool enough(std::uint64_t bytes);

    ByteFile& file_;
    const Header& header_;
    CheckOptions options_;
    std::uint64_t file_size_;
    std::uint64_t table_bytes_ = 0;
    CheckReport report_;
    ReferenceCounts counts_;
    std::vector<std::uint64_t> refcount_table_;
    TableCache blocks_;
    std::vector<Difference> leaked_;
};

}  // namespace doppel::backends::qcow2
