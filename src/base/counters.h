// Named counters for --stats: a flat list of (name, value) that any part may fill.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace doppel::base {

// Names are snake_case and dotted by owner: "exits.io_read", "interpreter.thunks".
class CounterList {
public:
    void add(std::string name, std::uint64_t value) { values_.emplace_back(std::move(name), value); }
    [[nodiscard]] const std::vector<std::pair<std::string, std::uint64_t>>& values() const
    {
        return values_;
    }

private:
    std::vector<std::pair<std::string, std::uint64_t>> values_;
};

}  // namespace doppel::base
