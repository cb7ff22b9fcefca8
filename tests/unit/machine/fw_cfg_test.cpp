#include "machine/fw_cfg/fw_cfg.h"

#include <gtest/gtest.h>

#include "base/bytes.h"

namespace doppel::machine {
namespace {

class FwCfgTest : public testing::Test {
protected:
    void SetUp() override
    {
        auto created = memory::GuestMemory::create(1 << 20);
        ASSERT_TRUE(created);
        memory_ = std::move(*created);
        ASSERT_TRUE(memory_->add_slot(base::Gpa{0}, 1 << 20, 0));
        device_ = std::make_unique<FwCfg>(*memory_);
    }
    void select(std::uint16_t key)
    {
        device_->write(0, std::as_bytes(std::span{&key, 1}));
    }
    std::uint64_t read(std::size_t count)
    {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < count; ++i) {
            std::uint8_t byte = 0;
            device_->read(1, std::as_writable_bytes(std::span{&byte, 1}));
            value |= std::uint64_t{byte} << (8 * i);
        }
        return value;
    }
    std::uint32_t dma(std::uint32_t control, std::uint32_t length, std::uint64_t address)
    {
        const std::uint32_t request[2] = {__builtin_bswap32(control), __builtin_bswap32(length)};
        const std::uint64_t to = __builtin_bswap64(address);
        EXPECT_TRUE(memory_->write(base::Gpa{0x1000}, std::as_bytes(std::span{request})));
        EXPECT_TRUE(memory_->write_value(base::Gpa{0x1008}, to));
        const std::uint32_t high = 0, low = __builtin_bswap32(0x1000);
        device_->write(4, std::as_bytes(std::span{&high, 1}));
        device_->write(8, std::as_bytes(std::span{&low, 1}));
        std::uint32_t result = 0;
        EXPECT_TRUE(memory_->read_value(base::Gpa{0x1000}, result));
        return __builtin_bswap32(result);
    }
    std::unique_ptr<memory::GuestMemory> memory_;
    std::unique_ptr<FwCfg> device_;
};

TEST_F(FwCfgTest, SignatureAndUnknownKeys)
{
    select(0);
    EXPECT_EQ(read(4), 0x554d4551u);
    EXPECT_EQ(read(4), 0u);  // past the end
    select(1);
    EXPECT_EQ(read(4), 3u);
    select(0x7777);
    EXPECT_EQ(read(8), 0u);
}

TEST_F(FwCfgTest, FilesAreListedByNameAndRead)
{
    device_->add_file("etc/zz", {std::byte{1}, std::byte{2}});
    device_->add_file("etc/aa", {std::byte{9}});
    select(0x19);
    EXPECT_EQ(__builtin_bswap32(static_cast<std::uint32_t>(read(4))), 2u);
    EXPECT_EQ(__builtin_bswap32(static_cast<std::uint32_t>(read(4))), 1u);
    EXPECT_EQ(__builtin_bswap16(static_cast<std::uint16_t>(read(2))), 0x20u);
    read(2);
    EXPECT_EQ(read(6), 0x61612f637465u);
    select(0x21);
    EXPECT_EQ(read(2), 0x0201u);
}

TEST_F(FwCfgTest, DmaSelectsReadsAndSkips)
{
    device_->add_u64(FwCfg::Key::ram_size, 0x1122334455667788);
    EXPECT_EQ(dma((3u << 16) | 8 | 2, 10, 0x2000), 0u);
    std::uint64_t value = 0;
    ASSERT_TRUE(memory_->read_value(base::Gpa{0x2000}, value));
    EXPECT_EQ(value, 0x1122334455667788u);
    EXPECT_EQ(dma((3u << 16) | 8 | 4, 6, 0), 0u);
    EXPECT_EQ(read(2), 0x1122u);
}

TEST_F(FwCfgTest, DmaOutsideMemoryFails)
{
    EXPECT_EQ(dma((0u << 16) | 8 | 2, 4, 1 << 20), 1u);
    EXPECT_EQ(dma((0u << 16) | 8 | 2, 0xffffffff, 0xff000), 1u);
    EXPECT_EQ(dma((0u << 16) | 8 | 16, 4, 0x2000), 1u);  // writes are refused
    // A control structure that is not in memory is ignored.
    const std::uint32_t high = 0xffffffff, low = 0xffffffff;
    device_->write(4, std::as_bytes(std::span{&high, 1}));
    device_->write(8, std::as_bytes(std::span{&low, 1}));
}

TEST_F(FwCfgTest, StateRoundTripsAndIsChecked)
{
    select(0);
    read(2);
    base::StateWriter writer;
    device_->save(writer);
    const auto stream = writer.finish();
    const auto reader = base::StateReader::open(stream);
    ASSERT_TRUE(reader);
    device_->reset();
    ASSERT_TRUE(device_->load(*reader));
    EXPECT_EQ(read(2), 0x554du);

    base::StateWriter hostile;
    FwCfg::State state{};
    state.offset = 5;
    hostile.section("fw_cfg", 1, state);
    const auto bad = hostile.finish();
    const auto bad_reader = base::StateReader::open(bad);
    ASSERT_TRUE(bad_reader);
    EXPECT_FALSE(device_->load(*bad_reader));
}

}  // namespace
}  // namespace doppel::machine
