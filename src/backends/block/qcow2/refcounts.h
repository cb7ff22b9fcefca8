// Who uses which cluster of the file, and where there is room.
//
// Changes stay in memory until the image writes them, which it does before anything refers to a
// cluster that was taken, and after nothing refers to one that was given back: what a crash
// leaves is a cluster too many in use, never one too few. Under the image's metadata mutex.
#pragma once

#include <set>

#include "backends/block/qcow2/layout.h"
#include "backends/block/qcow2/table_cache.h"

namespace doppel::backends::qcow2 {

struct Allocation {
    std::uint64_t host = 0;
    std::uint64_t clusters = 0;
    bool reads_zero = false;  // never written before, and the file is as long
};

class Refcounts {
public:
    // Reads the table. `header` stays the caller's and is changed when the table moves.
    static base::Result<std::unique_ptr<Refcounts>> load(ByteFile& file, Header& header);

    // errno; 0: fine. EIO also when the tables contradict themselves.
    [[nodiscard]] int get(std::uint64_t cluster, std::uint64_t& value);
    [[nodiscard]] int add(std::uint64_t cluster);
    [[nodiscard]] int remove(std::uint64_t cluster);
    [[nodiscard]] int set(std::uint64_t cluster, std::uint64_t value);
    // 1 to `most` clusters in a row, with refcount 1.
    [[nodiscard]] int allocate(std::uint64_t most, Allocation& found);
    // Exactly `count` in a row.
    [[nodiscard]] int allocate_run(std::uint64_t count, std::uint64_t& host);

    // Writes what changed; not yet on stable storage, but in an order that a crash may cut.
    [[nodiscard]] int write_out();
    [[nodiscard]] bool many_dirty() const { return blocks_.many_dirty(); }

    // The file's end without what was reserved in advance.
    [[nodiscard]] std::uint64_t used_end() const { return used_end_; }
    // Host offsets of the blocks, 0 where there is none.
    [[nodiscard]] const std::vector<std::uint64_t>& table() const { return table_; }

private:
    Refcounts(ByteFile& file, Header& header);

    [[nodiscard]] std::shared_ptr<Table> block(std::uint64_t index, int& error);
    [[nodiscard]] int make_block(std::uint64_t index);
    [[nodiscard]] int grow_table();
    [[nodiscard]] int write_blocks();
    [[nodiscard]] int reserve(std::uint64_t end);
    [[nodiscard]] int free_run(std::uint64_t from, std::uint64_t most, std::uint64_t& first,
                               std::uint64_t& count);

    ByteFile& file_;
    Header& header_;
    TableCache blocks_;
    std::vector<std::uint64_t> table_;
    std::set<std::size_t> dirty_entries_;
    std::uint64_t next_free_ = 0;  // no free cluster below it
    std::uint64_t used_end_ = 0;   // bytes; nothing was ever stored from here on
    std::uint64_t file_end_ = 0;
};

}  // namespace doppel::backends::qcow2
