#include "backends/block/disk_options.h"

#include <gtest/gtest.h>

#include "backends/block/token_bucket.h"

namespace doppel::backends {
namespace {

using namespace std::chrono_literals;

TEST(DiskOptions, All)
{
    const auto options = parse_disk_options(
        "a,,b.img,format=qcow2,readonly,cache=none,serial=X 1,queues=4,bps=10M,iops=100,"
        "bps_burst=1G,iops_burst=500,io=threads");
    ASSERT_TRUE(options) << options.error().text();
    EXPECT_EQ(options->block.path, "a,b.img");
    EXPECT_EQ(options->block.format, ImageFormat::qcow2);
    EXPECT_EQ(options->block.cache, CacheMode::none);
    EXPECT_TRUE(options->block.read_only);
    EXPECT_FALSE(options->block.use_io_uring);
    EXPECT_EQ(options->serial, "X 1");
    EXPECT_EQ(options->queues, 4u);
    EXPECT_EQ(options->block.throttle.bytes, 10u << 20);
    EXPECT_EQ(options->block.throttle.requests, 100u);
    EXPECT_EQ(options->block.throttle.burst_bytes, 1u << 30);
    EXPECT_EQ(options->block.throttle.burst_requests, 500u);
}

TEST(DiskOptions, TheFileAlone)
{
    const auto options = parse_disk_options("disk.img");
    ASSERT_TRUE(options);
    EXPECT_EQ(options->block.path, "disk.img");
    EXPECT_EQ(options->block.format, ImageFormat::probe);
    EXPECT_EQ(options->queues, 1u);
    EXPECT_FALSE(options->block.throttle.any());
}

TEST(DiskOptions, RefusesWithTheReason)
{
    for (const char* text :
         {"", ",format=raw", "f,format=vmdk", "f,cache=", "f,queues=0", "f,queues=17", "f,serial=",
          "f,serial=123456789012345678901", "f,bps=0", "f,bps=x", "f,bps=99999999999T", "f,iops=1K",
          "f,iops_burst=5", "f,bps_burst=5", "f,colour=red", "f,readonly,readonly=off",
          "f,readonly=maybe", "f,io=magic", "f,snapshot="}) {
        const auto options = parse_disk_options(text);
        ASSERT_FALSE(options) << text;
        EXPECT_EQ(options.error().kind(), base::ErrorKind::usage) << text;
    }
    EXPECT_NE(parse_disk_options("f,colour=red").error().text().find("'colour'"),
              std::string::npos);
}

TEST(TokenBucket, WithoutLimitIsAlwaysReady)
{
    TokenBucket bucket;
    bucket.use(1u << 30, 10s);
    EXPECT_LE(bucket.ready_at(), 10s);
}

TEST(TokenBucket, ABurstAndThenTheRate)
{
    TokenBucket bucket{100, 10};
    int now_used = 0;
    while (bucket.ready_at() <= 1000s) {
        bucket.use(1, 1000s);
        ++now_used;
    }
    EXPECT_EQ(now_used, 11);
    EXPECT_EQ(bucket.ready_at(), 1000s + 10ms);
    // Idle for a minute: the same burst again, not more.
    now_used = 0;
    while (bucket.ready_at() <= 1060s) {
        bucket.use(1, 1060s);
        ++now_used;
    }
    EXPECT_EQ(now_used, 11);
}

TEST(TokenBucket, OneLargeRequestIsServedAndPaidFor)
{
    TokenBucket bucket{1000, 10};
    EXPECT_LE(bucket.ready_at(), 5s);
    bucket.use(5000, 5s);
    EXPECT_EQ(bucket.ready_at(), 5s - 10ms + 5s);
}

}  // namespace
}  // namespace doppel::backends
