// Persistent memory: a file of the host that the guest has as memory. Virtio 1.2, section 5.19.
//
// Reads and writes are the guest's own; the device is only asked to make what was written durable.
#pragma once

#include <memory>
#include <vector>

#include "backends/block/block.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pmem/registers.h"

namespace doppel::devices::virtio {

class Pmem final : public Device {
public:
    // file: the same as the guest sees at `place`, for flushes.
    Pmem(std::unique_ptr<backends::BlockBackend> file, const PmemConfig& place);
    ~Pmem() override;

    [[nodiscard]] const Identity& identity() const override;
    [[nodiscard]] std::span<const std::byte> config() const override;
    void activate(Active& active) noexcept override { active_ = &active; }
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    void drain() noexcept override { file_->drain(); }
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    void start(std::unique_ptr<Chain> chain);
    void finish(std::unique_ptr<Chain> chain, bool good);

    std::unique_ptr<backends::BlockBackend> file_;
    PmemConfig config_;
    Active* active_ = nullptr;
    std::vector<std::unique_ptr<Chain>> free_;
};

}  // namespace doppel::devices::virtio
