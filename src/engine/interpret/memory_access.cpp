#include "engine/interpret/memory_access.h"

#include <algorithm>
#include <atomic>

#include "base/bytes.h"
#include "engine/interpret/block_cache.h"
#include "engine/interpret/system/system.h"
#include "engine/interpret/trial.h"

namespace doppel::engine::interpret {

namespace {

using base::Gpa;
using base::page_mask;
using base::page_size;
using x86::Access;

bool canonical(std::uint64_t linear)
{
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(linear << 16) >> 16) == linear;
}

// One access of the size asked for, so that aligned ones are atomic as the guest expects.
std::uint64_t host_load(const std::byte* host, unsigned size)
{
    switch (size) {
    case 1: return base::load_le<std::uint8_t>(host);
    case 2: return base::load_le<std::uint16_t>(host);
    case 4: return base::load_le<std::uint32_t>(host);
    default: return base::load_le<std::uint64_t>(host);
    }
}

void host_store(std::byte* host, unsigned size, std::uint64_t value)
{
    switch (size) {
    case 1: base::store_le(host, static_cast<std::uint8_t>(value)); break;
    case 2: base::store_le(host, static_cast<std::uint16_t>(value)); break;
    case 4: base::store_le(host, static_cast<std::uint32_t>(value)); break;
    default: base::store_le(host, value); break;
    }
}

// The largest size that a bus access may have, at most `left`.
unsigned piece_size(std::size_t left)
{
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

// Page tables in guest memory.
class TableMemory final : public x86::PageTableMemory {
public:
    explicit TableMemory(Core& core) : core_(core) {}

    std::uint64_t read(Gpa gpa, unsigned size) noexcept override
    {
        const std::byte* host = core_.memory.host(gpa);
        if (host == nullptr) return ~std::uint64_t{0};
        return host_load(host, size);
    }

    bool compare_and_swap(Gpa gpa, unsigned size, std::uint64_t expected,
                          std::uint64_t desired) noexcept override
    {
        const memory::Slot* slot = core_.memory.find(gpa);
        if (slot == nullptr || slot->read_only) return true;
        core_.code_written(gpa, size);
        std::byte* host = slot->host + (gpa - slot->start);
        if (core_.trial != nullptr) {
            static_cast<void>(core_.trial->note(
                static_cast<std::uint64_t>(host - core_.memory.ram()), size, true));
        }
        // Entries are naturally aligned and slots page-aligned.
        if (size == 4) {
            std::atomic_ref<std::uint32_t> entry{*std::bit_cast<std::uint32_t*>(host)};
            auto old = static_cast<std::uint32_t>(expected);
            return entry.compare_exchange_strong(old, static_cast<std::uint32_t>(desired));
        }
        std::atomic_ref<std::uint64_t> entry{*std::bit_cast<std::uint64_t*>(host)};
        return entry.compare_exchange_strong(expected, desired);
    }

private:
    Core& core_;
};

}  // namespace

// An access split at the page boundary it may cross.
struct MemoryAccess::Range {
    std::array<Target, 2> targets;
    std::array<std::size_t, 2> sizes{};
    unsigned count = 1;
};

x86::PagingState MemoryAccess::paging_state(const Core& core, unsigned mmu) noexcept
{
    x86::PagingState paging;
    paging.cr0 = core.state.cr0;
    paging.cr3 = core.state.cr3;
    paging.cr4 = core.state.cr4;
    paging.efer = core.state.efer;
    paging.rflags_ac = mmu == mmu_supervisor_ac ? 1 : 0;
    paging.physical_address_bits = core.cpuid.physical_address_bits();
    return paging;
}

// ---- translation ---------------------------------------------------------------------------

bool MemoryAccess::resolve(Core& core, std::uint64_t linear, Access access, unsigned mmu,
                           Target& target) noexcept
{
    Tlb& tlb = *core.tlb_;
    const unsigned slot = Tlb::slot(linear);
    const std::uint64_t page = linear & ~page_mask;
    TlbEntry& read_entry = tlb.read[mmu][slot];
    TlbEntry& write_entry = tlb.write[mmu][slot];
    TlbEntry& wanted = access == Access::write ? write_entry : read_entry;
    if ((wanted.tag & ~TlbEntry::code) == page) {
        target.host = std::bit_cast<std::byte*>(linear + wanted.addend);
        if (wanted.tag != page &&
            !core.blocks->watched(static_cast<std::uint64_t>(target.host - core.memory.ram()))) {
            wanted.tag = page;  // the code was dropped
        }
        return true;
    }

    ++core.page_walks;
    TableMemory tables{core};
    const x86::PagingState paging = paging_state(core, mmu);
    const x86::WalkResult walked = x86::walk(tables, paging, linear, access, mmu == mmu_user, &tlb.upper);
    if (const Fault* fault = std::get_if<Fault>(&walked)) {
        core.pending_ = core.raise(*fault);
        return false;
    }
    const auto& translation = *std::get_if<x86::Translation>(&walked);
    const memory::Slot* memory_slot = core.memory.find(translation.gpa);
    if (memory_slot == nullptr) {
        target.gpa = translation.gpa;
        return true;
    }
    target.host = memory_slot->host + (translation.gpa - memory_slot->start);
    target.read_only = memory_slot->read_only;

    const std::uint64_t addend = std::bit_cast<std::uint64_t>(target.host) - linear;
    std::uint8_t& global = tlb.global[mmu][slot];
    const std::uint8_t global_bits = translation.global ? 3 : 0;
    tlb.used[mmu] = true;
    if (!translation.global) tlb.local.add(mmu, slot);
    if (translation.page_size > 2 * 1024 * 1024) {
        tlb.pieces_1g.set(Tlb::region_1g(linear));
    } else if (translation.page_size > page_size) {
        tlb.pieces_2m.set(Tlb::region_2m(linear));
    }
    read_entry = {page, addend};
    global = static_cast<std::uint8_t>((global & ~1u) | (global_bits & 1u));
    if (translation.writable && translation.dirty && !target.read_only) {
        const auto ram_offset = static_cast<std::uint64_t>(target.host - core.memory.ram());
        const bool has_code = core.blocks != nullptr && core.blocks->watched(ram_offset);
        write_entry = {page | (has_code ? TlbEntry::code : 0), addend};
        global = static_cast<std::uint8_t>((global & ~2u) | (global_bits & 2u));
    }
    return true;
}

bool MemoryAccess::resolve_range(Core& core, std::uint64_t linear, std::size_t size, Access access,
                                 unsigned mmu, Range& range) noexcept
{
    range.sizes[0] = std::min<std::size_t>(size, page_size - (linear & page_mask));
    range.sizes[1] = size - range.sizes[0];
    if (!resolve(core, linear, access, mmu, range.targets[0])) return false;
    if (range.sizes[1] == 0) return true;
    range.count = 2;
    std::uint64_t second = linear + range.sizes[0];
    if (!core.state.long_mode()) second &= 0xffffffff;
    return resolve(core, second, access, mmu, range.targets[1]);
}

// What comes before translation: canonical form, alignment, breakpoints.
bool MemoryAccess::admit(Core& core, std::uint64_t& linear, std::size_t size, unsigned mmu,
                         Kind kind, Access access) noexcept
{
    ++core.tlb_misses;
    if (!core.state.long_mode()) {
        linear &= 0xffffffff;
    } else if (!canonical(linear) || !canonical(linear + size - 1)) {
        core.pending_ = core.raise(Vector::GP);
        core.non_canonical_ = true;
        return false;
    }
    if (kind == Kind::implicit) return true;
    if (core.alignment_checks_ && mmu == mmu_user && std::has_single_bit(size) && size <= 8 &&
        (linear & (size - 1)) != 0) {
        core.pending_ = core.raise(Vector::AC);
        return false;
    }
    if (core.data_breakpoints_ && core.system != nullptr) {
        core.system->note_data_access(linear, static_cast<unsigned>(size), access == Access::write);
    }
    return true;
}

// ---- devices ---------------------------------------------------------------------------------

// The write is for a doorbell, and done.
static bool rings(Core& core, const Exit& what) noexcept
{
    if (core.system == nullptr) return false;
    Environment& environment = core.system->environment();
    if (const auto* write = std::get_if<MmioWriteExit>(&what)) {
        return environment.ring(bus::Space::memory, write->gpa.value, write->size, write->value);
    }
    if (const auto* write = std::get_if<IoWriteExit>(&what)) {
        return environment.ring(bus::Space::port, write->port, write->size, write->value);
    }
    return false;
}

// One access of the current instruction to a device: answered from the log when the
// instruction restarts, else an exit. Writes count as done once they were handed out.
bool MemoryAccess::device(Core& core, const Exit& what, std::uint64_t& value) noexcept
{
    if (core.device_cursor_ < core.device_log_.size()) {
        const DeviceAccess& earlier = core.device_log_[core.device_cursor_];
        if (earlier.answered && earlier.what == what) {
            ++core.device_cursor_;
            value = earlier.value;
            return true;
        }
        // Guest memory changed between the two runs: what was logged is another instruction's.
        core.device_log_.resize(core.device_cursor_);
    }
    if (rings(core, what)) return true;
    const bool write =
        std::holds_alternative<IoWriteExit>(what) || std::holds_alternative<MmioWriteExit>(what);
    core.device_log_.push_back({what, value, write});
    core.exit = what;
    core.pending_ = Flow::exit;
    ++core.device_exits;
    return false;
}

bool MemoryAccess::device_read(Core& core, Gpa gpa, std::span<std::byte> to) noexcept
{
    if (core.trial != nullptr) return refuse_in_trial(core);
    ++core.device_accesses;
    while (!to.empty()) {
        const unsigned size = piece_size(to.size());
        std::uint64_t value = 0;
        const bool hooked =
            core.physical_hook != nullptr && core.physical_hook->read(gpa, size, value);
        if (!hooked && !device(core, MmioReadExit{gpa, static_cast<std::uint8_t>(size)}, value)) {
            return false;
        }
        std::memcpy(to.data(), &value, size);
        to = to.subspan(size);
        gpa = gpa + size;
    }
    return true;
}

bool MemoryAccess::device_write(Core& core, Gpa gpa, std::span<const std::byte> from) noexcept
{
    if (core.trial != nullptr) return refuse_in_trial(core);
    ++core.device_accesses;
    while (!from.empty()) {
        const unsigned size = piece_size(from.size());
        std::uint64_t value = 0;
        std::memcpy(&value, from.data(), size);
        const bool hooked =
            core.physical_hook != nullptr && core.physical_hook->write(gpa, size, value);
        if (!hooked &&
            !device(core, MmioWriteExit{gpa, static_cast<std::uint8_t>(size), value}, value)) {
            return false;
        }
        from = from.subspan(size);
        gpa = gpa + size;
    }
    return true;
}

// ---- loads and stores --------------------------------------------------------------------------

bool MemoryAccess::load(Core& core, std::uint64_t linear, unsigned size, unsigned mmu, Kind kind,
                        std::uint64_t& value) noexcept
{
    value = 0;
    if ((linear & page_mask) + size > page_size) {
        return load_bytes(core, linear, std::as_writable_bytes(std::span{&value, 1}).first(size),
                          mmu, kind);
    }
    Target target;
    if (!admit(core, linear, size, mmu, kind, Access::read) ||
        !resolve(core, linear, Access::read, mmu, target)) {
        return false;
    }
    if (target.host == nullptr) {
        return device_read(core, target.gpa,
                           std::as_writable_bytes(std::span{&value, 1}).first(size));
    }
    value = host_load(target.host, size);
    note_read(core, target.host, std::as_bytes(std::span{&value, 1}).first(size));
    return true;
}

bool MemoryAccess::store(Core& core, std::uint64_t linear, unsigned size, unsigned mmu, Kind kind,
                         std::uint64_t value) noexcept
{
    if ((linear & page_mask) + size > page_size) {
        return store_bytes(core, linear, std::as_bytes(std::span{&value, 1}).first(size), mmu, kind);
    }
    Target target;
    if (!admit(core, linear, size, mmu, kind, Access::write) ||
        !resolve(core, linear, Access::write, mmu, target)) {
        return false;
    }
    if (target.host == nullptr) {
        return device_write(core, target.gpa, std::as_bytes(std::span{&value, 1}).first(size));
    }
    if (target.read_only) return true;
    if (!may_write(core, target.host, size)) return false;
    host_store(target.host, size, value);
    about_to_write(core, target.host, size);
    return true;
}

bool MemoryAccess::load_bytes(Core& core, std::uint64_t linear, std::span<std::byte> to,
                              unsigned mmu, Kind kind) noexcept
{
    if (to.empty()) return true;
    Range range;
    if (!admit(core, linear, to.size(), mmu, kind, Access::read) ||
        !resolve_range(core, linear, to.size(), Access::read, mmu, range)) {
        return false;
    }
    for (unsigned i = 0; i < range.count; ++i) {
        const auto part = to.subspan(i == 0 ? 0 : range.sizes[0], range.sizes[i]);
        const Target& target = range.targets[i];
        if (target.host != nullptr) {
            std::memcpy(part.data(), target.host, part.size());
            note_read(core, target.host, part);
        } else if (!device_read(core, target.gpa, part)) {
            return false;
        }
    }
    return true;
}

bool MemoryAccess::store_bytes(Core& core, std::uint64_t linear, std::span<const std::byte> from,
                               unsigned mmu, Kind kind) noexcept
{
    if (from.empty()) return true;
    Range range;
    if (!admit(core, linear, from.size(), mmu, kind, Access::write) ||
        !resolve_range(core, linear, from.size(), Access::write, mmu, range)) {
        return false;
    }
    const auto part = [&](unsigned i) {
        return from.subspan(i == 0 ? 0 : range.sizes[0], range.sizes[i]);
    };
    // Devices first: their accesses may stop the instruction, and it restarts as if memory
    // had not been touched.
    for (unsigned i = 0; i < range.count; ++i) {
        if (range.targets[i].host == nullptr &&
            !device_write(core, range.targets[i].gpa, part(i))) {
            return false;
        }
    }
    for (unsigned i = 0; i < range.count; ++i) {
        const Target& target = range.targets[i];
        if (target.host == nullptr || target.read_only) continue;
        if (!may_write(core, target.host, part(i).size())) return false;
    }
    for (unsigned i = 0; i < range.count; ++i) {
        const Target& target = range.targets[i];
        if (target.host == nullptr || target.read_only) continue;
        std::memcpy(target.host, part(i).data(), part(i).size());
        about_to_write(core, target.host, part(i).size());
    }
    return true;
}

bool MemoryAccess::check(Core& core, std::uint64_t linear, unsigned size, Access access,
                         unsigned mmu) noexcept
{
    if (size == 0) return true;
    Range range;
    return admit(core, linear, size, mmu, Kind::explicit_data, access) &&
           resolve_range(core, linear, size, access, mmu, range);
}

std::byte* MemoryAccess::write_pointer(Core& core, std::uint64_t linear, unsigned size) noexcept
{
    if (!admit(core, linear, size, core.data_mmu, Kind::explicit_data, Access::write)) {
        return nullptr;
    }
    if ((linear & page_mask) + size > page_size) return nullptr;
    Target target;
    if (!resolve(core, linear, Access::write, core.data_mmu, target)) return nullptr;
    if (target.host == nullptr || target.read_only) return nullptr;
    if (!may_write(core, target.host, size)) return nullptr;
    about_to_write(core, target.host, size);
    return target.host;
}

std::byte* MemoryAccess::read_pointer(Core& core, std::uint64_t linear, unsigned size, unsigned mmu,
                                      Kind kind) noexcept
{
    if (!admit(core, linear, size, mmu, kind, Access::read)) return nullptr;
    if ((linear & page_mask) + size > page_size) return nullptr;
    Target target;
    if (!resolve(core, linear, Access::read, mmu, target)) return nullptr;
    if (target.host != nullptr) note_read(core, target.host, {target.host, size});
    return target.host;
}

std::byte* MemoryAccess::read_pointer(Core& core, std::uint64_t linear, unsigned size) noexcept
{
    const TlbEntry& entry = core.read_table_[Tlb::slot(linear)];
    if (((linear + size - 1) & ~page_mask) == entry.tag) {
        return std::bit_cast<std::byte*>(linear + entry.addend);
    }
    return read_pointer(core, linear, size, core.data_mmu, Kind::explicit_data);
}

std::byte* MemoryAccess::system_pointer(Core& core, std::uint64_t linear, unsigned size) noexcept
{
    const TlbEntry& entry = core.tlb_->read[mmu_supervisor][Tlb::slot(linear)];
    if (((linear + size - 1) & ~page_mask) == entry.tag) {
        return std::bit_cast<std::byte*>(linear + entry.addend);
    }
    return read_pointer(core, linear, size, mmu_supervisor, Kind::implicit);
}

// An instruction that is only tried writes nothing that others would have to hear of.
bool MemoryAccess::may_write(Core& core, const std::byte* host, std::size_t size) noexcept
{
    if (core.trial == nullptr) return true;
    const auto ram_offset = static_cast<std::uint64_t>(host - core.memory.ram());
    if (!core.blocks->watched(ram_offset) && core.trial->note(ram_offset, size, false)) return true;
    return refuse_in_trial(core);
}

bool MemoryAccess::refuse_in_trial(Core& core) noexcept
{
    core.exit = KickExit{};
    core.pending_ = Flow::exit;
    return false;
}

void MemoryAccess::note_read(Core& core, const std::byte* host,
                             std::span<const std::byte> bytes) noexcept
{
    if (core.trial == nullptr) return;
    core.trial->note_read(static_cast<std::uint64_t>(host - core.memory.ram()), bytes);
}

// RAM at `host` is written by the current instruction. Blocks decoded from it go; since
// nothing is decoded before the instruction has ended, the order of the two does not matter.
void MemoryAccess::about_to_write(Core& core, const std::byte* host, std::size_t size) noexcept
{
    if (core.blocks == nullptr) return;
    const auto ram_offset = static_cast<std::uint64_t>(host - core.memory.ram());
    if (core.blocks->written(ram_offset, size)) core.end_block();
}

// ---- instruction fetch ---------------------------------------------------------------------------

bool MemoryAccess::fetch_page(Core& core, std::uint64_t linear, std::uint64_t& ram_offset) noexcept
{
    const bool user = core.cpl == 3;
    const std::uint64_t page = linear & ~page_mask;
    FetchEntry& entry =
        core.tlb_->fetch[user ? 1 : 0][(linear >> base::page_shift) & (Tlb::fetch_size - 1)];
    if (entry.tag == page) {
        ram_offset = entry.ram_offset;
        return true;
    }
    if (core.code_size == CodeSize::bits64 && !canonical(linear)) {
        core.raise(Vector::GP);
        return false;
    }
    ++core.page_walks;
    TableMemory tables{core};
    const x86::PagingState paging = paging_state(core, user ? mmu_user : mmu_supervisor);
    const x86::WalkResult walked = x86::walk(tables, paging, linear, Access::execute, user, &core.tlb_->upper);
    if (const Fault* fault = std::get_if<Fault>(&walked)) {
        core.raise(*fault);
        return false;
    }
    const auto& translation = *std::get_if<x86::Translation>(&walked);
    if (translation.page_size > 2 * 1024 * 1024) {
        core.tlb_->pieces_1g.set(Tlb::region_1g(linear));
    } else if (translation.page_size > page_size) {
        core.tlb_->pieces_2m.set(Tlb::region_2m(linear));
    }
    const std::byte* host = core.memory.host(Gpa{translation.gpa.value & ~page_mask});
    ram_offset = host == nullptr ? FetchEntry::no_memory
                                 : static_cast<std::uint64_t>(host - core.memory.ram());
    entry = {page, ram_offset};
    return true;
}

x86::WalkResult MemoryAccess::walk(Core& core, std::uint64_t linear, Access access,
                                   bool user) noexcept
{
    TableMemory tables{core};
    return x86::walk(tables, paging_state(core, user ? mmu_user : mmu_supervisor), linear, access,
                     user, &core.tlb_->upper);
}

x86::WalkResult MemoryAccess::probe(Core& core, std::uint64_t linear, Access access,
                                    bool user) noexcept
{
    TableMemory tables{core};
    return x86::probe(tables, paging_state(core, user ? mmu_user : mmu_supervisor), linear, access,
                      user, &core.tlb_->upper);
}

// ---- flushes ---------------------------------------------------------------------------------------

// What is not global.
void MemoryAccess::flush_local(Tlb& tlb) noexcept
{
    const auto flush_slot = [&tlb](unsigned mmu, unsigned slot) {
        if ((tlb.global[mmu][slot] & 1) == 0) tlb.read[mmu][slot].tag = TlbEntry::invalid;
        if ((tlb.global[mmu][slot] & 2) == 0) tlb.write[mmu][slot].tag = TlbEntry::invalid;
    };
    if (tlb.local.known()) return tlb.local.for_each(flush_slot);
    for (unsigned mmu = 0; mmu < mmu_count; ++mmu) {
        if (!tlb.used[mmu]) continue;
        for (unsigned slot = 0; slot < Tlb::size; ++slot) flush_slot(mmu, slot);
    }
}

void MemoryAccess::flush(Core& core, bool keep_global) noexcept
{
    Tlb& tlb = *core.tlb_;
    if (keep_global) {
        flush_local(tlb);
    } else {
        for (unsigned mmu = 0; mmu < mmu_count; ++mmu) {
            if (!tlb.used[mmu]) continue;
            tlb.read[mmu].fill({});
            tlb.write[mmu].fill({});
            tlb.global[mmu].fill(0);
            tlb.used[mmu] = false;
        }
        tlb.pieces_2m.reset();
        tlb.pieces_1g.reset();
    }
    tlb.local.clear();
    tlb.upper.clear();
    for (auto& table : tlb.fetch) table.fill({});
    if (core.blocks != nullptr) core.blocks->new_generation();
}

void MemoryAccess::flush_page(Core& core, std::uint64_t linear) noexcept
{
    Tlb& tlb = *core.tlb_;
    if (tlb.pieces_2m.test(Tlb::region_2m(linear)) || tlb.pieces_1g.test(Tlb::region_1g(linear))) {
        flush(core, false);
        return;
    }
    tlb.upper.clear();
    const unsigned slot = Tlb::slot(linear);
    for (unsigned mmu = 0; mmu < mmu_count; ++mmu) {
        tlb.read[mmu][slot].tag = TlbEntry::invalid;
        tlb.write[mmu][slot].tag = TlbEntry::invalid;
    }
    for (auto& table : tlb.fetch) {
        table[(linear >> base::page_shift) & (Tlb::fetch_size - 1)].tag = TlbEntry::invalid;
    }
    if (core.blocks != nullptr) core.blocks->page_changed(linear);
}

void MemoryAccess::watch_page(Core& core, std::uint64_t ram_offset) noexcept
{
    const std::uint64_t host_page =
        std::bit_cast<std::uint64_t>(core.memory.ram() + (ram_offset & ~page_mask));
    for (auto& table : core.tlb_->write) {
        for (TlbEntry& entry : table) {
            if (entry.tag + entry.addend == host_page) entry.tag |= TlbEntry::code;
        }
    }
}

}  // namespace doppel::engine::interpret
