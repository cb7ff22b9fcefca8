// What instructions that are only tried have written to RAM, and read there: see
// Interpreter::begin_trial().
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "engine/interpret/interpreter.h"

namespace doppel::engine::interpret {

class Trial {
public:
    explicit Trial(std::byte* ram) : ram_(ram) {}

    void begin() { writes_.clear(), before_.clear(), reads_.clear(), read_.clear(); }
    // About to be written. False: that is too much to remember.
    [[nodiscard]] bool note(std::uint64_t ram_offset, std::size_t size, bool page_table)
    {
        if (before_.size() + size > most) return false;
        writes_.push_back({ram_offset, static_cast<std::uint32_t>(size),
                           static_cast<std::uint32_t>(before_.size()), page_table});
        before_.insert(before_.end(), ram_ + ram_offset, ram_ + ram_offset + size);
        return true;
    }
    // These bytes were read there. What is too much to remember is left out.
    void note_read(std::uint64_t ram_offset, std::span<const std::byte> bytes)
    {
        if (read_.size() + bytes.size() > most) return;
        reads_.push_back({ram_offset, static_cast<std::uint32_t>(bytes.size()),
                          static_cast<std::uint32_t>(read_.size())});
        read_.insert(read_.end(), bytes.begin(), bytes.end());
    }
    void take_back()
    {
        for (std::size_t i = writes_.size(); i-- > 0;) {
            const TrialWrite& write = writes_[i];
            std::memcpy(ram_ + write.ram_offset, before_.data() + write.before, write.size);
        }
    }
    [[nodiscard]] const std::vector<TrialWrite>& writes() const { return writes_; }
    [[nodiscard]] const std::vector<std::byte>& before() const { return before_; }
    // See Interpreter::trial_disturbed().
    [[nodiscard]] bool disturbed() const
    {
        return std::any_of(reads_.begin(), reads_.end(),
                           [this](const Read& read) { return changed(read); });
    }

private:
    static constexpr std::size_t most = 1u << 20;
    struct Read {
        std::uint64_t ram_offset = 0;
        std::uint32_t size = 0;
        std::uint32_t bytes = 0;  // where in read_ they begin
    };

    [[nodiscard]] bool changed(const Read& read) const
    {
        const std::byte* const now = ram_ + read.ram_offset;
        const std::byte* const then = read_.data() + read.bytes;
        if (std::memcmp(now, then, read.size) == 0) return false;
        for (std::uint32_t i = 0; i < read.size; ++i) {
            if (now[i] != then[i] && !written(read.ram_offset + i)) return true;
        }
        return false;
    }
    [[nodiscard]] bool written(std::uint64_t byte) const
    {
        return std::any_of(writes_.begin(), writes_.end(), [byte](const TrialWrite& write) {
            return byte - write.ram_offset < write.size;
        });
    }

    std::byte* ram_;
    std::vector<TrialWrite> writes_;
    std::vector<std::byte> before_;
    std::vector<Read> reads_;
    std::vector<std::byte> read_;
};

}  // namespace doppel::engine::interpret
