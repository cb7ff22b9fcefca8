#include "backends/net/pcap.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"

namespace doppel::backends {

namespace {

struct FileHeader {
    std::uint32_t magic = 0xa1b23c4d;  // times in nanoseconds, in this byte order
    std::uint16_t major = 2, minor = 4;
    std::uint32_t reserved[2] = {0, 0};
    std::uint32_t snapshot_length = 0x40000;
    std::uint32_t link_type = 1;  // LINKTYPE_ETHERNET
};
static_assert(sizeof(FileHeader) == 24);

struct RecordHeader {
    std::uint32_t seconds, nanoseconds, captured, original;
};
static_assert(sizeof(RecordHeader) == 16);

constexpr std::size_t write_at_bytes = 256 * 1024;

template <typename T>
void append(std::vector<std::byte>& to, const T& value)
{
    const auto bytes = std::as_bytes(std::span{&value, 1});
    to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

base::Result<std::unique_ptr<NetBackend>> Pcap::create(std::unique_ptr<NetBackend> inner,
                                                       const std::string& path)
{
    base::Fd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    if (!file.valid()) {
        return base::errno_error(base::ErrorKind::io, "pcap=" + path + ": cannot write", errno);
    }
    std::unique_ptr<Pcap> pcap{new Pcap{std::move(inner), std::move(file)}};
    append(pcap->buffer_, FileHeader{});
    pcap->write_out();
    return std::unique_ptr<NetBackend>{std::move(pcap)};
}

std::size_t Pcap::record(std::span<const std::byte> frame)
{
    const std::size_t before = buffer_.size();
    if (!file_.valid()) return before;
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const auto size = static_cast<std::uint32_t>(frame.size());
    append(buffer_, RecordHeader{static_cast<std::uint32_t>(now.tv_sec),
                                 static_cast<std::uint32_t>(now.tv_nsec), size, size});
    buffer_.insert(buffer_.end(), frame.begin(), frame.end());
    return before;
}

// The frame may be changed by whoever gets it, so it is recorded before, and perhaps not for good.
Handed Pcap::send(unsigned queue, Frame& frame) noexcept
{
    const std::size_t before = record(frame.bytes);
    const Handed handed = NetFilter::send(queue, frame);
    if (handed == Handed::wait) forget(before);
    if (buffer_.size() > write_at_bytes) write_out();
    return handed;
}

Handed Pcap::receive(unsigned queue, Frame& frame) noexcept
{
    const std::size_t before = record(frame.bytes);
    const Handed handed = NetFilter::receive(queue, frame);
    if (handed == Handed::wait) forget(before);
    if (buffer_.size() > write_at_bytes) write_out();
    return handed;
}

void Pcap::flush(unsigned queue) noexcept
{
    NetFilter::flush(queue);
    write_out();
}

void Pcap::received(unsigned queue) noexcept
{
    NetFilter::received(queue);
    write_out();
}

void Pcap::write_out() noexcept
{
    std::span<const std::byte> rest{buffer_};
    while (!rest.empty() && file_.valid()) {
        const ssize_t written = ::write(file_.get(), rest.data(), rest.size());
        if (written > 0) {
            rest = rest.subspan(static_cast<std::size_t>(written));
        } else if (written == 0 || errno != EINTR) {
            spdlog::warn("--net pcap=: cannot write any more: {}",
                         std::generic_category().message(errno));
            file_.reset();
        }
    }
    buffer_.clear();
}

}  // namespace doppel::backends
