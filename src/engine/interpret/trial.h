// What instructions that are only tried have written to RAM: see Interpreter::begin_trial().
#pragma once

#include <cstring>
#include <vector>

#include "engine/interpret/interpreter.h"

namespace doppel::engine::interpret {

class Trial {
public:
    explicit Trial(std::byte* ram) : ram_(ram) {}

    void begin() { writes_.clear(), before_.clear(); }
    // About to be written. False: that is too much to remember.
    [[nodiscard]] bool note(std::uint64_t ram_offset, std::size_t size, bool page_table)
    {
        if (before_.size() + size > most) return false;
        writes_.push_back({ram_offset, static_cast<std::uint32_t>(size),
                           static_cast<std::uint32_t>(before_.size()), page_table});
        before_.insert(before_.end(), ram_ + ram_offset, ram_ + ram_offset + size);
        return true;
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

private:
    static constexpr std::size_t most = 1u << 20;

    std::byte* ram_;
    std::vector<TrialWrite> writes_;
    std::vector<std::byte> before_;
};

}  // namespace doppel::engine::interpret
