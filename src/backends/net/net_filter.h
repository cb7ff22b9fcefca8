// Something between a device and its backend that passes on whatever it does not care about.
#pragma once

#include <memory>
#include <utility>

#include "backends/net/net.h"

namespace doppel::backends {

// Threads: as NetBackend.
class NetFilter : public NetBackend, protected NetReceiver {
public:
    explicit NetFilter(std::unique_ptr<NetBackend> inner) : inner_(std::move(inner)) {}

    [[nodiscard]] NetProperties properties() const override { return inner_->properties(); }
    [[nodiscard]] bool link_up() const override { return inner_->link_up(); }
    void attach(NetReceiver& receiver) override
    {
        receiver_ = &receiver;
        inner_->attach(*this);
    }
    Handed send(unsigned queue, Frame& frame) noexcept override
    {
        return inner_->send(queue, frame);
    }
    void flush(unsigned queue) noexcept override { inner_->flush(queue); }
    void resume(unsigned queue) noexcept override { inner_->resume(queue); }
    void set_offloads(const Offloads& offloads) noexcept override
    {
        inner_->set_offloads(offloads);
    }
    void set_queues(unsigned count) noexcept override { inner_->set_queues(count); }
    void counters(base::CounterList& list, std::string_view prefix) const override
    {
        inner_->counters(list, prefix);
    }

protected:
    Handed receive(unsigned queue, Frame& frame) noexcept override
    {
        return receiver_->receive(queue, frame);
    }
    void received(unsigned queue) noexcept override { receiver_->received(queue); }
    void writable(unsigned queue) noexcept override { receiver_->writable(queue); }
    void link_changed(bool up) noexcept override { receiver_->link_changed(up); }

    [[nodiscard]] NetBackend& inner() { return *inner_; }
    [[nodiscard]] NetReceiver& receiver() { return *receiver_; }

private:
    std::unique_ptr<NetBackend> inner_;
    NetReceiver* receiver_ = nullptr;
};

}  // namespace doppel::backends
