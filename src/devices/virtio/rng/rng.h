// Entropy device: fills buffers with random bytes of the host. Virtio 1.2, section 5.4.
#pragma once

#include "devices/virtio/device.h"

namespace doppel::devices::virtio {

class Rng final : public Device {
public:
    [[nodiscard]] const Identity& identity() const override;
    void activate(Active& active) noexcept override { active_ = &active; }
    void deactivate() noexcept override { active_ = nullptr; }
    void process(unsigned queue) noexcept override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    Active* active_ = nullptr;
    Chain chain_;
    std::atomic<std::uint64_t> bytes_{0};
};

}  // namespace doppel::devices::virtio
