// One KVM_EXIT_IO or KVM_EXIT_MMIO as the exits that the VM loop knows: string I/O item by
// item, odd MMIO sizes in pieces of a power of two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/exit.h"

namespace doppel::engine::kvm {

class PendingAccesses {
public:
    // `data` stays valid until the last item; reads are stored into it.
    void start_io(std::uint16_t port, std::uint8_t size, bool write, std::span<std::byte> data);
    void start_mmio(base::Gpa gpa, bool write, std::span<std::byte> data);
    void clear() { data_ = {}; }

    // The next item, nullopt when all are done. A read stays current until complete_read().
    [[nodiscard]] std::optional<Exit> next();
    void complete_read(std::uint64_t value);

private:
    std::span<std::byte> data_;  // what is left
    base::Gpa gpa_;
    std::uint16_t port_ = 0;
    std::uint8_t io_size_ = 0;
    std::uint8_t read_size_ = 0;  // of the read that waits for its value
    bool io_ = false;
    bool write_ = false;
};

}  // namespace doppel::engine::kvm
