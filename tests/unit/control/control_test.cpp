// Server and clients over real sockets, with statistics of the test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "control/client.h"
#include "control/runtime_dir.h"
#include "control/server.h"
#include "control/stats_message.h"
#include "control/unix_socket.h"

namespace doppel::control {
namespace {

using testing::HasSubstr;

vm::VmStats example(std::size_t counters = 3)
{
    vm::VmStats stats;
    stats.engine = "interpret";
    stats.wall_seconds = 1.5;
    stats.instructions = 3'000'000;
    for (std::size_t i = 0; i < counters; ++i) {
        stats.counters.add("some.counter_" + std::to_string(i), ~std::uint64_t{0} - i);
    }
    return stats;
}

class Control : public testing::Test {
protected:
    void SetUp() override
    {
        dir_ = (std::filesystem::temp_directory_path() / "doppel-control-XXXXXX").string();
        ASSERT_NE(::mkdtemp(dir_.data()), nullptr);
        loop_ = std::move(base::EventLoop::create()).value();
        thread_ = std::thread{[this] { loop_->run(); }};
    }
    void TearDown() override
    {
        on_loop([this] { server_.reset(); });
        loop_->stop();
        thread_.join();
        std::filesystem::remove_all(dir_);
    }
    void on_loop(std::function<void()> work)
    {
        std::atomic<bool> done{false};
        loop_->post([&] {
            work();
            done = true;
            done.notify_all();
        });
        done.wait(false);
    }
    base::Result<void> serve(pid_t pid, std::size_t counters = 3)
    {
        std::optional<base::Error> error;
        on_loop([&] {
            auto server = Server::create(*loop_, socket_path(dir_, pid),
                                         [this, counters](const std::function<void(vm::VmStats)>& reply) {
                                             if (held_ != nullptr) {
                                                 held_->push_back(reply);
                                             } else {
                                                 reply(example(counters));
                                             }
                                         });
            if (server) {
                server_ = std::move(*server);
            } else {
                error = server.error();
            }
        });
        if (error) return *error;
        return {};
    }
    base::Fd raw_client(pid_t pid)
    {
        base::Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        const auto address = unix_address(socket_path(dir_, pid));
        EXPECT_EQ(::connect(fd.get(), as_generic(*address), sizeof *address), 0);
        return fd;
    }
    static void send(const base::Fd& fd, std::string_view text)
    {
        static_cast<void>(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL));
    }
    static std::string read_line(const base::Fd& fd)
    {
        std::string line;
        for (char c = 0; c != '\n' && ::read(fd.get(), &c, 1) == 1;) line += c;
        return line;
    }

    std::string dir_;
    std::unique_ptr<base::EventLoop> loop_;
    std::thread thread_;
    std::unique_ptr<Server> server_;
    std::vector<std::function<void(vm::VmStats)>>* held_ = nullptr;
};

TEST_F(Control, AsksAgainOnOneConnection)
{
    ASSERT_TRUE(serve(77));
    auto client = Client::connect(dir_, 77);
    ASSERT_TRUE(client) << client.error().text();
    for (int i = 0; i < 3; ++i) {
        const auto stats = client->stats();
        ASSERT_TRUE(stats && *stats);
        EXPECT_EQ((*stats)->engine, "interpret");
        EXPECT_EQ((*stats)->wall_seconds, 1.5);
        EXPECT_EQ((*stats)->instructions, 3'000'000u);
        EXPECT_EQ((*stats)->counters.values(), example().counters.values());
    }
    on_loop([this] { server_.reset(); });
    const auto after = client->stats();
    ASSERT_TRUE(after);
    EXPECT_FALSE(after->has_value());
    EXPECT_FALSE(std::filesystem::exists(socket_path(dir_, 77)));
}

TEST_F(Control, WhatIsNoRequestIsAnsweredSo)
{
    ASSERT_TRUE(serve(77));
    const base::Fd client = raw_client(77);
    send(client, "stat\n\nstats\n");
    EXPECT_THAT(read_line(client), HasSubstr("error"));
    EXPECT_THAT(read_line(client), HasSubstr("error"));
    EXPECT_THAT(read_line(client), HasSubstr("wall_seconds"));
    const base::Fd endless = raw_client(77);
    send(endless, std::string(2 * Server::request_max, 'x'));
    EXPECT_EQ(read_line(endless), "");  // dropped
    EXPECT_TRUE(Client::connect(dir_, 77)->stats());
}

TEST_F(Control, AClientThatDoesNotReadHoldsUpNobody)
{
    ASSERT_TRUE(serve(77, 20'000));
    const base::Fd slow = raw_client(77);
    for (int i = 0; i < 5; ++i) send(slow, "stats\n");
    for (int i = 0; i < 3; ++i) {
        auto client = Client::connect(dir_, 77);
        ASSERT_TRUE(client);
        const auto stats = client->stats();
        ASSERT_TRUE(stats && *stats);
        EXPECT_EQ((*stats)->counters.values().size(), 20'000u);
    }
    std::size_t lines = 0;
    for (std::array<char, 65536> bytes{}; lines < 5;) {
        const ssize_t size = ::read(slow.get(), bytes.data(), bytes.size());
        ASSERT_GT(size, 0);
        lines += static_cast<std::size_t>(std::count(bytes.begin(), bytes.begin() + size, '\n'));
    }
    EXPECT_EQ(lines, 5u);
}

TEST_F(Control, ClientAndServerMayEndBeforeTheAnswer)
{
    std::vector<std::function<void(vm::VmStats)>> held;
    held_ = &held;
    ASSERT_TRUE(serve(77));
    const auto waiting = [&] {
        std::size_t count = 0;
        on_loop([&] { count = held.size(); });
        return count;
    };
    {
        const base::Fd client = raw_client(77);
        send(client, "stats\n");
        while (waiting() < 1) std::this_thread::yield();
    }
    const base::Fd client = raw_client(77);
    send(client, "stats\n");
    while (waiting() < 2) std::this_thread::yield();
    on_loop([&] { held[0](example()); });
    on_loop([this] { server_.reset(); });
    on_loop([&] { held[1](example()); });
    EXPECT_EQ(read_line(client), "");
}

TEST_F(Control, TooManyClientsAreTurnedAway)
{
    ASSERT_TRUE(serve(77));
    std::vector<base::Fd> clients;
    for (std::size_t i = 0; i < Server::clients_max; ++i) {
        clients.push_back(raw_client(77));
        send(clients.back(), "stats\n");
        EXPECT_NE(read_line(clients.back()), "");
    }
    const base::Fd more = raw_client(77);
    EXPECT_EQ(read_line(more), "");
    send(clients.front(), "stats\n");
    EXPECT_NE(read_line(clients.front()), "");
}

TEST_F(Control, SocketsLeftBehind)
{
    ASSERT_TRUE(serve(77));
    {
        // What a killed VM leaves.
        const base::Fd gone{::socket(AF_UNIX, SOCK_STREAM, 0)};
        const auto address = unix_address(socket_path(dir_, 78));
        ASSERT_EQ(::bind(gone.get(), as_generic(*address), sizeof *address), 0);
    }
    EXPECT_EQ(sockets_in(dir_), (std::vector<pid_t>{77, 78}));
    EXPECT_FALSE(Client::connect(dir_, 78));
    EXPECT_EQ(running_vms(dir_), std::vector<pid_t>{77});
    EXPECT_EQ(sockets_in(dir_), std::vector<pid_t>{77});
    const auto nobody = Client::connect(dir_, 79);
    ASSERT_FALSE(nobody);
    EXPECT_THAT(nobody.error().text(), HasSubstr("79"));
    // A new VM takes the place of a dead one, not of a living one.
    std::unique_ptr<Server> first = std::move(server_);
    EXPECT_FALSE(serve(77));
    on_loop([&] { first.reset(); });
    EXPECT_TRUE(serve(77));
}

TEST_F(Control, FoldersThatAreNotOurs)
{
    ::setenv("XDG_RUNTIME_DIR", dir_.c_str(), 1);
    const auto missing = runtime_dir(Missing::fail);
    ASSERT_FALSE(missing);
    EXPECT_THAT(missing.error().text(), HasSubstr(dir_));
    const auto made = runtime_dir(Missing::create);
    ASSERT_TRUE(made);
    struct stat status {};
    ASSERT_EQ(::stat(made->c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);
    ::chmod(made->c_str(), 0755);
    EXPECT_FALSE(runtime_dir(Missing::fail));
    std::filesystem::remove(*made);
    std::filesystem::create_symlink("/tmp", *made);
    EXPECT_FALSE(runtime_dir(Missing::create));
    ::unsetenv("XDG_RUNTIME_DIR");
}

TEST(StatsMessage, HostileAnswers)
{
    for (const char* text : {"", "{", "[]", "3", "{}", R"({"engine":1})",
                             R"({"engine":"x","wall_seconds":"y","instructions":null,"counters":{}})",
                             R"({"engine":"x","wall_seconds":1,"instructions":-1,"counters":{}})",
                             R"({"engine":"x","wall_seconds":1,"instructions":1,"counters":{"a":"b"}})"}) {
        EXPECT_FALSE(parse_stats(text)) << text;
    }
    const auto colours =
        parse_stats("{\"engine\":\"\\u001b[31m\",\"wall_seconds\":1,\"instructions\":null,\"counters\":{}}");
    ASSERT_TRUE(colours);
    EXPECT_EQ(colours->engine, "?[31m");
    EXPECT_FALSE(colours->instructions);
}

}  // namespace
}  // namespace doppel::control
