// Protocol: an export of an NBD server (the NBD protocol's doc/proto.md, through libnbd).
//
// Where the server says that connections agree on what is flushed (NBD_FLAG_CAN_MULTI_CONN) there
// are several, one request on each; else one. A server that is silent for half a minute, or closes
// the connection, fails the request; the next one connects anew. If something was written and not
// flushed by then, the next flush fails, since nobody knows whether the server still has it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "backends/block/byte_file.h"
#include "base/result.h"

struct nbd_handle;

namespace doppel::backends {

class NbdFile final : public ByteFile {
public:
    // nbd://host[:port]/export, nbd+unix:///export?socket=PATH, with s for TLS.
    static base::Result<std::unique_ptr<NbdFile>> open(const std::string& uri, bool read_only);
    ~NbdFile() override;

    [[nodiscard]] const std::string& name() const override { return uri_; }
    [[nodiscard]] const ByteFileProperties& properties() const override { return properties_; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }
    [[nodiscard]] int read(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int write(std::uint64_t offset, std::span<const iovec> buffers) override;
    [[nodiscard]] int flush() override;
    [[nodiscard]] int write_zeroes(std::uint64_t offset, std::uint64_t length,
                                   bool may_unmap) override;
    [[nodiscard]] int discard(std::uint64_t offset, std::uint64_t length) override;
    [[nodiscard]] int resize(std::uint64_t) override;
    [[nodiscard]] Extent extent(std::uint64_t offset, std::uint64_t most) override;

private:
    struct Close {
        void operator()(nbd_handle* handle) const;
    };
    using Connection = std::unique_ptr<nbd_handle, Close>;
    // Starts one command; its cookie, or -1.
    using Start = std::function<std::int64_t(nbd_handle*)>;

    NbdFile() = default;
    base::Result<Connection> connect() const;
    [[nodiscard]] int command(const Start& start);
    [[nodiscard]] int perform(Connection& connection, const Start& start) const;

    static constexpr std::size_t most_connections = 4;

    std::string uri_;
    ByteFileProperties properties_;
    std::uint64_t size_ = 0;
    bool can_flush_ = false;
    bool can_trim_ = false;
    bool can_zero_ = false;
    bool knows_extents_ = false;

    std::mutex mutex_;
    std::condition_variable returned_;
    std::vector<Connection> idle_;  // null: to be connected when it is needed
    std::atomic<std::uint64_t> writes_ = 0;
    std::atomic<std::uint64_t> flushed_writes_ = 0;
    std::atomic<bool> writes_lost_ = false;
};

}  // namespace doppel::backends
