// Instructions that turned out to access devices: they end their block and are interpreted
// without a host signal, for as long as that pays.
//
//   faults, twice in a row ──▶ learned ──▶ interpreted: a device: credit; RAM: less of it
//                                 ▲                               │ none left
//                                 └── faults, twice as often ◀── translated again
//
// An instruction is known by its place in RAM, in all address spaces and modes. Code that
// changes is forgotten with its page. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace doppel::engine::translate {

class DeviceSites {
public:
    // More are not remembered: all are forgotten then.
    static constexpr std::size_t most = 4096;
    // A fault costs as much as so many interpretations.
    static constexpr std::uint32_t credit_each = 16, credit_most = 64;
    static constexpr std::uint32_t faults_first = 2, faults_most = 256;

    // The instruction accessed a device and faulted. True: it is to be interpreted from now on.
    [[nodiscard]] bool faulted(std::uint64_t ram_offset);
    // It was interpreted, and accessed a device or did not. False: it is better translated.
    [[nodiscard]] bool interpreted(std::uint64_t ram_offset, bool device);
    // Offsets in the page of those to be interpreted, in no order. Valid until the next call.
    [[nodiscard]] std::span<const std::uint16_t> learned(std::uint64_t ram_page);
    void forget_page(std::uint64_t ram_page);

    [[nodiscard]] std::uint64_t learned_in_all() const { return learned_; }
    [[nodiscard]] std::uint64_t forgotten() const { return forgotten_; }

private:
    struct Site {
        std::uint16_t offset = 0;                // in its page
        std::uint32_t faults = 0;                // since it was translated
        std::uint32_t needed = faults_first;     // so many until it is learned
        std::uint32_t credit = 0;                // not zero: learned
    };
    [[nodiscard]] Site& site(std::uint64_t ram_offset);

    std::unordered_map<std::uint64_t, std::vector<Site>> pages_;  // by RAM page
    std::size_t count_ = 0;
    std::vector<std::uint16_t> offsets_;  // what learned() returned
    std::uint64_t learned_ = 0, forgotten_ = 0;
};

}  // namespace doppel::engine::translate
