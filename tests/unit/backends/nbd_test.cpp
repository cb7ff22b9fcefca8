// Disks of a real NBD server, which goes away and comes back.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <thread>

#include "block_fixture.h"

extern char** environ;

namespace doppel::backends {
namespace {

class NbdDisk : public testing::Test {
protected:
    void SetUp() override
    {
        make_raw(folder_.file("export"), 4 << 20);
        options_.path = "nbd+unix:///?socket=" + folder_.file("socket");
        options_.format = ImageFormat::raw;
        if (!start()) GTEST_SKIP() << "no nbdkit";
    }
    void TearDown() override { stop(); }

    bool start()
    {
        std::filesystem::remove(folder_.file("socket"));
        std::string parts[]{"nbdkit", "-f", "-U", folder_.file("socket"), "file",
                            folder_.file("export")};
        std::vector<char*> arguments;
        for (auto& part : parts) arguments.push_back(part.data());
        arguments.push_back(nullptr);
        if (::posix_spawnp(&server_, "nbdkit", nullptr, nullptr, arguments.data(), environ) != 0) {
            server_ = -1;
            return false;
        }
        for (int i = 0; i < 1000 && !std::filesystem::exists(folder_.file("socket")); ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds{10});
        }
        return std::filesystem::exists(folder_.file("socket"));
    }
    void stop()
    {
        if (server_ <= 0) return;
        ::kill(server_, SIGKILL);
        ::waitpid(server_, nullptr, 0);
        server_ = -1;
    }

    ScratchFolder folder_;
    BlockOptions options_;
    pid_t server_ = -1;
};

TEST_F(NbdDisk, ReadsWritesAndZeroes)
{
    Disk disk{options_};
    ASSERT_TRUE(disk.backend) << disk.error;
    EXPECT_EQ(disk.backend->properties().size, 4u << 20);
    const auto bytes = pattern(300000 / 512 * 512, 5);
    ASSERT_EQ(disk.write(1 << 20, bytes), Status::ok);
    ASSERT_EQ(disk.zero((1 << 20) + 512, 4096), Status::ok);
    ASSERT_EQ(disk.discard(2 << 20, 1 << 20), Status::ok);
    ASSERT_EQ(disk.flush(), Status::ok);
    auto expected = bytes;
    std::fill_n(expected.begin() + 512, 4096, std::byte{0});
    std::vector<std::byte> found(bytes.size());
    ASSERT_EQ(disk.read(1 << 20, found), Status::ok);
    EXPECT_EQ(found, expected);
}

TEST_F(NbdDisk, AServerThatComesBackIsUsedAgainAndOneFlushTellsOfTheLoss)
{
    Disk disk{options_};
    ASSERT_TRUE(disk.backend) << disk.error;
    const auto bytes = pattern(4096, 6);
    ASSERT_EQ(disk.write(0, bytes), Status::ok);
    ASSERT_EQ(disk.flush(), Status::ok);
    ASSERT_EQ(disk.write(4096, bytes), Status::ok);
    stop();
    std::vector<std::byte> found(4096);
    EXPECT_EQ(disk.read(0, found), Status::io_error);
    EXPECT_EQ(disk.write(8192, bytes), Status::io_error);
    ASSERT_TRUE(start());
    // Each connection finds out for itself that its server is gone.
    Status status = Status::io_error;
    for (int i = 0; i < 8 && status != Status::ok; ++i) status = disk.read(0, found);
    EXPECT_EQ(status, Status::ok);
    EXPECT_EQ(found, bytes);
    int failed = 0;
    for (int i = 0; i < 8 && (status = disk.flush()) != Status::ok; ++i) ++failed;
    EXPECT_EQ(status, Status::ok);
    EXPECT_GE(failed, 1) << "the second write was not flushed to the server that died";
}

}  // namespace
}  // namespace doppel::backends
