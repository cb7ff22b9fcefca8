// Block device over a disk backend. Virtio 1.2, section 5.2.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "backends/block/block.h"
#include "base/loop_timer.h"
#include "devices/virtio/block/moderation.h"
#include "devices/virtio/block/registers.h"
#include "devices/virtio/device.h"

namespace doppel::devices::virtio {

class Block final : public Device {
public:
    static constexpr unsigned most_queues = 16;
    struct Options {
        std::string serial;   // 20 bytes at most; the guest reads it
        unsigned queues = 1;  // 1 to most_queues
    };

    Block(std::unique_ptr<backends::BlockBackend> backend, const Options& options);
    ~Block() override;

    [[nodiscard]] const Identity& identity() const override { return identity_; }
    [[nodiscard]] Features features() const override;
    [[nodiscard]] std::span<const std::byte> config() const override;
    void write_config(std::size_t offset, std::span<const std::byte> data) noexcept override;
    void activate(Active& active) noexcept override { active_ = &active; }
    void deactivate() noexcept override;
    void process(unsigned queue) noexcept override;
    void drain() noexcept override;
    void save(base::StateWriter& writer, std::string_view section) const override;
    base::Result<void> load(const base::StateReader& reader, std::string_view section) override;
    void counters(base::CounterList& list, std::string_view prefix) const override;

private:
    struct Work;

    [[nodiscard]] std::unique_ptr<Work> take_work();
    // Puts it into batch_, or finishes it at once.
    void start(std::unique_ptr<Work> work);
    [[nodiscard]] BlockStatus prepare(Work& work);
    [[nodiscard]] BlockStatus prepare_transfer(Work& work, std::uint64_t sector);
    [[nodiscard]] BlockStatus prepare_range(Work& work);
    [[nodiscard]] BlockStatus give_identity(Work& work);
    void finish(std::unique_ptr<Work> work, BlockStatus status);
    // Tells the driver of what is done: queues that are due, or all.
    void signal_due();
    void signal_all();
    [[nodiscard]] bool write_through() const;

    std::unique_ptr<backends::BlockBackend> backend_;
    Options options_;
    std::array<std::uint16_t, most_queues> queue_sizes_;
    Identity identity_;
    BlockConfig config_{};
    Active* active_ = nullptr;
    std::array<Moderation, most_queues> moderation_;
    // Null where the host gives none: then nothing waits.
    std::unique_ptr<base::LoopTimer> late_;
    bool late_set_ = false;
    std::vector<std::unique_ptr<Work>> free_;
    std::vector<backends::Request> batch_;
};

}  // namespace doppel::devices::virtio
