#include "devices/virtio/console/console.h"

#include <algorithm>
#include <cstddef>

#include "base/bytes.h"

namespace doppel::devices::virtio {

namespace {

constexpr std::uint16_t queue_size = 128;
constexpr unsigned control_input = 2, control_output = 3;

constexpr unsigned input_queue(unsigned port) { return port == 0 ? 0 : 2 * port + 2; }
constexpr unsigned output_queue(unsigned port) { return input_queue(port) + 1; }
constexpr unsigned port_of(unsigned queue) { return queue < 2 ? 0 : queue / 2 - 1; }

}  // namespace

Console::Console(std::vector<Port> ports) : ports_(std::move(ports))
{
    ASSERT(!ports_.empty() && ports_.size() <= most_ports);
    const bool simple = ports_.size() == 1;
    queue_sizes_.assign(simple ? 2 : 2 * ports_.size() + 2, queue_size);
    identity_ = {DeviceId::console, "console", 0x078000, queue_sizes_};
    config_.max_nr_ports = static_cast<std::uint32_t>(ports_.size());
    for (unsigned i = 0; i < ports_.size(); ++i) {
        if (!exists(i)) continue;
        ports_[i].backend->set_input_callback([this, i] { give_input(i); });
        ports_[i].backend->set_writable_callback([this, i] { take_output(i); });
    }
}

// What the guest has written is with the host.
Console::~Console()
{
    for (const Port& port : ports_) {
        if (port.backend != nullptr) port.backend->flush();
    }
}

Features Console::features() const
{
    Features features = exists(0) ? VIRTIO_CONSOLE_F_EMERG_WRITE : 0;
    if (ports_.size() > 1) features |= VIRTIO_CONSOLE_F_MULTIPORT;
    return features;
}

bool Console::multiport() const
{
    return (active_->features() & VIRTIO_CONSOLE_F_MULTIPORT) != 0;
}

std::span<const std::byte> Console::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

void Console::write_config(std::size_t offset, std::span<const std::byte> data) noexcept
{
    if (offset != offsetof(ConsoleConfig, emerg_wr) || !exists(0)) return;
    static_cast<void>(ports_[0].backend->write(data.first(1)));
}

void Console::activate(Active& active) noexcept
{
    active_ = &active;
    if (!multiport()) state_.ports[0].guest_open = 1;
}

void Console::deactivate() noexcept
{
    active_ = nullptr;
    state_ = {};
}

void Console::process(unsigned queue) noexcept
{
    if (multiport() && (queue == control_input || queue == control_output)) {
        if (queue == control_output) take_control();
        give_control();
        return;
    }
    const unsigned port = port_of(queue);
    if (queue == input_queue(port)) {
        give_input(port);
    } else {
        take_output(port);
    }
}

// A chain that the backend has no room for goes back, with a note how much of it is done.
void Console::take_output(unsigned port)
{
    Queue* queue = active_ == nullptr ? nullptr : active_->queue(output_queue(port));
    if (queue == nullptr) return;
    unsigned chains = 0;
    for (; chains < chains_at_once && queue->pop(chain_); ++chains) {
        std::uint32_t& sent = state_.ports[port].sent;
        ChainReader reader{chain_, sent};
        while (exists(port) && !reader.rest().empty()) {
            const std::size_t taken = ports_[port].backend->write(reader.rest());
            if (taken == 0) break;
            reader.took(taken);
            sent += static_cast<std::uint32_t>(taken);
            output_bytes_.fetch_add(taken, std::memory_order_relaxed);
        }
        if (exists(port) && !reader.rest().empty()) {
            queue->unpop(chain_);
            break;
        }
        sent = 0;
        queue->push(chain_, 0);
    }
    queue->signal();
    if (chains == chains_at_once) active_->ring(output_queue(port));
}

// Input waits in the backend until the guest has a buffer, and has opened the port.
void Console::give_input(unsigned port)
{
    Queue* queue = active_ == nullptr ? nullptr : active_->queue(input_queue(port));
    if (queue == nullptr || !exists(port) || state_.ports[port].guest_open == 0) return;
    backends::CharacterBackend& backend = *ports_[port].backend;
    unsigned chains = 0;
    while (chains < chains_at_once && backend.input_available() != 0 && queue->pop(chain_)) {
        ++chains;
        ChainWriter writer{active_->dma(), chain_};
        while (!writer.room().empty()) {
            const std::size_t got = backend.read(writer.room());
            if (got == 0) break;
            writer.wrote(got);
        }
        input_bytes_.fetch_add(writer.written(), std::memory_order_relaxed);
        queue->push(chain_, writer.written());
    }
    queue->signal();
    if (chains == chains_at_once) active_->ring(input_queue(port));
}

void Console::take_control()
{
    Queue& queue = *active_->queue(control_output);
    unsigned chains = 0;
    for (; chains < chains_at_once && queue.pop(message_); ++chains) {
        ConsoleControl control{};
        if (ChainReader{message_}.read_value(control)) obey(control);
        queue.push(message_, 0);
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(control_output);
}

void Console::obey(const ConsoleControl& control)
{
    if (control.event == ConsoleEvent::VIRTIO_CONSOLE_DEVICE_READY) {
        for (unsigned i = 0; i < ports_.size() && control.value == 1; ++i) {
            if (exists(i)) state_.ports[i].messages = add;
        }
        return;
    }
    if (!exists(control.id)) return;
    PortState& state = state_.ports[control.id];
    if (control.event == ConsoleEvent::VIRTIO_CONSOLE_PORT_READY && control.value == 1) {
        const Port& port = ports_[control.id];
        state.messages = static_cast<std::uint8_t>(open | (port.console ? console : 0) |
                                                   (port.name.empty() ? 0 : name));
    } else if (control.event == ConsoleEvent::VIRTIO_CONSOLE_PORT_OPEN) {
        state.guest_open = control.value != 0 ? 1 : 0;
        give_input(control.id);
    }
}

std::vector<std::byte> Console::next_control(unsigned port, std::uint8_t& sent) const
{
    using enum ConsoleEvent;
    const std::uint8_t messages = state_.ports[port].messages;
    sent = static_cast<std::uint8_t>(messages & -messages);
    ConsoleControl control{port, VIRTIO_CONSOLE_PORT_OPEN, 1};
    if (sent == add) control.event = VIRTIO_CONSOLE_DEVICE_ADD;
    if (sent == console) control.event = VIRTIO_CONSOLE_CONSOLE_PORT;
    if (sent == name) control.event = VIRTIO_CONSOLE_PORT_NAME;
    base::ByteWriter bytes;
    bytes.write(control);
    if (sent == name) bytes.write_text(ports_[port].name);
    return bytes.take();
}

void Console::give_control()
{
    Queue* queue = active_->queue(control_input);
    if (queue == nullptr) return;
    for (unsigned i = 0; i < ports_.size(); ++i) {
        while (state_.ports[i].messages != 0 && queue->pop(chain_)) {
            std::uint8_t sent = 0;
            const auto bytes = next_control(i, sent);
            state_.ports[i].messages = static_cast<std::uint8_t>(state_.ports[i].messages & ~sent);
            ChainWriter writer{active_->dma(), chain_};
            writer.write(bytes);
            queue->push(chain_, writer.written());
        }
    }
    queue->signal();
}

void Console::save(base::StateWriter& writer, std::string_view section) const
{
    writer.section(section, 1, state_);
}

base::Result<void> Console::load(const base::StateReader& reader, std::string_view section)
{
    const State loaded = TRY(reader.section_as<State>(section, 1));
    for (unsigned i = 0; i < most_ports; ++i) {
        const PortState& port = loaded.ports[i];
        if (port.messages > 15 || port.guest_open > 1 || (!exists(i) && port.messages != 0)) {
            return base::io_error("Saved state of '" + std::string{section} + "' is impossible");
        }
    }
    state_ = loaded;
    return {};
}

void Console::counters(base::CounterList& list, std::string_view prefix) const
{
    list.add(std::string{prefix} + ".input_bytes", input_bytes_);
    list.add(std::string{prefix} + ".output_bytes", output_bytes_);
}

}  // namespace doppel::devices::virtio
