// How often each cluster of a file is referred to, as found by looking at everything. Sparse, and
// bounded: a file of strangers may claim to be of any size.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

namespace doppel::backends::qcow2 {

class ReferenceCounts {
public:
    static constexpr std::uint64_t piece_size = 1024;
    static constexpr std::uint64_t most_pieces = 128 * 1024;  // 256 MiB

    // False when there is no more room.
    [[nodiscard]] bool add(std::uint64_t cluster)
    {
        auto& piece = pieces_[cluster / piece_size];
        if (!piece) {
            if (pieces_.size() > most_pieces) return false;
            piece = std::make_unique<Piece>();
        }
        auto& count = (*piece)[cluster % piece_size];
        if (count != UINT16_MAX) ++count;
        return true;
    }
    [[nodiscard]] std::uint64_t get(std::uint64_t cluster) const
    {
        const auto found = pieces_.find(cluster / piece_size);
        return found == pieces_.end() ? 0 : (*found->second)[cluster % piece_size];
    }
    // Each cluster that is referred to, in order.
    template <typename Function>
    void for_each(Function&& function) const
    {
        for (const auto& [number, piece] : pieces_) {
            for (std::uint64_t i = 0; i < piece_size; ++i) {
                if ((*piece)[i] != 0) function(number * piece_size + i, std::uint64_t{(*piece)[i]});
            }
        }
    }

private:
    using Piece = std::array<std::uint16_t, piece_size>;
    std::map<std::uint64_t, std::unique_ptr<Piece>> pieces_;
};

}  // namespace doppel::backends::qcow2
