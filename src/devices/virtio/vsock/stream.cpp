#include "devices/virtio/vsock/stream.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace doppel::devices::virtio {

using enum VsockOp;

Stream::Stream(Origin origin)
    : open_(origin == Origin::guest),
      opening_(open_ ? VIRTIO_VSOCK_OP_RESPONSE : VIRTIO_VSOCK_OP_REQUEST)
{
}

Stream::Effect Stream::take(const VsockHeader& header)
{
    guest_buffer_ = header.buf_alloc;
    guest_taken_ = header.fwd_cnt;
    if (header.op == VIRTIO_VSOCK_OP_RST) return Effect::gone;
    if (header.op == VIRTIO_VSOCK_OP_RESPONSE) {
        if (open_ || !known()) return Effect::violation;
        open_ = true;
        return Effect::opened;
    }
    if (!open_) return Effect::violation;
    switch (header.op) {
    case VIRTIO_VSOCK_OP_RW:
        if (!guest_sends() || header.len > buffer_size - (received_ - taken_)) {
            return Effect::violation;
        }
        received_ += header.len;
        return Effect::data;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        guest_shut_ |= header.flags & vsock_shutdown_both;
        return Effect::shut;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE: return Effect::none;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST: credit_asked_ = true; return Effect::none;
    default: return Effect::violation;
    }
}

void Stream::kept(std::uint32_t bytes)
{
    taken_ = received_ - std::min(bytes, received_ - taken_);
}

// A guest that has taken more than was sent, or has made its buffer smaller, gets nothing for now.
std::uint32_t Stream::credit() const
{
    const std::uint32_t underway = sent_ - guest_taken_;
    const bool sends = open_ && opening_ == VIRTIO_VSOCK_OP_INVALID && guest_receives() &&
                       (host_shut_ & VIRTIO_VSOCK_SHUTDOWN_F_SEND) == 0;
    return !sends || underway >= guest_buffer_ ? 0 : guest_buffer_ - underway;
}

VsockHeader Stream::data(std::uint32_t bytes)
{
    ASSERT(bytes <= credit());
    sent_ += bytes;
    return header(VIRTIO_VSOCK_OP_RW, 0, bytes);
}

bool Stream::has_message() const
{
    if (opening_ != VIRTIO_VSOCK_OP_INVALID) return true;
    return open_ && (host_shut_ != host_shut_told_ || credit_asked_ || credit_is_news());
}

VsockHeader Stream::message()
{
    ASSERT(has_message());
    if (opening_ != VIRTIO_VSOCK_OP_INVALID) {
        return header(std::exchange(opening_, VIRTIO_VSOCK_OP_INVALID));
    }
    if (host_shut_ != host_shut_told_) {
        host_shut_told_ = host_shut_;
        return header(VIRTIO_VSOCK_OP_SHUTDOWN, host_shut_);
    }
    credit_asked_ = false;
    return header(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

VsockHeader Stream::header(VsockOp op, std::uint32_t flags, std::uint32_t bytes)
{
    told_ = taken_;
    VsockHeader header{};
    header.len = bytes;
    header.type = VIRTIO_VSOCK_TYPE_STREAM;
    header.op = op;
    header.flags = flags;
    header.buf_alloc = buffer_size;
    header.fwd_cnt = taken_;
    return header;
}

}  // namespace doppel::devices::virtio
