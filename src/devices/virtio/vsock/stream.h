// One stream as the protocol sees it: who still sends, who has room for how much, and what the
// guest is to be told next. No sockets, no rings. Virtio 1.2, section 5.10.6.
//
//   of the guest:  REQUEST ─▶ open ─▶ RESPONSE ──┐            ┌─▶ SHUTDOWN of both sides ─▶ RST
//                                                ├─▶ RW ... ──┤
//   of the host:   REQUEST ─▶ asked ◀─ RESPONSE ─┘            └─▶ RST
//
// Counts of bytes wrap at 32 bits, as those in the headers do.
#pragma once

#include <cstdint>

#include "devices/virtio/vsock/registers.h"

namespace doppel::devices::virtio {

class Stream {
public:
    // How much of the guest's may be underway to the host.
    static constexpr std::uint32_t buffer_size = 256 * 1024;

    enum class Origin { guest, host };
    explicit Stream(Origin origin);

    // What the guest's packet asks of the owner.
    enum class Effect : std::uint8_t {
        none,
        opened,     // the guest has accepted what the host asked for
        data,       // there are header.len bytes, no more than there is room for
        shut,       // see guest_sends() and guest_receives()
        gone,       // the guest knows nothing of it any more
        violation,  // nothing that could come now
    };
    [[nodiscard]] Effect take(const VsockHeader& header);

    [[nodiscard]] bool open() const { return open_; }
    [[nodiscard]] bool guest_sends() const { return (guest_shut_ & VIRTIO_VSOCK_SHUTDOWN_F_SEND) == 0; }
    [[nodiscard]] bool guest_receives() const
    {
        return (guest_shut_ & VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE) == 0;
    }
    // The guest has heard of it.
    [[nodiscard]] bool known() const { return opening_ != VsockOp::VIRTIO_VSOCK_OP_REQUEST; }

    // So many bytes have not reached the host yet: of those that came, and what else is with them.
    void kept(std::uint32_t bytes);
    // The host sends no more than was given to the guest; receives no more.
    void host_sent_all() { host_shut_ |= VIRTIO_VSOCK_SHUTDOWN_F_SEND; }
    void host_receives_no_more() { host_shut_ |= VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE; }

    // How many bytes the guest has room for now.
    [[nodiscard]] std::uint32_t credit() const;
    // A packet of data for the guest: all but addresses. At most credit().
    [[nodiscard]] VsockHeader data(std::uint32_t bytes);
    // A packet without data, that goes first: the same.
    [[nodiscard]] bool has_message() const;
    [[nodiscard]] VsockHeader message();

private:
    [[nodiscard]] VsockHeader header(VsockOp op, std::uint32_t flags = 0, std::uint32_t bytes = 0);
    // The guest believes that there is little room, and is wrong.
    [[nodiscard]] bool credit_is_news() const
    {
        return received_ - told_ > buffer_size / 2 && told_ != taken_;
    }

    bool open_;
    VsockOp opening_;  // what is to be told first; VIRTIO_VSOCK_OP_INVALID: it was
    bool credit_asked_ = false;
    std::uint32_t guest_shut_ = 0, host_shut_ = 0, host_shut_told_ = 0;
    // From the guest: came, left for the host, and what the guest knows of the latter.
    std::uint32_t received_ = 0, taken_ = 0, told_ = 0;
    // To the guest: sent, and what its last header said.
    std::uint32_t sent_ = 0, guest_buffer_ = 0, guest_taken_ = 0;
};

}  // namespace doppel::devices::virtio
