// One instruction being written, before it is known whether it fits.
#pragma once

#include <array>
#include <cstdint>

namespace doppel::engine::translate {

class Writer {
public:
    static constexpr unsigned longest = 15;  // an instruction may have no more bytes

    void put(unsigned value)
    {
        if (size_ < bytes_.size()) bytes_[size_] = static_cast<std::uint8_t>(value);
        ++size_;
    }
    void put(const std::uint8_t* from, unsigned count)
    {
        for (unsigned i = 0; i < count; ++i) put(from[i]);
    }
    void put_dword(std::uint32_t value)
    {
        for (unsigned i = 0; i < 4; ++i) put((value >> (8 * i)) & 0xff);
    }
    std::uint8_t& at(unsigned index) { return bytes_[index]; }
    [[nodiscard]] unsigned size() const { return size_; }
    [[nodiscard]] const std::uint8_t* data() const { return bytes_.data(); }

private:
    std::array<std::uint8_t, 32> bytes_;
    unsigned size_ = 0;
};

}  // namespace doppel::engine::translate
