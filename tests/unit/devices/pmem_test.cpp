// Persistent memory through its transport: flushes, and what is none.
#include <gtest/gtest.h>

#include "devices/virtio/pmem/pmem.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

constexpr std::uint64_t request_at = 0x80000, answer_at = 0x81000;

// Flushes when it is told to.
struct SlowFile final : backends::BlockBackend {
    explicit SlowFile(base::EventLoop& loop) : BlockBackend(loop, {.size = 2 << 20})
    {
        EXPECT_TRUE(watch());
    }
    void start(std::span<backends::Request> requests) noexcept override
    {
        for (backends::Request& request : requests) waiting.push_back(std::move(request));
    }
    void hurry() noexcept override { end(backends::Status::ok); }
    void end(backends::Status status)
    {
        for (backends::Request& request : std::exchange(waiting, {})) {
            EXPECT_EQ(request.kind, backends::Request::Kind::flush);
            finish(std::move(request), status);
        }
    }
    std::vector<backends::Request> waiting;
};

struct PmemTest : testing::Test {
    VirtioWorld world;
    SlowFile* file = nullptr;
    std::unique_ptr<PciDriver> driver;
    std::unique_ptr<TestDriver> ring;

    PmemTest()
    {
        const auto make = [this](base::EventLoop& loop) -> base::Result<std::unique_ptr<Device>> {
            auto backend = std::make_unique<SlowFile>(loop);
            file = backend.get();
            return std::unique_ptr<Device>{
                std::make_unique<Pmem>(std::move(backend), PmemConfig{0x140000000, 2 << 20})};
        };
        driver = std::make_unique<PciDriver>(world, world.frontend(make));
        EXPECT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1));
        ring = std::make_unique<TestDriver>(*world.memory, 16, 0);
        driver->set_queue(0, ring->address(), 0);
        driver->ready();
    }
    void request(std::uint32_t type, std::uint32_t size = 4, std::uint32_t room = 4)
    {
        ring->put(request_at, type);
        ring->put(answer_at, std::uint32_t{0xeeeeeeee});
        ring->add({{request_at, size}, {answer_at, room, true}});
        driver->ring(0);
    }
    std::uint32_t answer() { return ring->get<std::uint32_t>(answer_at); }
    [[nodiscard]] bool broken() { return (driver->in(0x14, 1) & status::DEVICE_NEEDS_RESET) != 0; }
};

TEST_F(PmemTest, TellsItsPlace)
{
    EXPECT_EQ(driver->in(0x2000, 8), 0x140000000u);
    EXPECT_EQ(driver->in(0x2008, 8), 2u << 20);
}

TEST_F(PmemTest, AnswersWhenItIsDurable)
{
    request(VIRTIO_PMEM_REQ_TYPE_FLUSH);
    EXPECT_FALSE(ring->take());
    EXPECT_EQ(file->waiting.size(), 1u);
    file->end(backends::Status::ok);
    driver->pump();
    EXPECT_EQ(ring->take()->written, 4u);
    EXPECT_EQ(answer(), 0u);
    request(VIRTIO_PMEM_REQ_TYPE_FLUSH);
    file->end(backends::Status::io_error);
    driver->pump();
    ASSERT_TRUE(ring->take());
    EXPECT_NE(answer(), 0u);
    EXPECT_NE(answer(), 0xeeeeeeeeu);
}

TEST_F(PmemTest, OtherRequestsFail)
{
    request(1);
    ASSERT_TRUE(ring->take());
    EXPECT_EQ(answer(), ~0u);
    request(VIRTIO_PMEM_REQ_TYPE_FLUSH, 3);
    ASSERT_TRUE(ring->take());
    EXPECT_EQ(answer(), ~0u);
    EXPECT_TRUE(file->waiting.empty());
    EXPECT_FALSE(broken());
    request(1, 4, 3);
    EXPECT_TRUE(broken());
}

TEST_F(PmemTest, ResetAndSavingWaitForFlushes)
{
    request(VIRTIO_PMEM_REQ_TYPE_FLUSH);
    base::StateWriter writer;
    {
        const auto guard = world.bus.lock();
        driver->transport.save(writer);
    }
    EXPECT_TRUE(file->waiting.empty());
    ASSERT_TRUE(ring->take());
    EXPECT_EQ(answer(), 0u);
    request(VIRTIO_PMEM_REQ_TYPE_FLUSH);
    driver->out(0x14, 0, 1);
    EXPECT_TRUE(file->waiting.empty());
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(reader);
    const auto guard = world.bus.lock();
    EXPECT_TRUE(driver->transport.load(*reader));
}

}  // namespace
}  // namespace doppel::devices::virtio
