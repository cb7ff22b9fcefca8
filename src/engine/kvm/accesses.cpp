#include "engine/kvm/accesses.h"

#include <bit>

#include "base/bytes.h"

namespace doppel::engine::kvm {

void PendingAccesses::start_io(std::uint16_t port, std::uint8_t size, bool write,
                               std::span<std::byte> data)
{
    data_ = data;
    port_ = port;
    io_size_ = size;
    io_ = true;
    write_ = write;
    read_size_ = 0;
}

void PendingAccesses::start_mmio(base::Gpa gpa, bool write, std::span<std::byte> data)
{
    data_ = data;
    gpa_ = gpa;
    io_ = false;
    write_ = write;
    read_size_ = 0;
}

std::optional<Exit> PendingAccesses::next()
{
    if (read_size_ != 0) complete_read(0);
    if (data_.empty()) return std::nullopt;
    const std::size_t size = io_ ? io_size_ : std::bit_floor(data_.size());
    const auto narrow = static_cast<std::uint8_t>(size);
    if (size > data_.size() || size == 0 || size > 8) {
        data_ = {};
        return std::nullopt;
    }
    if (!write_) {
        read_size_ = narrow;
        if (io_) return IoReadExit{port_, narrow};
        return MmioReadExit{gpa_, narrow};
    }
    const std::uint64_t value = base::load_bytes(data_.first(size));
    data_ = data_.subspan(size);
    if (io_) return IoWriteExit{port_, narrow, value};
    const base::Gpa at = gpa_;
    gpa_ = gpa_ + size;
    return MmioWriteExit{at, narrow, value};
}

void PendingAccesses::complete_read(std::uint64_t value)
{
    if (read_size_ == 0) return;
    base::store_bytes(data_.first(read_size_), value);
    data_ = data_.subspan(read_size_);
    gpa_ = gpa_ + read_size_;
    read_size_ = 0;
}

}  // namespace doppel::engine::kvm
