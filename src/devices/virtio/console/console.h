// Console device: a console, and ports with names, each with a backend of its own. Virtio 1.2,
// section 5.3.
//
//   queue 0, 1: port 0 in, out      2, 3: control in, out      2n + 2, 2n + 3: port n in, out
//
// Without names and further ports it is the simple device of two queues.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/character/character_backend.h"
#include "devices/virtio/console/registers.h"
#include "devices/virtio/device.h"

namespace doppel::devices::virtio {

class Console final : public Device {
public:
    static constexpr unsigned most_ports = 30;
    struct Port {
        std::string name;  // empty for the console
        bool console = false;
        std::unique_ptr<backends::CharacterBackend> backend;  // on the device's loop; nullptr: no port
    };

    // Port 0 is the console, or has no backend.
    explicit Console(std::vector<Port> ports);
    ~Console() override;

    [[nodiscard]] const Identity& identity() const override { return identity_; }
    [[nodiscard]] Features features() const override;
    [[nodiscard]] std::span<const std::byte> config() const override;
    void write_config(std::size_t offset, std::span<const std::byte> data) noexcept override;
    void activate(Active& active) noexcept override;
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    void save(base::StateWriter& writer, std::string_view section) const override;
    base::Result<void> load(const base::StateReader& reader, std::string_view section) override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    // What the driver is to be told of a port, in this order, as bits.
    enum Message : std::uint8_t { add = 1, console = 2, name = 4, open = 8 };
    struct PortState {
        std::uint32_t sent;       // bytes of the first chain of the output queue
        std::uint8_t messages;
        std::uint8_t guest_open;
        std::uint8_t reserved[2];
    };
    struct State {
        std::array<PortState, most_ports> ports;
    };

    [[nodiscard]] bool exists(std::uint32_t port) const
    {
        return port < ports_.size() && ports_[port].backend != nullptr;
    }
    [[nodiscard]] bool multiport() const;
    void take_output(unsigned port);
    void give_input(unsigned port);
    void take_control();
    void obey(const ConsoleControl& control);
    void give_control();
    [[nodiscard]] std::vector<std::byte> next_control(unsigned port, std::uint8_t& sent) const;

    std::vector<Port> ports_;
    std::vector<std::uint16_t> queue_sizes_;
    Identity identity_;
    ConsoleConfig config_{};
    Active* active_ = nullptr;
    State state_{};
    Chain chain_;
    Chain message_;  // of the guest: obeying it may give input, which takes chain_
    std::atomic<std::uint64_t> input_bytes_{0}, output_bytes_{0};
};

}  // namespace doppel::devices::virtio
