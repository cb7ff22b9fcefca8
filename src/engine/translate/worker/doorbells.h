// The worker's view of the doorbells: a copy of link/doorbell_table.h, made anew when that changed.
#pragma once

#include <array>
#include <optional>

#include "engine/translate/link/doorbell_table.h"

namespace doppel::engine::translate {

// Threads: the vCPU thread alone.
class BoundDoorbells {
public:
    explicit BoundDoorbells(const DoorbellTable& table) : table_(table) {}

    // The index of the doorbell that the write is for.
    [[nodiscard]] std::optional<unsigned> find(bus::Space space, std::uint64_t address,
                                               unsigned size, std::uint64_t value) noexcept;

private:
    struct Bound {
        unsigned index = 0;
        bus::DoorbellAddress at;
    };
    void copy(std::uint32_t version) noexcept;

    const DoorbellTable& table_;
    std::uint32_t version_ = 0;  // of the copy; a table begins without entries
    unsigned count_ = 0;
    std::array<Bound, doorbell_count> bound_;
};

}  // namespace doppel::engine::translate
