// What network backends under test are wired to.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <vector>

#include "base/loop_timer.h"
#include "backends/net/net.h"

namespace doppel::backends {

using Bytes = std::vector<std::byte>;

inline Bytes frame_of(std::size_t size, unsigned fill = 0x5a)
{
    return Bytes(size, static_cast<std::byte>(fill));
}

// Keeps what it gets, as long as it has room.
struct Receiver final : NetReceiver {
    Handed receive(unsigned, Frame& frame) noexcept override
    {
        if (room == 0) {
            ++refused;
            return Handed::wait;
        }
        --room;
        headers.push_back(frame.header);
        frames.emplace_back(frame.bytes.begin(), frame.bytes.end());
        return Handed::yes;
    }
    void received(unsigned) noexcept override { ++batches; }
    void writable(unsigned) noexcept override { ++writables; }
    void link_changed(bool up) noexcept override { links.push_back(up); }

    std::size_t room = ~std::size_t{0};
    std::vector<OffloadHeader> headers;
    std::vector<Bytes> frames;
    std::vector<bool> links;
    unsigned refused = 0, batches = 0, writables = 0;
};

// A backend that keeps what it is sent.
struct Wire final : NetBackend {
    [[nodiscard]] NetProperties properties() const override { return given; }
    void attach(NetReceiver& to) override { receiver = &to; }
    Handed send(unsigned, Frame& frame) noexcept override
    {
        if (full) return Handed::wait;
        headers.push_back(frame.header);
        frames.emplace_back(frame.bytes.begin(), frame.bytes.end());
        return Handed::yes;
    }
    void flush(unsigned) noexcept override { ++flushes; }
    void resume(unsigned) noexcept override { ++resumes; }
    void set_offloads(const Offloads& to) noexcept override { offloads = to; }
    void set_queues(unsigned count) noexcept override { queues = count; }
    void counters(base::CounterList&, std::string_view) const override {}

    NetProperties given;
    NetReceiver* receiver = nullptr;
    bool full = false;
    std::vector<OffloadHeader> headers;
    std::vector<Bytes> frames;
    Offloads offloads;
    unsigned flushes = 0, resumes = 0, queues = 1;
};

class NetTest : public testing::Test {
protected:
    NetTest() : loop(base::EventLoop::create().value())
    {
        std::string pattern = testing::TempDir() + "doppel-net-XXXXXX";
        folder = ::mkdtemp(pattern.data());
    }
    ~NetTest() override { std::filesystem::remove_all(folder); }
    [[nodiscard]] std::string path(const std::string& name) const { return folder + "/" + name; }

    // Runs the loop until that is so; false after 10 seconds.
    bool run_until(const std::function<bool()>& so)
    {
        const std::uint64_t end = base::monotonic_ns() + 10'000'000'000;
        while (!so() && base::monotonic_ns() < end) {
            const auto timer = base::LoopTimer::create(*loop, [this] { loop->stop(); }).value();
            timer->set(base::monotonic_ns() + 2'000'000);
            loop->run();
        }
        return so();
    }

    std::unique_ptr<base::EventLoop> loop;
    std::string folder;
};

}  // namespace doppel::backends
