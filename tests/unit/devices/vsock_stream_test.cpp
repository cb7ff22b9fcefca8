// The protocol of one stream, without sockets or rings.
#include <gtest/gtest.h>

#include "devices/virtio/vsock/stream.h"

namespace doppel::devices::virtio {
namespace {

using enum VsockOp;
using Effect = Stream::Effect;
constexpr std::uint32_t size = Stream::buffer_size;

VsockHeader packet(VsockOp op, std::uint32_t len = 0, std::uint32_t flags = 0,
                   std::uint32_t buf_alloc = 1000, std::uint32_t fwd_cnt = 0)
{
    return {3, host_cid, 10, 20, len, VIRTIO_VSOCK_TYPE_STREAM, op, flags, buf_alloc, fwd_cnt};
}

Stream opened()
{
    Stream stream{Stream::Origin::guest};
    EXPECT_EQ(stream.message().op, VIRTIO_VSOCK_OP_RESPONSE);
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE)), Effect::none);
    return stream;
}

TEST(VsockStream, HostAsksAndTheGuestAccepts)
{
    Stream stream{Stream::Origin::host};
    EXPECT_FALSE(stream.known());
    EXPECT_FALSE(stream.open());
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RESPONSE)), Effect::violation) << "before the request";
    const VsockHeader request = stream.message();
    EXPECT_EQ(request.op, VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(request.buf_alloc, size);
    EXPECT_TRUE(stream.known());
    EXPECT_EQ(stream.credit(), 0u);
    EXPECT_FALSE(stream.has_message());
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RESPONSE)), Effect::opened);
    EXPECT_EQ(stream.credit(), 1000u);
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RESPONSE)), Effect::violation);
}

TEST(VsockStream, NothingElseBeforeItIsOpen)
{
    for (const VsockOp op : {VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_INVALID,
                             VIRTIO_VSOCK_OP_CREDIT_REQUEST, VIRTIO_VSOCK_OP_REQUEST}) {
        Stream stream{Stream::Origin::host};
        static_cast<void>(stream.message());
        EXPECT_EQ(stream.take(packet(op)), Effect::violation) << static_cast<int>(op);
    }
    Stream stream{Stream::Origin::host};
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RST)), Effect::gone);
}

TEST(VsockStream, DataComesAfterTheAnswer)
{
    Stream stream{Stream::Origin::guest};
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE)), Effect::none);
    EXPECT_EQ(stream.credit(), 0u);
    static_cast<void>(stream.message());
    EXPECT_EQ(stream.credit(), 1000u);
}

TEST(VsockStream, CreditOfTheGuest)
{
    Stream stream = opened();
    EXPECT_EQ(stream.data(600).len, 600u);
    EXPECT_EQ(stream.credit(), 400u);
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 1000, 500)), Effect::none);
    EXPECT_EQ(stream.credit(), 900u);
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 50, 500)), Effect::none);
    EXPECT_EQ(stream.credit(), 0u) << "its buffer is smaller now";
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, ~0u, 601)), Effect::none);
    EXPECT_EQ(stream.credit(), 0u) << "it has taken more than was sent";
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, ~0u, 600)), Effect::none);
    EXPECT_EQ(stream.credit(), ~0u);
}

TEST(VsockStream, CountsWrap)
{
    Stream stream = opened();
    std::uint32_t taken = 0;
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 1u << 30, taken)),
                  Effect::none);
        ASSERT_EQ(stream.credit(), 1u << 30);
        static_cast<void>(stream.data(1u << 30));
        taken += 1u << 30;
    }
    for (std::uint64_t sum = 0; sum < (std::uint64_t{5} << 30); sum += size) {
        ASSERT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, size)), Effect::data);
        stream.kept(0);
    }
    ASSERT_TRUE(stream.has_message());
    EXPECT_EQ(stream.message().fwd_cnt, 1u << 30);
}

TEST(VsockStream, NoMoreThanThereIsRoomFor)
{
    Stream stream = opened();
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, size)), Effect::data);
    stream.kept(size);
    EXPECT_FALSE(stream.has_message()) << "nothing to tell, it has no room";
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, 1)), Effect::violation);
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, ~0u)), Effect::violation);
    stream.kept(size - 1);
    ASSERT_TRUE(stream.has_message());
    const VsockHeader update = stream.message();
    EXPECT_EQ(update.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    EXPECT_EQ(update.fwd_cnt, 1u);
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, 1)), Effect::data);
    stream.kept(size + 20);  // with what was not the guest's
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, 1)), Effect::violation);
}

TEST(VsockStream, CreditIsToldWhenItMatters)
{
    Stream stream = opened();
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, size / 2)), Effect::data);
    stream.kept(0);
    EXPECT_FALSE(stream.has_message());
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_CREDIT_REQUEST)), Effect::none);
    ASSERT_TRUE(stream.has_message());
    EXPECT_EQ(stream.message().fwd_cnt, size / 2);
    EXPECT_FALSE(stream.has_message());
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, size / 2 + 1)), Effect::data);
    stream.kept(0);
    EXPECT_TRUE(stream.has_message());
    static_cast<void>(stream.data(1));
    EXPECT_FALSE(stream.has_message()) << "data tells it, too";
}

TEST(VsockStream, EachSideEndsWhatItSends)
{
    Stream stream = opened();
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_SHUTDOWN, 0, VIRTIO_VSOCK_SHUTDOWN_F_SEND)),
              Effect::shut);
    EXPECT_FALSE(stream.guest_sends());
    EXPECT_TRUE(stream.guest_receives());
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_RW, 1)), Effect::violation);
    EXPECT_EQ(stream.credit(), 1000u);
    stream.host_sent_all();
    EXPECT_EQ(stream.credit(), 0u);
    ASSERT_TRUE(stream.has_message());
    EXPECT_EQ(stream.message().flags, VIRTIO_VSOCK_SHUTDOWN_F_SEND);
    stream.host_receives_no_more();
    const VsockHeader both = stream.message();
    EXPECT_EQ(both.op, VIRTIO_VSOCK_OP_SHUTDOWN);
    EXPECT_EQ(both.flags, vsock_shutdown_both);
    EXPECT_FALSE(stream.has_message());
    // Later packets take nothing of it back.
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_SHUTDOWN, 0, ~vsock_shutdown_both)), Effect::shut);
    EXPECT_FALSE(stream.guest_sends());
    EXPECT_EQ(stream.take(packet(VIRTIO_VSOCK_OP_SHUTDOWN, 0, VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE)),
              Effect::shut);
    EXPECT_FALSE(stream.guest_receives());
}

}  // namespace
}  // namespace doppel::devices::virtio
