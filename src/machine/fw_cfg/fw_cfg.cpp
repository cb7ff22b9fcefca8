#include "machine/fw_cfg/fw_cfg.h"

#include <algorithm>
#include <array>

#include "base/assert.h"
#include "base/bytes.h"

namespace doppel::machine {

namespace {

constexpr std::uint32_t interface_traditional = 1 << 0, interface_dma = 1 << 1;
// Bit 15 of a key: items of the architecture; bit 14: write, no effect since 2.4.
constexpr std::uint16_t key_write = 0x4000;

enum DmaControl : std::uint32_t {
    dma_error = 1 << 0, dma_read_bit = 1 << 1, dma_skip = 1 << 2, dma_select = 1 << 3,
    dma_write = 1 << 4,
};
// "QEMU CFG", read back from the DMA address register.
constexpr std::uint64_t dma_signature = 0x51454d5520434647;

std::vector<std::byte> text_bytes(std::string_view text)
{
    const auto bytes = std::as_bytes(std::span{text});
    return {bytes.begin(), bytes.end()};
}

}  // namespace

FwCfg::FwCfg(memory::GuestMemory& memory) : memory_(memory)
{
    add(Key::signature, text_bytes("QEMU"));
    add_u32(Key::id, interface_traditional | interface_dma);
    rebuild_directory();
}

void FwCfg::put(std::uint16_t key, std::vector<std::byte> bytes)
{
    Item& item = items_[key];
    item.owned = std::move(bytes);
    item.bytes = item.owned;
}

void FwCfg::add(Key key, std::vector<std::byte> bytes)
{
    put(static_cast<std::uint16_t>(key), std::move(bytes));
}

void FwCfg::add_view(Key key, std::span<const std::byte> bytes)
{
    Item& item = items_[static_cast<std::uint16_t>(key)];
    item.owned.clear();
    item.bytes = bytes;
}

void FwCfg::add_u16(Key key, std::uint16_t value)
{
    base::ByteWriter out;
    out.write(value);
    add(key, out.take());
}

void FwCfg::add_u32(Key key, std::uint32_t value)
{
    base::ByteWriter out;
    out.write(value);
    add(key, out.take());
}

void FwCfg::add_u64(Key key, std::uint64_t value)
{
    base::ByteWriter out;
    out.write(value);
    add(key, out.take());
}

void FwCfg::add_file(std::string_view name, std::vector<std::byte> bytes)
{
    ASSERT(!name.empty() && name.size() < 56);
    const bool added = files_.emplace(name, std::move(bytes)).second;
    ASSERT(added);
    rebuild_directory();
}

// u32 count, then per file u32 size, u16 key, u16 reserved, 56 bytes of name; big-endian.
void FwCfg::rebuild_directory()
{
    base::ByteWriter out;
    out.write(__builtin_bswap32(static_cast<std::uint32_t>(files_.size())));
    std::uint16_t key = first_file_key;
    for (const auto& [name, bytes] : files_) {
        out.write(__builtin_bswap32(static_cast<std::uint32_t>(bytes.size())));
        out.write(__builtin_bswap16(key));
        out.write<std::uint16_t>(0);
        out.write_text(name);
        out.fill(56 - name.size());
        Item& item = items_[key];
        item.owned.clear();
        item.bytes = bytes;
        ++key;
    }
    add(Key::file_directory, out.take());
}

void FwCfg::select(std::uint16_t key)
{
    state_.selector = static_cast<std::uint16_t>(key & ~key_write);
    state_.offset = 0;
}

std::span<const std::byte> FwCfg::selected() const
{
    const auto found = items_.find(state_.selector);
    return found == items_.end() ? std::span<const std::byte>{} : found->second.bytes;
}

std::byte FwCfg::next_byte()
{
    const auto item = selected();
    return state_.offset < item.size() ? item[state_.offset++] : std::byte{0};
}

void FwCfg::read(std::uint64_t offset, std::span<std::byte> data) noexcept
{
    if (offset == 0) {
        // The selector is write-only, but its second byte is the data port: a guest that
        // reads a word here gets nothing useful on QEMU either.
        base::store_bytes(data, 0);
    } else if (offset == 1) {
        for (std::byte& byte : data) byte = next_byte();
    } else if (offset >= 4) {
        std::array<std::byte, 8> signature;
        base::store_le(signature.data(), __builtin_bswap64(dma_signature));
        for (std::size_t i = 0; i < data.size(); ++i) {
            const std::size_t at = offset - 4 + i;
            data[i] = at < signature.size() ? signature[at] : std::byte{0};
        }
    } else {
        base::store_bytes(data, 0);
    }
}

void FwCfg::write(std::uint64_t offset, std::span<const std::byte> data) noexcept
{
    const std::uint64_t value = base::load_bytes(data);
    if (offset == 0 && data.size() == 2) {
        select(static_cast<std::uint16_t>(value));
    } else if (offset == 4 && data.size() == 4) {
        state_.dma_address_high = __builtin_bswap32(static_cast<std::uint32_t>(value));
    } else if (offset == 8 && data.size() == 4) {
        const std::uint64_t high = state_.dma_address_high;
        state_.dma_address_high = 0;
        run_dma((high << 32) | __builtin_bswap32(static_cast<std::uint32_t>(value)));
    } else if (offset == 4 && data.size() == 8) {
        run_dma(__builtin_bswap64(value));
    }
}

// Zeros follow the item's end, as for the data port.
bool FwCfg::dma_read(std::uint64_t address, std::uint32_t length)
{
    const auto item = selected();
    const std::uint64_t left = item.size() - std::min<std::uint64_t>(state_.offset, item.size());
    const std::uint64_t from_item = std::min<std::uint64_t>(length, left);
    if (!memory_.write(base::Gpa{address}, item.subspan(item.size() - left, from_item))) return false;
    state_.offset += from_item;
    static constexpr std::array<std::byte, base::page_size> zeros{};
    for (std::uint64_t done = from_item; done < length;) {
        const std::uint64_t part = std::min<std::uint64_t>(length - done, zeros.size());
        if (!memory_.write(base::Gpa{address + done}, std::span{zeros}.first(part))) return false;
        done += part;
    }
    return true;
}

// The control structure is big-endian: u32 control, u32 length, u64 address.
void FwCfg::run_dma(std::uint64_t control_address)
{
    std::array<std::byte, 16> raw;
    if (!memory_.read(base::Gpa{control_address}, raw)) return;
    const std::uint32_t control = __builtin_bswap32(base::load_le<std::uint32_t>(raw.data()));
    const std::uint32_t length = __builtin_bswap32(base::load_le<std::uint32_t>(raw.data() + 4));
    const std::uint64_t address = __builtin_bswap64(base::load_le<std::uint64_t>(raw.data() + 8));
    if ((control & dma_select) != 0) select(static_cast<std::uint16_t>(control >> 16));
    bool good = true;
    if ((control & dma_read_bit) != 0) {
        good = dma_read(address, length);
    } else if ((control & dma_write) != 0) {
        good = false;  // no item is writable
    } else if ((control & dma_skip) != 0) {
        state_.offset += std::min<std::uint64_t>(
            length, selected().size() - std::min<std::uint64_t>(state_.offset, selected().size()));
    }
    const std::uint32_t result = __builtin_bswap32(good ? 0 : std::uint32_t{dma_error});
    static_cast<void>(memory_.write_value(base::Gpa{control_address}, result));
}

void FwCfg::reset() { state_ = {}; }

void FwCfg::save(base::StateWriter& writer) const { writer.section("fw_cfg", 1, state_); }

base::Result<void> FwCfg::load(const base::StateReader& reader)
{
    const auto state = TRY(reader.section_as<State>("fw_cfg", 1));
    const auto found = items_.find(state.selector);
    const std::size_t size = found == items_.end() ? 0 : found->second.bytes.size();
    if ((state.selector & key_write) != 0 || state.offset > size) {
        return base::io_error("Saved state of 'fw_cfg' is impossible");
    }
    state_ = state;
    return {};
}

}  // namespace doppel::machine
