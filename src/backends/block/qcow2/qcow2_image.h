// Format qcow2, versions 2 and 3: reads and writes.
//
// What a crash may leave. Changes of metadata stay in memory until a flush (or until there are
// many), which writes
//
//   1. refcounts of what was taken, and data (written before its entry exists)   ─ sync ─
//   2. L2 tables                                                                 ─ sync ─
//   3. L1 entries of new L2 tables                                               ─ sync ─
//   4. in memory: refcounts of what was given back; they go out with the next 1.
//
// with a sync only where there was something to write. So at every instant everything that the
// tables on disk refer to is counted, and complete; a crash costs clusters that are counted and not
// referred to ("leaked"), and what was not flushed. A cluster given back is taken again only
// after step 3, and after the last request that may still be reading it.
//
// Any thread. Metadata is under one mutex, data is moved without it.
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "backends/block/image.h"
#include "backends/block/qcow2/layout.h"
#include "backends/block/qcow2/refcounts.h"
#include "backends/block/qcow2/table_cache.h"

namespace doppel::backends::qcow2 {

class Qcow2Image final : public Image {
public:
    struct Options {
        bool read_only = false;
        std::string snapshot;            // by id or name; read_only
        std::unique_ptr<Image> backing;  // what header().backing_file names; null: nothing
        // Compares tables with refcounts first (see check.h) and refuses what is damaged.
        bool check = true;
    };
    // For the caller to open the backing file with.
    static base::Result<Header> read_header(ByteFile& file);
    static base::Result<std::unique_ptr<Qcow2Image>> open(std::unique_ptr<ByteFile> file,
                                                          Options options);
    ~Qcow2Image() override;

    [[nodiscard]] const Header& header() const { return header_; }
    [[nodiscard]] ByteFile& file() { return *file_; }

    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] bool read_only() const override { return read_only_; }
    [[nodiscard]] std::uint32_t discard_granularity() const override;
    [[nodiscard]] std::uint32_t optimal_io_size() const override;
    [[nodiscard]] int read(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int write(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int flush() override;
    [[nodiscard]] int write_zeroes(std::uint64_t offset, std::uint64_t length,
                                   bool may_unmap) override;
    [[nodiscard]] int discard(std::uint64_t offset, std::uint64_t length) override;
    // Not at the same time as anything else; not with snapshots.
    [[nodiscard]] int resize(std::uint64_t size) override;
    [[nodiscard]] Extent extent(std::uint64_t offset, std::uint64_t most, int& error) override;
    // Clusters that have a place of their own, in a row, whose table is in memory.
    [[nodiscard]] std::optional<Direct> begin_direct(Access access, std::uint64_t offset,
                                                     std::uint64_t length) override;
    void end_direct(const Direct& direct) override;

    // One whole cluster that is not allocated yet, stored compressed if that saves anything. Not
    // at the same time as anything else.
    [[nodiscard]] int write_compressed(std::uint64_t offset, std::span<const std::byte> cluster);
    // Refcounts and image are on the disk; no more changes without a new opening.
    [[nodiscard]] int close();

private:
    struct Freed {
        std::uint64_t host = 0;  // a byte of the first cluster
        std::uint64_t length = 0;
        std::uint64_t epoch = 0;  // requests that started up to here may use it
    };
    // What consecutive clusters have in common.
    struct Run {
        L2Entry first;
        std::uint64_t length = 0;  // bytes of the disk
    };
    class Operation;  // a request under way: nothing it may see is reused
    
    explicit Qcow2Image(std::unique_ptr<ByteFile> file) : file_(std::move(file)) {}
    base::Result<void> load(Options options);
    base::Result<void> prepare_for_writing();

    // All of these with the metadata mutex held.
    [[nodiscard]] std::shared_ptr<Table> l2_for_read(std::uint64_t l1_index, int& error);
    [[nodiscard]] std::shared_ptr<Table> l2_for_write(std::uint64_t l1_index, int& error);
    [[nodiscard]] int entry_at(const Table& table, std::uint64_t cluster, L2Entry& entry) const;
    void set_entry(Table& table, std::uint64_t cluster, std::uint64_t raw);
    [[nodiscard]] int lookup(std::uint64_t offset, std::uint64_t most, Run& run);
    void give_back(const L2Entry& entry);
    void give_back(std::uint64_t host, std::uint64_t length);
    [[nodiscard]] bool allocating(std::uint64_t cluster) const;
    void wait_for_allocations(std::unique_lock<std::mutex>& lock, std::uint64_t first,
                              std::uint64_t last);

    [[nodiscard]] int read_run(const Run& run, std::uint64_t offset, std::span<const iovec> buffers);
    [[nodiscard]] int read_backing(std::uint64_t offset, std::span<const iovec> buffers);
    [[nodiscard]] int read_compressed(const L2Entry& entry, std::uint64_t inside,
                                      std::span<const iovec> buffers);
    [[nodiscard]] int do_read(std::uint64_t offset, std::span<const iovec> buffers);
    [[nodiscard]] int do_write(std::uint64_t offset, std::span<const iovec> buffers);
    [[nodiscard]] int write_some(std::uint64_t offset, std::span<const iovec> buffers,
                                 std::uint64_t& written);
    [[nodiscard]] int write_new(std::unique_lock<std::mutex>& lock, std::uint64_t offset,
                                std::span<const iovec> buffers, std::uint64_t clusters,
                                std::uint64_t& written);
    enum class Empty : std::uint8_t { zero, discard };
    [[nodiscard]] int empty_clusters(std::uint64_t first, std::uint64_t last, Empty how);
    [[nodiscard]] int write_zero_bytes(std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] bool reads_zero(std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] int grow_l1(std::uint64_t entries);
    [[nodiscard]] int flush_metadata();
    [[nodiscard]] int flush_if_much();
    void reuse_freed();
    void forget_ended();

    std::unique_ptr<ByteFile> file_;
    Header header_;
    std::uint64_t size_ = 0;
    bool read_only_ = false;
    std::unique_ptr<Image> backing_;

    std::mutex metadata_;
    std::vector<std::uint64_t> l1_;
    std::set<std::uint64_t> dirty_l1_;
    std::unique_ptr<TableCache> l2_;
    std::unique_ptr<Refcounts> refcounts_;
    std::vector<Freed> freed_;          // still referred to on disk
    std::deque<Freed> reusable_;        // not any more, but somebody may be reading
    std::multiset<std::uint64_t> operations_;  // epochs of those under way
    std::mutex ended_mutex_;            // taken alone, or inside metadata_
    std::vector<std::uint64_t> ended_;  // of operations_: ended, by who could not wait
    std::uint64_t epoch_ = 0;
    std::uint64_t leaks_ = 0;
    std::map<std::uint64_t, std::uint64_t> allocating_;  // first cluster, one past the last
    std::condition_variable allocated_;

    std::mutex flushing_;  // taken before metadata_
    std::uint64_t compressed_end_ = 0;  // where the next compressed cluster may start

    std::mutex decompressed_mutex_;
    std::uint64_t decompressed_host_ = 0;  // the cluster in decompressed_; 0: none
    std::uint64_t decompressed_at_ = 0;    // reuse_count_ then
    std::vector<std::byte> decompressed_;
    std::atomic<std::uint64_t> reuse_count_ = 0;  // places may hold something else since then
};

}  // namespace doppel::backends::qcow2
