#include "devices/pci/msix.h"

#include <algorithm>

#include "base/assert.h"
#include "base/bytes.h"

namespace doppel::devices {

namespace {

constexpr unsigned entry_size = 16;

}  // namespace

Msix::Msix(bus::InterruptSink& sink, unsigned vectors) : sink_(sink), vectors_(vectors)
{
    ASSERT(vectors != 0 && vectors <= most_vectors);
    reset();
}

void Msix::reset()
{
    control_ = 0;
    state_ = {};
    for (Entry& entry : state_.entries) entry.control = 1;
}

void Msix::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    std::fill(data.begin(), data.end(), std::byte{0});
    if (offset % data.size() != 0 || data.size() < 4) return;
    const auto copy = [&](std::span<const std::byte> from, std::uint64_t at) {
        if (at + data.size() <= from.size()) {
            std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(at), data.size(), data.begin());
        }
    };
    if (offset >= pending_offset) {
        copy(std::as_bytes(std::span{&state_.pending, 1}), offset - pending_offset);
    } else {
        copy(std::as_bytes(std::span{state_.entries}.first(vectors_)), offset);
    }
}

void Msix::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    if (offset % data.size() != 0 || data.size() < 4) return;
    if (offset + data.size() > std::uint64_t{vectors_} * entry_size) return;
    const auto entries = std::as_writable_bytes(std::span{state_.entries});
    std::copy(data.begin(), data.end(), entries.begin() + static_cast<std::ptrdiff_t>(offset));
    Entry& entry = state_.entries[offset / entry_size];
    entry.address &= ~std::uint64_t{3};
    entry.control &= 1;
    send_pending();
}

void Msix::set_control(std::uint16_t control) noexcept
{
    control_ = control;
    send_pending();
}

bool Msix::masked(unsigned vector) const
{
    return (control_ & control_mask_all) != 0 || state_.entries[vector].control != 0;
}

void Msix::send_pending() noexcept
{
    for (unsigned i = 0; state_.pending != 0 && i < vectors_; ++i) {
        if ((state_.pending >> i & 1) != 0) raise(i);
    }
}

void Msix::raise(unsigned vector) noexcept
{
    if (!enabled() || vector >= vectors_) return;
    const std::uint64_t bit = std::uint64_t{1} << vector;
    if (masked(vector)) {
        state_.pending |= bit;
        return;
    }
    state_.pending &= ~bit;
    // A message is a write; elsewhere than to the local APICs this one goes nowhere.
    if (state_.entries[vector].address >> 20 != 0xfee) return;
    sink_.send_msi({state_.entries[vector].address, state_.entries[vector].data});
}

void Msix::save(base::StateWriter& writer, std::string_view section) const
{
    writer.section(section, 1, state_);
}

base::Result<void> Msix::load(const base::StateReader& reader, std::string_view section,
                              std::uint16_t control)
{
    const State loaded = TRY(reader.section_as<State>(section, 1));
    const bool possible = std::all_of(loaded.entries.begin(), loaded.entries.end(),
                                      [](const Entry& entry) { return entry.control <= 1; });
    const std::uint64_t known = vectors_ == 64 ? ~std::uint64_t{0}
                                               : (std::uint64_t{1} << vectors_) - 1;
    if (!possible || (loaded.pending & ~known) != 0) {
        return base::io_error("Saved state of '" + std::string{section} + "' is impossible");
    }
    state_ = loaded;
    control_ = control;
    return {};
}

}  // namespace doppel::devices
