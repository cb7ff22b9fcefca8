// A tap device of the host: the guest's frames appear on a network interface there. Several
// queues, and the kernel's own offloads (IFF_VNET_HDR).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/net/net.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace doppel::backends {

struct TapOptions {
    std::string name;  // empty: a new one, whose name the kernel chooses
    unsigned queues = 1;
    std::uint16_t mtu = 0;  // 0: as the interface has it; else it is set there
};

// Threads: as NetBackend.
class TapNet final : public NetBackend {
public:
    // Uses the interface, or makes it for as long as it runs, and sets it up where that is
    // allowed. Errors say how to prepare one.
    static base::Result<std::unique_ptr<NetBackend>> create(base::EventLoop& loop,
                                                            const TapOptions& options);
    ~TapNet() override;

    [[nodiscard]] NetProperties properties() const override;
    void attach(NetReceiver& receiver) override { receiver_ = &receiver; }
    Handed send(unsigned queue, Frame& frame) noexcept override;
    void flush(unsigned) noexcept override {}
    void resume(unsigned queue) noexcept override;
    void set_offloads(const Offloads& offloads) noexcept override;
    void set_queues(unsigned count) noexcept override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    struct Queue {
        base::Fd fd;
        std::uint32_t watched = 0;
        bool attached = true;
        bool receiver_waits = false, sender_waits = false;
        std::vector<std::byte> held;  // a frame that the receiver had no room for, with its header
    };

    explicit TapNet(base::EventLoop& loop) : loop_(loop) {}
    base::Result<void> open(const TapOptions& options);
    base::Result<void> set_up(const TapOptions& options);
    void events(unsigned index, std::uint32_t ready) noexcept;
    void read(unsigned index) noexcept;
    // `packet`: header and frame. False: the receiver has no room.
    bool deliver(unsigned index, std::span<std::byte> packet) noexcept;
    void watch(unsigned index) noexcept;

    base::EventLoop& loop_;
    std::string name_;
    std::uint16_t mtu_ = 1500;
    std::vector<Queue> queues_;
    std::vector<std::byte> buffer_;
    Offloads to_guest_;
    NetReceiver* receiver_ = nullptr;
    std::uint64_t dropped_in_ = 0, dropped_out_ = 0;
};

}  // namespace doppel::backends
