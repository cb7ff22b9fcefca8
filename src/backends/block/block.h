// The host's end of a disk: a file, an image, or a server, seen as numbered bytes.
//
//   device ──submit()──▶ throttle ──▶ io_uring            raw files
//                                └──▶ threads ──▶ format ──▶ protocol     everything else
//   device ◀──done()──── event loop ◀── eventfd
//
// Threads: a backend belongs to the thread that runs its event loop (or will run it). All
// members are called there, and every `done` is called there. submit() never blocks and never
// calls `done` itself. Destroy a backend on that thread, or when the loop does not run.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/counters.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

enum class Status : std::uint8_t {
    ok,
    io_error,       // the host's file or peer failed, or the image is corrupt
    no_space,       // the host has no room for it; the guest may try again later
    unsupported,    // properties() said so
    invalid,        // outside the disk, not whole blocks, buffers that do not add up, read-only
};
[[nodiscard]] std::string_view name(Status status);

struct Request {
    enum class Kind : std::uint8_t { read, write, flush, discard, write_zeroes };

    Kind kind = Kind::read;
    // write, write_zeroes: on stable storage when done, as if a flush of this range followed.
    bool fua = false;
    // write_zeroes: the range may give its space back. Reads give zeroes either way.
    bool may_unmap = false;
    // Bytes, whole logical blocks. flush: both 0, and everything that was done when it was
    // submitted is on stable storage when it is done. After a discard reads give zeroes or
    // the old data.
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    // read, write: `length` bytes altogether, of any alignment; the array and what it points to
    // stay the caller's and must last until `done`. Otherwise empty.
    std::span<const iovec> buffers;
    // Exactly once, unless the backend is destroyed first; then never. May submit again; must not
    // destroy the backend.
    std::function<void(Status)> done;
};

struct BlockProperties {
    std::uint64_t size = 0;                  // bytes, a multiple of the logical block size
    std::uint32_t logical_block_size = 512;  // what requests must be multiples of
    std::uint32_t physical_block_size = 4096;  // what is written without reading first
    std::uint32_t optimal_io_size = 0;         // 0: nothing to say
    std::uint32_t discard_granularity = 0;     // bytes; 0: discards give nothing back
    bool read_only = false;
    bool write_cache = true;  // false: every write is as stable as it will ever be
    bool discard = true;      // discards are accepted; they may still be without effect
    bool write_zeroes = true;
};

class BlockBackend {
public:
    static constexpr std::size_t most_buffers = 1024;  // of one request (the host's IOV_MAX)

    BlockBackend(const BlockBackend&) = delete;
    BlockBackend& operator=(const BlockBackend&) = delete;
    // Waits for what the host is doing with callers' buffers; calls no `done` any more.
    virtual ~BlockBackend();

    [[nodiscard]] const BlockProperties& properties() const { return properties_; }

    // Moves the requests out. Requests under way are not ordered among themselves. One call for
    // several requests costs less than several calls.
    void submit(std::span<Request> requests) noexcept;
    void submit(Request request) noexcept { submit(std::span{&request, 1}); }

    // Called after the `done` of all requests that were found to be done at one time, so that
    // what follows from them is done once.
    void on_batch_done(std::function<void()> then) { batch_done_ = std::move(then); }
    [[nodiscard]] base::EventLoop& loop() const { return loop_; }

    // Blocks until every request is done, calling their `done`; throttling does not delay it.
    void drain() noexcept;
    [[nodiscard]] std::size_t in_flight() const { return in_flight_; }

    // "<prefix>.reads", ".read_bytes", ".writes", ..., ".errors", ".rejected".
    void counters(base::CounterList& list, std::string_view prefix) const;

protected:
    BlockBackend(base::EventLoop& loop, BlockProperties properties);
    [[nodiscard]] base::Result<void> watch();  // once, before the first request

    // Requests that passed the checks.
    virtual void start(std::span<Request> requests) noexcept = 0;
    // The eventfd was written by others than finish(): take what is done to finish().
    virtual void collect() noexcept {}
    // drain() began: delay nothing.
    virtual void hurry() noexcept {}

    // Any thread. `done` is called later, from the loop.
    void finish(Request&& request, Status status) noexcept;
    [[nodiscard]] int completion_fd() const { return completed_fd_.get(); }

private:
    struct Completion {
        Request::Kind kind;
        Status status;
        std::uint64_t length;
        std::function<void(Status)> done;
    };
    struct Totals {
        std::uint64_t requests = 0;
        std::uint64_t bytes = 0;
    };

    [[nodiscard]] bool acceptable(const Request& request) const;
    void deliver() noexcept;

    base::EventLoop& loop_;
    BlockProperties properties_;
    base::Fd completed_fd_;
    std::mutex completed_mutex_;
    std::vector<Completion> completed_;
    bool collecting_ = false;  // under the mutex: deliver() is about to take what is completed
    std::function<void()> batch_done_;
    std::size_t in_flight_ = 0;
    Totals totals_[5];
    std::uint64_t errors_ = 0;
    std::uint64_t rejected_ = 0;
    bool watched_ = false;
};

enum class ImageFormat : std::uint8_t { probe, raw, qcow2 };
enum class CacheMode : std::uint8_t {
    writeback,  // the host caches; a flush makes it durable
    none,       // past the host's page cache (O_DIRECT); a flush makes it durable
    unsafe,     // flushes do nothing: for disks that nobody misses
};

struct ThrottleLimits {
    // Per second; 0: no limit. A burst is how much may be used at once after idling; 0: as much
    // as the limit gives in a tenth of a second, and at least one request.
    std::uint64_t bytes = 0;
    std::uint64_t requests = 0;
    std::uint64_t burst_bytes = 0;
    std::uint64_t burst_requests = 0;

    [[nodiscard]] bool any() const { return bytes != 0 || requests != 0; }
};

struct BlockOptions {
    std::string path;  // or an NBD URI: nbd://host/export, nbd+unix:///export?socket=PATH
    // probe: qcow2 when it looks like it, else raw; then the guest cannot make it look like it.
    ImageFormat format = ImageFormat::probe;
    CacheMode cache = CacheMode::writeback;
    bool read_only = false;
    bool use_io_uring = true;  // false: threads, as on hosts without
    std::string snapshot;      // an internal snapshot of a qcow2 image, by name or id; read-only
    ThrottleLimits throttle;
};

// Opens and locks (see image_lock.h). Errors name the file and the fix.
base::Result<std::unique_ptr<BlockBackend>> open_block(const BlockOptions& options,
                                                       base::EventLoop& loop);

}  // namespace doppel::backends
