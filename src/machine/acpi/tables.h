// The machine's ACPI tables, made for one place in guest memory. ACPI specification 6.5,
// chapter 5; MCFG: PCI Firmware Specification 3.3 section 4.1.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace doppel::machine::acpi {

struct Topology {
    unsigned vcpus = 1;
    // Of the device at port 0x60/0x64: whether guests should look for a keyboard there.
    bool keyboard = false;
    std::uint64_t high_ram_end = 0;  // end of memory above 4 GiB; 0: none
    unsigned virtio_mmio = 0;        // devices from layout::virtio_mmio_start on
};

struct Table {
    std::string signature;
    std::vector<std::byte> bytes;
};

inline constexpr std::size_t rsdp_size = 36;

// A 36-byte header in front of `body`, with length and checksum.
std::vector<std::byte> make_table(std::string_view signature, std::uint8_t revision,
                                  std::span<const std::byte> body);
// Makes all bytes sum to zero by the byte at `at`.
void set_checksum(std::span<std::byte> bytes, std::size_t at);

std::vector<std::byte> make_dsdt(const Topology& topology);
std::vector<std::byte> make_madt(const Topology& topology);
std::vector<std::byte> make_mcfg();
std::vector<std::byte> make_facs();
std::vector<std::byte> make_fadt(const Topology& topology, std::uint64_t facs, std::uint64_t dsdt);
std::vector<std::byte> make_xsdt(std::span<const std::uint64_t> tables);
std::array<std::byte, rsdp_size> make_rsdp(std::uint64_t xsdt);

// All of them in one block for guest-physical `start` (16-byte aligned): the RSDP first.
struct TableSet {
    std::uint64_t start = 0;
    std::vector<std::byte> bytes;
    struct Placed {
        std::string signature;
        std::size_t offset;
        std::size_t size;
    };
    std::vector<Placed> tables;
};
TableSet make_tables(const Topology& topology, std::uint64_t start);

}  // namespace doppel::machine::acpi
