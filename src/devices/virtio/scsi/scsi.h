// SCSI host: a target for each disk, with one unit, number 0. Virtio 1.2, section 5.6.
//
//   queue 0: task management      1: events, none ever      2: commands
//
// Disks cannot take a request back: aborting waits for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/block/block.h"
#include "devices/virtio/device.h"
#include "devices/virtio/scsi/command.h"
#include "devices/virtio/scsi/registers.h"

namespace doppel::devices::virtio {

class Scsi final : public Device {
public:
    static constexpr std::size_t most_disks = 16;
    struct Disk {
        std::unique_ptr<backends::BlockBackend> backend;
        std::string serial;  // as scsi::Unit has it
    };

    // From 1 to most_disks, in the order of their targets.
    explicit Scsi(std::vector<Disk> disks);
    ~Scsi() override;

    [[nodiscard]] const Identity& identity() const override;
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
    struct Target {
        std::unique_ptr<backends::BlockBackend> backend;
        scsi::Unit unit;
        std::vector<backends::Request> batch;
        bool attention = false;  // it was reset, and nobody has been told
    };
    struct Work;
    struct State {
        std::uint32_t sense_size, cdb_size;
        std::array<std::uint8_t, most_disks> attention;
    };

    void take_commands();
    [[nodiscard]] std::unique_ptr<Work> take_work();
    // Puts it into a batch, or finishes it at once.
    void start(std::unique_ptr<Work> work);
    void execute(std::unique_ptr<Work> work, const scsi::Cdb& cdb);
    void execute(std::unique_ptr<Work> work, const scsi::Answer& answer);
    void execute(std::unique_ptr<Work> work, const scsi::Transfer& transfer);
    void execute(std::unique_ptr<Work> work, const scsi::Flush& flush);
    void execute(std::unique_ptr<Work> work, const scsi::Unmap& unmap);
    void execute(std::unique_ptr<Work> work, const scsi::WriteSame& same);
    void submit(std::unique_ptr<Work> work, std::vector<backends::Request> requests);
    void overrun(std::unique_ptr<Work> work);
    void finish(std::unique_ptr<Work> work);

    void take_tasks();
    [[nodiscard]] ScsiResult manage(const ScsiTaskRequest& request);
    // nullptr: there is none.
    [[nodiscard]] Target* target_of(const ScsiLun& lun);

    std::vector<Target> targets_;
    ScsiConfig config_{};
    Active* active_ = nullptr;
    Chain chain_;  // of task management
    std::vector<std::unique_ptr<Work>> free_;
};

}  // namespace doppel::devices::virtio
