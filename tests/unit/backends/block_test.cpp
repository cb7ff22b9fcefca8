// Every way to reach a disk does the same: random requests against a model in memory.
#include <cstring>
#include <random>
#include <thread>

#include "block_fixture.h"

namespace doppel::backends {
namespace {

struct Way {
    std::string name;
    bool qcow2 = false;
    bool ring = false;
    CacheMode cache = CacheMode::writeback;
    bool throttled = false;
    bool backed = false;
};

constexpr std::uint64_t disk_size = (6u << 20) + 512 * 3;

class BlockWays : public testing::TestWithParam<Way> {
protected:
    void SetUp() override
    {
        const Way& way = GetParam();
        options_.path = folder_.file("disk");
        options_.cache = way.cache;
        options_.use_io_uring = way.ring;
        options_.format = way.qcow2 ? ImageFormat::qcow2 : ImageFormat::raw;
        if (way.throttled) options_.throttle = {1u << 30, 100000, 0, 0};
        model_.resize(disk_size);
        qcow2::CreateOptions image;
        image.size = disk_size;
        if (way.backed) {
            const auto below = pattern(4 << 20, 99);
            std::ofstream{folder_.file("below"), std::ios::binary}.write(
                reinterpret_cast<const char*>(below.data()),
                static_cast<std::streamsize>(below.size()));
            std::copy(below.begin(), below.end(), model_.begin());
            image.backing_file = "below";
            image.backing_format = "raw";
        }
        if (way.qcow2) make_qcow2(options_.path, image);
        else make_raw(options_.path, disk_size);
    }

    void expect_model(Disk& disk)
    {
        std::vector<std::byte> all(disk_size);
        ASSERT_EQ(disk.read(0, all), Status::ok);
        for (std::size_t i = 0; i < all.size(); ++i) {
            ASSERT_EQ(all[i], model_[i]) << "at " << i;
        }
    }

    ScratchFolder folder_;
    BlockOptions options_;
    std::vector<std::byte> model_;
};

TEST_P(BlockWays, RandomRequestsDoWhatAModelDoes)
{
    auto disk = std::make_unique<Disk>(options_);
    if (!disk->backend && options_.cache == CacheMode::none) GTEST_SKIP() << disk->error;
    ASSERT_TRUE(disk->backend) << disk->error;
    ASSERT_EQ(disk->backend->properties().size, disk_size);
    std::mt19937 random{12345};
    for (int i = 0; i < 600; ++i) {
        const std::uint64_t offset = random() % (disk_size / 512) * 512;
        const std::uint64_t longest = random() % 8 == 0 ? 1u << 20 : 20000;
        std::uint64_t length = std::min<std::uint64_t>(random() % longest / 512 * 512 + 512,
                                                       disk_size - offset);
        const auto at = model_.begin() + static_cast<std::ptrdiff_t>(offset);
        switch (random() % 8) {
            case 0:
            case 1:
            case 2: {
                // In several buffers of odd sizes and places.
                const auto bytes = pattern(length + 1, static_cast<std::uint64_t>(i));
                auto source = std::vector<std::byte>(bytes.begin(), bytes.end());
                const std::size_t first = random() % length;
                const iovec buffers[]{{source.data() + 1, first},
                                      {source.data() + 1 + first, length - first}};
                ASSERT_EQ(disk->run({.kind = Request::Kind::write, .fua = random() % 4 == 0,
                                     .offset = offset, .length = length, .buffers = buffers,
                                     .done = {}}), Status::ok);
                std::copy(source.begin() + 1, source.end(), at);
                break;
            }
            case 3:
                ASSERT_EQ(disk->zero(offset, length, random() % 2 == 0), Status::ok);
                std::fill_n(at, length, std::byte{0});
                break;
            case 4: {
                ASSERT_EQ(disk->discard(offset, length), Status::ok);
                std::vector<std::byte> now(length);
                ASSERT_EQ(disk->read(offset, now), Status::ok);
                for (std::size_t j = 0; j < length; ++j) {
                    ASSERT_TRUE(now[j] == std::byte{0} || now[j] == at[static_cast<std::ptrdiff_t>(j)]);
                }
                std::copy(now.begin(), now.end(), at);
                break;
            }
            case 5: ASSERT_EQ(disk->flush(), Status::ok); break;
            case 6:
                if (i % 10 == 0) {  // what was written is there after reopening, flushed or not
                    disk = nullptr;
                    disk = std::make_unique<Disk>(options_);
                    ASSERT_TRUE(disk->backend) << disk->error;
                }
                break;
            default: {
                std::vector<std::byte> bytes(length);
                ASSERT_EQ(disk->read(offset, bytes), Status::ok);
                ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), at)) << "request " << i;
            }
        }
    }
    expect_model(*disk);
    disk = nullptr;
    disk = std::make_unique<Disk>(options_);
    ASSERT_TRUE(disk->backend) << disk->error;
    expect_model(*disk);
}

TEST_P(BlockWays, ManyAtOnceEachInItsPlace)
{
    Disk disk{options_};
    if (!disk.backend && options_.cache == CacheMode::none) GTEST_SKIP() << disk.error;
    ASSERT_TRUE(disk.backend) << disk.error;
    // Neighbours share clusters; several rounds of the same places, too many for any ring.
    constexpr std::size_t block = 4096;
    constexpr std::size_t count = 600;
    std::vector<std::byte> source = pattern(block * count, 7);
    std::vector<iovec> buffers(count);
    std::vector<Request> requests(count);
    std::size_t done = 0;
    for (std::size_t i = 0; i < count; ++i) {
        buffers[i] = {source.data() + i * block, block};
        requests[i].kind = Request::Kind::write;
        requests[i].offset = i * block;
        requests[i].length = block;
        requests[i].buffers = {&buffers[i], 1};
        requests[i].done = [&](Status status) { done += status == Status::ok ? 1 : 0; };
    }
    std::shuffle(requests.begin(), requests.end(), std::mt19937{1});
    disk.backend->submit(requests);
    EXPECT_EQ(disk.backend->in_flight(), count);
    disk.backend->drain();
    EXPECT_EQ(done, count);
    EXPECT_EQ(disk.backend->in_flight(), 0u);
    std::copy(source.begin(), source.end(), model_.begin());
    expect_model(disk);
    base::CounterList counters;
    disk.backend->counters(counters, "disk0");
    for (const auto& [name, value] : counters.values()) {
        if (name == "disk0.write.requests") EXPECT_EQ(value, count);
        if (name == "disk0.write.bytes") EXPECT_EQ(value, count * block);
        if (name == "disk0.errors" || name == "disk0.rejected") EXPECT_EQ(value, 0u);
    }
}

TEST_P(BlockWays, RefusesWhatIsNotOnTheDisk)
{
    Disk disk{options_};
    if (!disk.backend && options_.cache == CacheMode::none) GTEST_SKIP() << disk.error;
    ASSERT_TRUE(disk.backend) << disk.error;
    std::vector<std::byte> bytes(4096);
    EXPECT_EQ(disk.read(disk_size, std::span{bytes}.first(512)), Status::invalid);
    EXPECT_EQ(disk.read(disk_size - 512, bytes), Status::invalid);
    EXPECT_EQ(disk.read(UINT64_MAX - 511, bytes), Status::invalid);
    EXPECT_EQ(disk.write(100, bytes), Status::invalid);
    EXPECT_EQ(disk.write(0, std::span{bytes}.first(100)), Status::invalid);
    EXPECT_EQ(disk.discard(disk_size - 512, UINT64_MAX & ~511ull), Status::invalid);
    const iovec buffer{bytes.data(), 512};
    EXPECT_EQ(disk.run({.kind = Request::Kind::read, .length = 1024, .buffers = {&buffer, 1},
                        .done = {}}), Status::invalid);
    const iovec large[]{{bytes.data(), SIZE_MAX}, {bytes.data(), 513}};
    EXPECT_EQ(disk.run({.kind = Request::Kind::read, .length = 512, .buffers = large, .done = {}}),
              Status::invalid);
    EXPECT_EQ(disk.run({.kind = Request::Kind::flush, .offset = 512, .buffers = {}, .done = {}}),
              Status::invalid);
    EXPECT_EQ(disk.read(0, {}), Status::ok);
    expect_model(disk);
}

TEST_P(BlockWays, DestroyedWhileBusy)
{
    std::vector<std::byte> bytes(1 << 20);
    const iovec buffer{bytes.data(), bytes.size()};
    {
        Disk disk{options_};
        if (!disk.backend && options_.cache == CacheMode::none) GTEST_SKIP() << disk.error;
        ASSERT_TRUE(disk.backend) << disk.error;
        for (int i = 0; i < 50; ++i) {
            Request request{.kind = Request::Kind::write, .length = bytes.size(),
                            .buffers = {&buffer, 1}, .done = {}};
            request.done = [](Status) { FAIL() << "done after the end"; };
            disk.backend->submit(std::move(request));
        }
    }
    Disk disk{options_};  // the lock is gone, the image is whole
    EXPECT_TRUE(disk.backend) << disk.error;
}

TEST_P(BlockWays, ReadOnlyRefusesWrites)
{
    options_.read_only = true;
    Disk disk{options_};
    if (!disk.backend && options_.cache == CacheMode::none) GTEST_SKIP() << disk.error;
    ASSERT_TRUE(disk.backend) << disk.error;
    std::vector<std::byte> bytes(512);
    EXPECT_TRUE(disk.backend->properties().read_only);
    EXPECT_EQ(disk.write(0, bytes), Status::invalid);
    EXPECT_EQ(disk.zero(0, 512), Status::invalid);
    EXPECT_EQ(disk.discard(0, 512), Status::invalid);
    EXPECT_EQ(disk.flush(), Status::ok);
}

// Each refusal takes half a second: of two ways only.
class BlockLocks : public BlockWays {};

TEST_P(BlockLocks, ManyReadersOrOneWriter)
{
    options_.read_only = true;
    Disk disk{options_};
    ASSERT_TRUE(disk.backend) << disk.error;
    Disk second{options_};
    EXPECT_TRUE(second.backend) << "two readers: " << second.error;
    options_.read_only = false;
    Disk writer{options_};
    EXPECT_FALSE(writer.backend);
    EXPECT_NE(writer.error.find("another process has it open for reading"), std::string::npos)
        << writer.error;
}

TEST_P(BlockLocks, OneWriter)
{
    Disk first{options_};
    ASSERT_TRUE(first.backend) << first.error;
    Disk second{options_};
    EXPECT_FALSE(second.backend);
    EXPECT_NE(second.error.find("open for writing"), std::string::npos) << second.error;
    options_.read_only = true;
    Disk reader{options_};
    EXPECT_FALSE(reader.backend);
}

INSTANTIATE_TEST_SUITE_P(
    All, BlockWays,
    testing::Values(Way{.name = "raw_threads"}, Way{.name = "raw_ring", .ring = true},
                    Way{.name = "raw_ring_direct", .ring = true, .cache = CacheMode::none},
                    Way{.name = "raw_threads_direct", .cache = CacheMode::none},
                    Way{.name = "raw_ring_unsafe", .ring = true, .cache = CacheMode::unsafe},
                    Way{.name = "raw_throttled", .ring = true, .throttled = true},
                    Way{.name = "qcow2", .qcow2 = true},
                    Way{.name = "qcow2_direct", .qcow2 = true, .cache = CacheMode::none},
                    Way{.name = "qcow2_ring", .qcow2 = true, .ring = true},
                    Way{.name = "qcow2_ring_direct", .qcow2 = true, .ring = true,
                        .cache = CacheMode::none},
                    Way{.name = "qcow2_ring_backed", .qcow2 = true, .ring = true, .backed = true},
                    Way{.name = "qcow2_backed", .qcow2 = true, .backed = true},
                    Way{.name = "qcow2_throttled", .qcow2 = true, .throttled = true}),
    [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Some, BlockLocks,
                         testing::Values(Way{.name = "raw_ring", .ring = true},
                                         Way{.name = "qcow2", .qcow2 = true}),
                         [](const auto& info) { return info.param.name; });

TEST(BlockOpen, AGuessedRawDiskCannotBecomeAnImage)
{
    const ScratchFolder folder;
    make_raw(folder.file("disk"), 1 << 20);
    std::vector<std::byte> header(512);
    std::memcpy(header.data(), "QFI\xfb", 4);
    BlockOptions options;
    options.path = folder.file("disk");
    for (const bool ring : {false, true}) {
        options.use_io_uring = ring;
        options.format = ImageFormat::probe;
        {
            Disk guessed{options};
            ASSERT_TRUE(guessed.backend) << guessed.error;
            EXPECT_EQ(guessed.write(0, header), Status::io_error);
            EXPECT_EQ(guessed.write(512, header), Status::ok);
        }
        options.format = ImageFormat::raw;
        {
            Disk named{options};
            ASSERT_TRUE(named.backend) << named.error;
            EXPECT_EQ(named.write(0, header), Status::ok);
            EXPECT_EQ(named.zero(0, 512), Status::ok);
        }
    }
}

TEST(BlockOpen, SaysWhatIsWrong)
{
    const ScratchFolder folder;
    BlockOptions options;
    options.path = folder.file("missing");
    EXPECT_NE(Disk{options}.error.find("No such file"), std::string::npos);
    options.path = folder.file("");
    EXPECT_FALSE(Disk{options}.error.empty());
    make_raw(folder.file("disk"), 4096);
    options.path = folder.file("disk");
    options.format = ImageFormat::qcow2;
    EXPECT_NE(Disk{options}.error.find("not a qcow2 image"), std::string::npos);
    options.path = "nbd+unix:///?socket=" + folder.file("nobody");
    options.format = ImageFormat::raw;
    EXPECT_NE(Disk{options}.error.find("Cannot connect"), std::string::npos);
}

TEST(BlockOpen, BackingFilesInACircleAreRefused)
{
    const ScratchFolder folder;
    qcow2::CreateOptions image;
    image.size = 1 << 20;
    image.backing_format = "qcow2";
    image.backing_file = "b";
    make_qcow2(folder.file("a"), image);
    image.backing_file = "a";
    make_qcow2(folder.file("b"), image);
    BlockOptions options;
    options.path = folder.file("a");
    options.read_only = true;
    EXPECT_NE(Disk{options}.error.find("its own backing file"), std::string::npos);
}

TEST(BlockOpen, ABackingFileNamesNoServer)
{
    const ScratchFolder folder;
    qcow2::CreateOptions image;
    image.size = 1 << 20;
    image.backing_format = "raw";
    for (const char* name : {"nbd://example.org/x", "json:{\"driver\":\"null\"}", "http://x/y"}) {
        image.backing_file = name;
        make_qcow2(folder.file("a"), image);
        BlockOptions options;
        options.path = folder.file("a");
        EXPECT_NE(Disk{options}.error.find("not a plain file name"), std::string::npos);
    }
}

TEST(Throttle, HoldsTheRateAfterTheBurst)
{
    const ScratchFolder folder;
    make_raw(folder.file("disk"), 1 << 20);
    BlockOptions options;
    options.path = folder.file("disk");
    options.throttle.requests = 200;
    options.throttle.burst_requests = 20;
    Disk disk{options};
    ASSERT_TRUE(disk.backend) << disk.error;
    std::vector<std::byte> bytes(512);
    const iovec buffer{bytes.data(), bytes.size()};
    int done = 0;
    const auto start = std::chrono::steady_clock::now();
    std::thread stopper{[&] {
        std::this_thread::sleep_for(std::chrono::milliseconds{500});
        disk.loop->stop();
    }};
    for (int i = 0; i < 1000; ++i) {
        Request request{.kind = Request::Kind::read, .length = 512, .buffers = {&buffer, 1},
                        .done = {}};
        request.done = [&](Status status) { done += status == Status::ok ? 1 : 0; };
        disk.backend->submit(std::move(request));
    }
    disk.loop->run();
    stopper.join();
    const auto spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start);
    // 20 at once, then 200 a second; a busy machine may do less, never more.
    EXPECT_LE(done, static_cast<int>(22 + 200 * spent.count()));
    EXPECT_GE(done, 21);
    disk.backend->drain();  // does not wait for the limits
    EXPECT_EQ(done, 1000);
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 3.0);
}

}  // namespace
}  // namespace doppel::backends
