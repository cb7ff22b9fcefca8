// The SCSI host through its transport, over files.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "devices/virtio/scsi/big_endian.h"
#include "devices/virtio/scsi/scsi.h"
#include "virtio_machine.h"

namespace doppel::devices::virtio {
namespace {

constexpr std::uint64_t request_at = 0x80000, response_at = 0x81000, data_at = 0x90000;
constexpr std::uint32_t cdb_room = 32, sense_room = 96;

struct ScsiTest : testing::Test {
    static constexpr std::uint64_t size = 1 << 20;
    VirtioWorld world;
    std::string path = "/tmp/doppel-scsi-XXXXXX";
    bool read_only = false;
    std::unique_ptr<PciDriver> driver;
    std::unique_ptr<TestDriver> control, commands;
    ScsiLun lun{1, 0, 0x40, 0};
    std::uint32_t written = 0;

    ScsiTest()
    {
        const base::Fd fd{::mkstemp(path.data())};
        EXPECT_EQ(::ftruncate(fd.get(), size), 0);
        start();
    }
    ~ScsiTest() override { ::unlink(path.c_str()); }
    void start()
    {
        const auto make = [this](base::EventLoop& loop) -> base::Result<std::unique_ptr<Device>> {
            backends::BlockOptions options;
            options.path = path;
            options.format = backends::ImageFormat::raw;
            options.read_only = read_only;
            std::vector<Scsi::Disk> disks;
            disks.push_back({TRY(backends::open_block(options, loop)), "serial-1"});
            return std::unique_ptr<Device>{std::make_unique<Scsi>(std::move(disks))};
        };
        driver.reset();  // and its lock on the file
        driver = std::make_unique<PciDriver>(world, world.frontend(make));
        set_up();
    }
    void set_up()
    {
        world.memory->clear();
        EXPECT_TRUE(driver->negotiate(VIRTIO_F_VERSION_1));
        control = std::make_unique<TestDriver>(*world.memory, 16, 0, 0x10000);
        commands = std::make_unique<TestDriver>(*world.memory, 16, 0, 0x20000);
        driver->set_queue(0, control->address(), 0);
        driver->set_queue(2, commands->address(), 0);
        driver->ready();
    }
    ScsiResponse command(std::initializer_list<unsigned> cdb, std::uint32_t out, std::uint32_t in)
    {
        std::array<std::uint8_t, cdb_room> bytes{};
        std::size_t at = 0;
        for (const unsigned byte : cdb) bytes.at(at++) = static_cast<std::uint8_t>(byte);
        commands->put(request_at, ScsiRequest{lun, 7, 0, 0, 0});
        commands->put(request_at + sizeof(ScsiRequest), bytes);
        commands->put(response_at, ~std::uint64_t{0});
        std::vector<Buffer> buffers{{request_at, sizeof(ScsiRequest) + cdb_room}};
        if (out != 0) buffers.push_back({data_at, out});
        buffers.push_back({response_at, sizeof(ScsiResponse) + sense_room, true});
        if (in != 0) buffers.push_back({data_at, in, true});
        commands->add(buffers);
        driver->out(0x3000 + 4 * 2, 2, 2);
        for (int i = 0; i < 5000; ++i) {
            driver->pump();
            if (const auto used = commands->take()) {
                written = used->written;
                return commands->get<ScsiResponse>(response_at);
            }
            ::usleep(1000);
        }
        ADD_FAILURE() << "no answer";
        return {};
    }
    static constexpr std::uint8_t result(ScsiResult value) { return static_cast<std::uint8_t>(value); }
    void good(const ScsiResponse& response, std::uint32_t residual = 0)
    {
        EXPECT_EQ(response.response, result(ScsiResult::VIRTIO_SCSI_S_OK));
        EXPECT_EQ(response.status, scsi::GOOD);
        EXPECT_EQ(response.residual, residual);
        EXPECT_EQ(response.sense_len, 0u);
    }
    void check(const ScsiResponse& response, const scsi::Sense& wanted)
    {
        EXPECT_EQ(response.response, result(ScsiResult::VIRTIO_SCSI_S_OK));
        EXPECT_EQ(response.status, scsi::CHECK_CONDITION);
        ASSERT_EQ(response.sense_len, scsi::sense_size);
        const auto sense =
            commands->get<std::array<std::byte, scsi::sense_size>>(response_at + sizeof response);
        EXPECT_EQ(sense, scsi::sense_bytes(wanted));
    }
    unsigned manage(std::uint32_t type, ScsiTask task, std::uint32_t answer_size = 1)
    {
        control->put(request_at, ScsiTaskRequest{type, task, lun, 7});
        control->put(response_at, ~std::uint64_t{0});
        control->add({{request_at, sizeof(ScsiTaskRequest)}, {response_at, answer_size, true}});
        driver->ring(0);
        EXPECT_TRUE(control->take());
        return control->get<std::uint8_t>(response_at + answer_size - 1);
    }
    void fill(unsigned value, std::size_t count)
    {
        const std::vector<std::byte> bytes(count, static_cast<std::byte>(value));
        EXPECT_TRUE(world.memory->write(base::Gpa{data_at}, bytes));
    }
    [[nodiscard]] unsigned data(std::uint64_t at) { return commands->get<std::uint8_t>(data_at + at); }
    unsigned on_disk(off_t at)
    {
        const base::Fd fd{::open(path.c_str(), O_RDONLY)};
        std::uint8_t byte = 0;
        EXPECT_EQ(::pread(fd.get(), &byte, 1, at), 1);
        return byte;
    }
    [[nodiscard]] bool broken() { return (driver->in(0x14, 1) & status::DEVICE_NEEDS_RESET) != 0; }
};

TEST_F(ScsiTest, WritesFlushesAndReads)
{
    fill(0x5a, 1024);
    good(command({0x2a, 0, 0, 0, 0, 3, 0, 0, 2}, 1024, 0));
    EXPECT_EQ(written, sizeof(ScsiResponse) + sense_room);
    EXPECT_EQ(on_disk(3 * 512), 0x5au);
    EXPECT_EQ(on_disk(5 * 512), 0u);
    good(command({0x35}, 0, 0));
    fill(0, 1024);
    good(command({0x28, 0, 0, 0, 0, 3, 0, 0, 2}, 0, 4096), 4096 - 1024);
    EXPECT_EQ(written, sizeof(ScsiResponse) + sense_room + 1024);
    EXPECT_EQ(data(1023), 0x5au);
}

TEST_F(ScsiTest, AnswersWithData)
{
    good(command({0x12, 0, 0, 0, 36}, 0, 36));
    EXPECT_EQ(data(8), static_cast<unsigned>('d'));
    good(command({0x12, 0, 0, 0, 5}, 0, 36), 31);
    good(command({0x25}, 0, 8));
    EXPECT_EQ(data(2), 0x07u);  // 2047 is the last block
    EXPECT_EQ(data(3), 0xffu);
}

TEST_F(ScsiTest, SenseIsInTheAnswer)
{
    check(command({0x28, 0, 0, 0, 0x10, 0, 0, 0, 1}, 0, 512), scsi::block_out_of_range);
    check(command({0x5f}, 0, 0), scsi::invalid_opcode);
    driver->out(0x2000 + 20, 4, 4);  // as much sense as the driver wants
    EXPECT_EQ(driver->in(0x2000 + 20, 4), 4u);
    driver->out(0x2000 + 20, 1 << 20, 4);
    EXPECT_EQ(driver->in(0x2000 + 20, 4), 4u);
    EXPECT_EQ(command({0x5f}, 0, 0).sense_len, 4u);
}

TEST_F(ScsiTest, TooLittleRoom)
{
    EXPECT_EQ(command({0x28, 0, 0, 0, 0, 0, 0, 0, 2}, 0, 512).response,
              result(ScsiResult::VIRTIO_SCSI_S_OVERRUN));
    EXPECT_EQ(command({0x2a, 0, 0, 0, 0, 0, 0, 0, 2}, 512, 0).response,
              result(ScsiResult::VIRTIO_SCSI_S_OVERRUN));
    EXPECT_EQ(command({0x12, 0, 0, 0, 36}, 0, 35).response,
              result(ScsiResult::VIRTIO_SCSI_S_OVERRUN));
    EXPECT_EQ(command({0x42, 0, 0, 0, 0, 0, 0, 0, 24}, 16, 0).response,
              result(ScsiResult::VIRTIO_SCSI_S_OVERRUN));
    EXPECT_EQ(command({0x41, 0, 0, 0, 0, 0, 0, 0, 1}, 511, 0).response,
              result(ScsiResult::VIRTIO_SCSI_S_OVERRUN));
    EXPECT_FALSE(broken());
}

TEST_F(ScsiTest, PatternsAndZeros)
{
    fill(0xab, 512);
    good(command({0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0}, 512, 0));  // 256 blocks
    EXPECT_EQ(on_disk(0), 0u);
    EXPECT_EQ(on_disk(512), 0xabu);
    EXPECT_EQ(on_disk(257 * 512 - 1), 0xabu);
    EXPECT_EQ(on_disk(257 * 512), 0u);
    good(command({0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2}, 0, 0));  // no block, unmap
    EXPECT_EQ(on_disk(512), 0xabu);
    EXPECT_EQ(on_disk(2 * 512), 0u);
    EXPECT_EQ(on_disk(4 * 512), 0xabu);
    fill(0, 512);
    good(command({0x41, 0, 0, 0, 0, 4, 0, 0, 1}, 512, 0));
    EXPECT_EQ(on_disk(4 * 512), 0u);
}

TEST_F(ScsiTest, UnmapsSeveralRanges)
{
    std::array<std::byte, 40> list{};
    scsi::put_big_endian(list, 2, std::uint16_t{32});
    scsi::put_big_endian(list, 8, std::uint64_t{8});
    scsi::put_big_endian(list, 16, std::uint32_t{8});
    scsi::put_big_endian(list, 24, std::uint64_t{64});
    scsi::put_big_endian(list, 32, std::uint32_t{8});
    EXPECT_TRUE(world.memory->write(base::Gpa{data_at}, list));
    good(command({0x42, 0, 0, 0, 0, 0, 0, 0, 40}, 40, 0));
    scsi::put_big_endian(list, 24, ~std::uint64_t{0});
    EXPECT_TRUE(world.memory->write(base::Gpa{data_at}, list));
    check(command({0x42, 0, 0, 0, 0, 0, 0, 0, 40}, 40, 0), scsi::block_out_of_range);
}

TEST_F(ScsiTest, OtherTargetsAndUnits)
{
    lun = {1, 1, 0x40, 0};
    EXPECT_EQ(command({0x00}, 0, 0).response, result(ScsiResult::VIRTIO_SCSI_S_BAD_TARGET));
    lun = {0xc1, 1, 0, 0};
    EXPECT_EQ(command({0xa0}, 0, 0).response, result(ScsiResult::VIRTIO_SCSI_S_BAD_TARGET));
    for (const ScsiLun& missing : {ScsiLun{1, 0, 0x40, 1}, ScsiLun{1, 0, 0xc0, 0},
                                   ScsiLun{1, 0, 0x40, 0, 0, 0, 0, 1}}) {
        lun = missing;
        check(command({0x00}, 0, 0), scsi::unit_not_supported);
    }
    lun = {1, 0, 0, 0};
    good(command({0x00}, 0, 0));
}

TEST_F(ScsiTest, ReadOnly)
{
    read_only = true;
    start();
    check(command({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512, 0), scsi::write_protected);
    good(command({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 0, 512));
}

TEST_F(ScsiTest, TaskManagement)
{
    using enum ScsiTask;
    const auto ok = result(ScsiResult::VIRTIO_SCSI_S_OK);
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, VIRTIO_SCSI_T_TMF_ABORT_TASK), ok);
    good(command({0x00}, 0, 0));
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET), ok);
    good(command({0x12, 0, 0, 0, 5}, 0, 5));
    check(command({0x00}, 0, 0), scsi::reset_occurred);
    good(command({0x00}, 0, 0));
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, VIRTIO_SCSI_T_TMF_CLEAR_ACA),
              result(ScsiResult::VIRTIO_SCSI_S_FUNCTION_REJECTED));
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, static_cast<ScsiTask>(99)),
              result(ScsiResult::VIRTIO_SCSI_S_FUNCTION_REJECTED));
    EXPECT_EQ(manage(VIRTIO_SCSI_T_AN_QUERY, {}, 5), ok);
    EXPECT_EQ(manage(17, {}), result(ScsiResult::VIRTIO_SCSI_S_FAILURE));
    lun = {1, 0, 0x40, 3};
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET),
              result(ScsiResult::VIRTIO_SCSI_S_INCORRECT_LUN));
    lun = {1, 9, 0x40, 0};
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, VIRTIO_SCSI_T_TMF_ABORT_TASK),
              result(ScsiResult::VIRTIO_SCSI_S_BAD_TARGET));
    EXPECT_FALSE(broken());
}

TEST_F(ScsiTest, BrokenCommands)
{
    commands->add({{request_at, sizeof(ScsiRequest) + cdb_room}, {response_at, 107, true}});
    driver->ring(2);
    EXPECT_TRUE(broken());
    set_up();
    EXPECT_FALSE(broken());
    commands->add({{request_at, sizeof(ScsiRequest) + 31}, {response_at, 108, true}});
    driver->ring(2);
    EXPECT_TRUE(broken());
}

TEST_F(ScsiTest, SavedStateIsChecked)
{
    EXPECT_EQ(manage(VIRTIO_SCSI_T_TMF, ScsiTask::VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET), 0u);
    driver->out(0x2000 + 20, 64, 4);
    const auto save = [&](unsigned sense) {
        driver->out(0x2000 + 20, sense, 4);
        base::StateWriter writer;
        const auto guard = world.bus.lock();
        driver->transport.save(writer);
        return writer.finish();
    };
    const auto stream = save(sense_room);
    driver->out(0x2000 + 20, 8, 4);
    {
        const auto reader = base::StateReader::open(stream);
        ASSERT_TRUE(reader);
        const auto guard = world.bus.lock();
        ASSERT_TRUE(driver->transport.load(*reader));
    }
    EXPECT_EQ(driver->in(0x2000 + 20, 4), sense_room);
    check(command({0x00}, 0, 0), scsi::reset_occurred);

    struct {
        std::uint32_t sense_size = 1000, cdb_size = 32;
        std::array<std::uint8_t, Scsi::most_disks> attention{};
    } state;
    backends::BlockOptions options;
    options.path = path;
    options.read_only = true;
    driver.reset();
    auto loop = std::move(base::EventLoop::create()).value();
    std::vector<Scsi::Disk> disks;
    disks.push_back({std::move(backends::open_block(options, *loop)).value(), "x"});
    Scsi scsi{std::move(disks)};
    const auto loads = [&] {
        base::StateWriter writer;
        writer.section("scsi", 1, state);
        const auto bytes = writer.finish();
        return scsi.load(*base::StateReader::open(bytes), "scsi").has_value();
    };
    EXPECT_FALSE(loads());
    state.sense_size = 96;
    EXPECT_TRUE(loads());
    state.cdb_size = 261;
    EXPECT_FALSE(loads());
    state.cdb_size = 32;
    state.attention[1] = 1;
    EXPECT_FALSE(loads()) << "of a disk that is not there";
}

}  // namespace
}  // namespace doppel::devices::virtio
