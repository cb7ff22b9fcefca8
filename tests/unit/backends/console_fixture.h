// What the tests of character backends share: an event loop on a thread of its own, and
// descriptors that close themselves.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "backends/character/character_backend.h"
#include "base/event_loop.h"
#include "base/fd.h"

namespace doppel::backends {

// True as soon as the condition is, false after a long time.
template <typename Condition>
bool eventually(const Condition& condition)
{
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (!condition()) {
        if (std::chrono::steady_clock::now() > until) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
    return true;
}

inline std::span<const std::byte> as_bytes(std::string_view text)
{
    return std::as_bytes(std::span{text});
}

class LoopThread {
public:
    LoopThread() : loop_(std::move(base::EventLoop::create()).value()) {}
    ~LoopThread() { stop(); }
    base::EventLoop& loop() { return *loop_; }
    void start() { thread_ = std::thread{[this] { loop_->run(); }}; }
    void stop()
    {
        if (!thread_.joinable()) return;
        loop_->stop();
        thread_.join();
    }

private:
    std::unique_ptr<base::EventLoop> loop_;
    std::thread thread_;
};

struct Pipe {
    Pipe()
    {
        int ends[2];
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        reader = base::Fd{ends[0]};
        writer = base::Fd{ends[1]};
    }
    base::Fd reader;
    base::Fd writer;
};

struct Pty {
    Pty()
    {
        int controller = -1;
        int terminal = -1;
        EXPECT_EQ(::openpty(&controller, &terminal, nullptr, nullptr, nullptr), 0);
        master = base::Fd{controller};
        slave = base::Fd{terminal};
    }
    base::Fd master;
    base::Fd slave;
};

inline void send_text(int fd, std::string_view text)
{
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        ASSERT_GT(written, 0);
        text.remove_prefix(static_cast<std::size_t>(written));
    }
}

// What comes until `size` bytes are there, the end, or a long time.
inline std::string receive_text(int fd, std::size_t size)
{
    std::string text;
    while (text.size() < size) {
        pollfd ready{fd, POLLIN, 0};
        if (::poll(&ready, 1, 20000) != 1) break;
        char buffer[4096];
        const ssize_t got = ::read(fd, buffer, std::min(sizeof buffer, size - text.size()));
        if (got <= 0) break;
        text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
}

// Input as a device takes it: until `size` bytes came, or a long time.
inline std::string take_input(CharacterBackend& backend, std::size_t size)
{
    std::string text;
    static_cast<void>(eventually([&] {
        std::byte buffer[512];
        const std::size_t got = backend.read(std::span{buffer}.first(std::min(sizeof buffer,
                                                                              size - text.size())));
        for (std::size_t i = 0; i < got; ++i) text += std::to_integer<char>(buffer[i]);
        return text.size() >= size;
    }));
    return text;
}

class Folder {
public:
    Folder()
    {
        char name[] = "/tmp/doppel-console-XXXXXX";
        EXPECT_NE(::mkdtemp(name), nullptr);
        path_ = name;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] std::string file(std::string_view name) const
    {
        return path_ + "/" + std::string{name};
    }

private:
    std::string path_;
};

inline std::string content_of(const std::string& path)
{
    std::ifstream file{path, std::ios::binary};
    return {std::istreambuf_iterator<char>{file}, {}};
}

}  // namespace doppel::backends
