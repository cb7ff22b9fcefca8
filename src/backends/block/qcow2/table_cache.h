// Tables of one cluster (L2 tables, refcount blocks) kept in memory, as they are in the file.
//
// Changed ones stay until they are written by flushes, in the order that the image demands;
// unchanged ones are dropped when there are many. Under the image's metadata mutex, but for the
// bytes of a copy.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "backends/block/byte_file.h"

namespace doppel::backends::qcow2 {

struct Table {
    std::uint64_t host = 0;
    std::vector<std::byte> bytes;
    bool dirty = false;
};

class TableCache {
public:
    TableCache(ByteFile& file, std::uint64_t table_size, std::uint64_t memory);

    // The table at `host`, read if need be; errno in `error` and null otherwise. A holder keeps
    // it from being dropped.
    [[nodiscard]] std::shared_ptr<Table> get(std::uint64_t host, int& error);
    // The same if it is here already; else null.
    [[nodiscard]] std::shared_ptr<Table> cached(std::uint64_t host);
    // A new one, zeroes, to be written. What was known of that place is forgotten.
    [[nodiscard]] std::shared_ptr<Table> make(std::uint64_t host);
    void mark_dirty(Table& table);
    void forget(std::uint64_t host);

    struct Copy {
        std::shared_ptr<Table> table;
        std::vector<std::byte> bytes;
    };
    // What is dirty, which is clean from then on; give back what could not be written.
    [[nodiscard]] std::vector<Copy> take_dirty();
    void give_back(const std::vector<Copy>& copies);
    [[nodiscard]] bool many_dirty() const { return dirty_ > limit_ / 2; }
    [[nodiscard]] std::size_t dirty() const { return dirty_; }

private:
    using List = std::list<std::shared_ptr<Table>>;

    std::shared_ptr<Table> insert(std::shared_ptr<Table> table);

    ByteFile& file_;
    std::uint64_t table_size_;
    std::size_t limit_;
    std::size_t dirty_ = 0;
    List recent_;  // the last used first
    std::unordered_map<std::uint64_t, List::iterator> by_host_;
};

}  // namespace doppel::backends::qcow2
