// Network card over a network backend. Virtio 1.2, section 5.1.
//
//   queues: receive 0, transmit 0, receive 1, transmit 1, ... , control
//
// Checksums and large segments are left to whoever can do them: what the backend takes is offered
// to the guest. All frames of the backend are for the guest; it filters for itself, as drivers must.
#pragma once

#include <memory>
#include <vector>

#include "backends/net/net.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net/registers.h"

namespace doppel::devices::virtio {

class Net final : public Device, private backends::NetReceiver {
public:
    struct Options {
        std::array<std::uint8_t, 6> mac{};  // no group's
    };
    Net(std::unique_ptr<backends::NetBackend> backend, const Options& options);

    [[nodiscard]] const Identity& identity() const override { return identity_; }
    [[nodiscard]] Features features() const override;
    [[nodiscard]] std::span<const std::byte> config() const override;
    void write_config(std::size_t offset, std::span<const std::byte> data) noexcept override;
    void attach(ConfigListener& listener) override { listener_ = &listener; }
    void activate(Active& active) noexcept override;
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    void save(base::StateWriter& writer, std::string_view section) const override;
    base::Result<void> load(const base::StateReader& reader, std::string_view section) override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    // What the driver has set; the defaults after a reset.
    struct State {
        Features guest_offloads;
        std::array<std::uint8_t, 6> mac;
        std::uint16_t pairs;          // in use
        std::uint8_t offloads_set;    // else what was negotiated
        std::uint8_t reserved[7];
    };

    [[nodiscard]] bool has(Features feature) const { return (active_->features() & feature) != 0; }
    [[nodiscard]] std::size_t header_size() const;
    void set_state(const State& state);
    [[nodiscard]] State initial_state() const;
    [[nodiscard]] Features negotiated_offloads() const;
    void apply_state();

    void transmit(unsigned pair) noexcept;
    // False: the backend has no room.
    [[nodiscard]] bool send(unsigned pair);

    void control(unsigned index) noexcept;
    [[nodiscard]] bool carry_out(ChainReader& command);
    [[nodiscard]] bool set_mac_table(ChainReader& command) const;

    backends::Handed receive(unsigned pair, backends::Frame& frame) noexcept override;
    void received(unsigned pair) noexcept override;
    void writable(unsigned pair) noexcept override;
    void link_changed(bool up) noexcept override;
    // Buffers for so many bytes into buffers_; how many, or 0.
    std::size_t collect(Queue& queue, unsigned pair, std::size_t bytes);
    void deliver(Queue& queue, std::size_t buffers, const backends::Frame& frame);

    std::unique_ptr<backends::NetBackend> backend_;
    const backends::NetProperties properties_;
    const Options options_;
    std::vector<std::uint16_t> queue_sizes_;
    Identity identity_;
    NetConfig config_{};
    State state_{};
    ConfigListener* listener_ = nullptr;
    Active* active_ = nullptr;

    Chain chain_;
    std::vector<std::byte> frame_;                     // of the guest, while it is sent
    std::vector<Chain> buffers_;                       // of the guest, for one frame
    std::array<std::size_t, backends::most_net_queues> too_few_{};  // of them, last time
    struct Totals {
        std::atomic<std::uint64_t> frames{0}, bytes{0}, dropped{0};
    };
    Totals sent_, received_;
};

}  // namespace doppel::devices::virtio
