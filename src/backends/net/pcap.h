// Writes every frame that passes to a file that tcpdump and Wireshark read: the classic pcap
// format (draft-ietf-opsawg-pcap), nanoseconds, link type Ethernet.
//
// Frames are written as they pass: with offloads, before they are cut and their checksums made.
#pragma once

#include <string>
#include <vector>

#include "backends/net/net_filter.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

// Threads: as NetBackend.
class Pcap final : public NetFilter {
public:
    // Replaces the file. When writing fails later, a warning, and the file ends there.
    static base::Result<std::unique_ptr<NetBackend>> create(std::unique_ptr<NetBackend> inner,
                                                            const std::string& path);
    ~Pcap() override { write_out(); }

    Handed send(unsigned queue, Frame& frame) noexcept override;
    void flush(unsigned queue) noexcept override;

private:
    Pcap(std::unique_ptr<NetBackend> inner, base::Fd file)
        : NetFilter(std::move(inner)), file_(std::move(file))
    {
    }
    Handed receive(unsigned queue, Frame& frame) noexcept override;
    void received(unsigned queue) noexcept override;
    // Into buffer_; forget() takes it out again.
    std::size_t record(std::span<const std::byte> frame);
    void forget(std::size_t size) { buffer_.resize(size); }
    void write_out() noexcept;

    base::Fd file_;
    std::vector<std::byte> buffer_;
};

}  // namespace doppel::backends
