// QEMU's firmware configuration device: named blobs for firmware and kernels.
// docs/specs/fw_cfg.rst of QEMU, version 2 of the interface (with DMA).
//
//   port 0x510  selector, 16 bits, write
//   port 0x511  data, byte by byte
//   port 0x514  DMA control address, 64 bits big-endian in two 32-bit writes
//
// Unknown keys and reads past an item's end give zeros. Guests cannot write items.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "memory/guest_memory.h"

namespace doppel::machine {

class FwCfg final : public bus::BusDevice {
public:
    enum class Key : std::uint16_t {
        signature = 0x00, id = 0x01, uuid = 0x02, ram_size = 0x03, nographic = 0x04,
        nb_cpus = 0x05, machine_id = 0x06, kernel_address = 0x07, kernel_size = 0x08,
        kernel_cmdline = 0x09, initrd_address = 0x0a, initrd_size = 0x0b, boot_device = 0x0c,
        numa = 0x0d, boot_menu = 0x0e, max_cpus = 0x0f, kernel_entry = 0x10, kernel_data = 0x11,
        initrd_data = 0x12, cmdline_address = 0x13, cmdline_size = 0x14, cmdline_data = 0x15,
        setup_address = 0x16, setup_size = 0x17, setup_data = 0x18, file_directory = 0x19,
    };
    static constexpr std::uint64_t port_count = 12;
    static constexpr std::uint16_t first_file_key = 0x20;

    explicit FwCfg(memory::GuestMemory& memory);

    void add(Key key, std::vector<std::byte> bytes);
    // Bytes of the caller's, which outlive the device.
    void add_view(Key key, std::span<const std::byte> bytes);
    void add_u16(Key key, std::uint16_t value);
    void add_u32(Key key, std::uint32_t value);
    void add_u64(Key key, std::uint64_t value);
    // Names of at most 55 characters, each once; the directory lists them sorted by name.
    void add_file(std::string_view name, std::vector<std::byte> bytes);

    void read(std::uint64_t offset, std::span<std::byte> data) noexcept override;
    void write(std::uint64_t offset, std::span<const std::byte> data) noexcept override;

    void reset();
    void save(base::StateWriter& writer) const;
    base::Result<void> load(const base::StateReader& reader);

    struct State {
        std::uint16_t selector;
        std::uint16_t reserved;
        std::uint32_t dma_address_high;
        std::uint64_t offset;  // into the selected item
    };
    [[nodiscard]] const State& state() const { return state_; }

private:
    struct Item {
        std::vector<std::byte> owned;
        std::span<const std::byte> bytes;
    };
    void put(std::uint16_t key, std::vector<std::byte> bytes);
    void select(std::uint16_t key);
    [[nodiscard]] std::span<const std::byte> selected() const;
    [[nodiscard]] std::byte next_byte();
    void run_dma(std::uint64_t control_address);
    bool dma_read(std::uint64_t address, std::uint32_t length);
    void rebuild_directory();

    memory::GuestMemory& memory_;
    std::map<std::uint16_t, Item> items_;
    std::map<std::string, std::vector<std::byte>, std::less<>> files_;
    State state_{};
};

}  // namespace doppel::machine
