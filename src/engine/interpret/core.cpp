#include "engine/interpret/core.h"

#include "engine/interpret/block_cache.h"
#include "engine/interpret/interpreter.h"

namespace doppel::engine::interpret {

namespace {

constexpr std::uint64_t mask32 = 0xffffffff;
// LAHF puts SF ZF AF PF CF where RFLAGS has them.
constexpr std::uint64_t lahf_bits = x86::rflags::STATUS & ~x86::rflags::OF;

std::uint16_t pack_flags(std::uint64_t rflags)
{
    const std::uint64_t of = (rflags & x86::rflags::OF) != 0 ? 1 : 0;
    return static_cast<std::uint16_t>(((rflags & lahf_bits) | x86::rflags::RESERVED1) << 8 | of);
}

// Data breakpoints of DR7: enabled (local or global) with R/W not "execute".
bool watches_data(std::uint64_t dr7)
{
    for (unsigned i = 0; i < 4; ++i) {
        if (((dr7 >> (2 * i)) & 3) != 0 && ((dr7 >> (16 + 4 * i)) & 3) != 0) return true;
    }
    return false;
}

bool readable(const x86::Segment& segment)
{
    return (segment.type() & 8) == 0 || (segment.type() & 2) != 0;
}

bool writable(const x86::Segment& segment)
{
    return (segment.type() & 8) == 0 && (segment.type() & 2) != 0;
}

bool within_limit(const x86::Segment& segment, std::uint64_t offset, unsigned size)
{
    const std::uint64_t last = offset + size - 1;
    const bool expand_down = (segment.type() & 0xc) == 4 && segment.code_or_data();
    if (expand_down) {
        return offset > segment.limit && last <= (segment.db() ? mask32 : 0xffff);
    }
    // A 4 GiB segment has no end: accesses wrap around.
    return last <= segment.limit || segment.limit == mask32;
}

}  // namespace

Core::Core(memory::GuestMemory& memory_in, bus::VmClock& clock_in, const x86::CpuidPolicy& cpuid_in)
    : memory(memory_in), clock(clock_in), cpuid(cpuid_in), tlb_(std::make_unique<Tlb>())
{
    device_log_.reserve(16);
    update_mode();
}

Core::~Core() = default;

std::uint64_t Core::rflags() const
{
    const std::uint64_t status =
        ((flags >> 8) & lahf_bits) | ((flags & 1) != 0 ? x86::rflags::OF : 0);
    return (state.rflags & ~x86::rflags::STATUS) | status | x86::rflags::RESERVED1;
}

void Core::set_rflags(std::uint64_t value)
{
    const std::uint64_t changed = state.rflags ^ value;
    state.rflags = value | x86::rflags::RESERVED1;
    flags = pack_flags(value);
    if ((changed & (x86::rflags::VM | x86::rflags::AC)) != 0) update_mode();
}

x86::CpuState Core::export_state() const
{
    x86::CpuState result = state;
    std::copy_n(gpr.begin(), result.gpr.size(), result.gpr.begin());
    result.rflags = rflags();
    return result;
}

void Core::import_state(const x86::CpuState& from)
{
    state = from;
    std::copy(from.gpr.begin(), from.gpr.end(), gpr.begin());
    gpr[reg_none] = 0;
    state.rflags |= x86::rflags::RESERVED1;
    flags = pack_flags(from.rflags);
    retire_device_log();
    pending_ = Flow::next;
    flush_tlb(false);
    update_mode();
}

void Core::update_mode()
{
    end_block_ = true;  // what follows was decoded for the old mode
    const bool protected_mode = state.protected_mode();
    const bool vm86 = protected_mode && state.vm86();
    const x86::Segment& cs = state.segments[x86::CS];
    cpl = !protected_mode ? 0 : vm86 ? 3 : state.segments[x86::SS].dpl();
    code_size = state.code64() ? CodeSize::bits64 : cs.db() ? CodeSize::bits32 : CodeSize::bits16;
    stack32 = state.segments[x86::SS].db();

    const bool code64 = code_size == CodeSize::bits64;
    for (unsigned i = 0; i < state.segments.size(); ++i) {
        const bool flat = code64 && i != x86::FS && i != x86::GS;
        segment_base[i] = flat ? 0 : state.segments[i].base;
    }
    segment_base[segment_none] = 0;

    const bool ac = (state.rflags & x86::rflags::AC) != 0;
    const bool smap = (state.cr4 & x86::cr4::SMAP) != 0;
    data_mmu = cpl == 3 ? mmu_user : smap && !ac ? mmu_supervisor : mmu_supervisor_ac;
    alignment_checks_ = ac && cpl == 3 && (state.cr0 & x86::cr0::AM) != 0;
    choose_tables();

    mode_key = static_cast<std::uint64_t>(code_size) | (cpl == 3 ? 4u : 0u) |
               (protected_mode ? 8u : 0u) | (vm86 ? 16u : 0u) | (state.long_mode() ? 32u : 0u);
    if (!code64) {
        mode_key |= cs.base << 8;
        // Blocks were checked against the limit when they were looked up.
        if (cs.limit != code_limit_ && blocks != nullptr) blocks->new_generation();
        code_limit_ = cs.limit;
    }
}

void Core::choose_tables()
{
    data_breakpoints_ = watches_data(state.dr7);
    if (alignment_checks_ || data_breakpoints_) {
        read_table_ = tlb_->empty.data();
        write_table_ = tlb_->empty.data();
    } else {
        read_table_ = trial == nullptr ? tlb_->read[data_mmu].data() : tlb_->empty.data();
        write_table_ = trial == nullptr ? tlb_->write[data_mmu].data() : tlb_->empty.data();
    }
}

// ---- addresses -----------------------------------------------------------------------------

bool Core::linear_address(unsigned segment, std::uint64_t offset, unsigned size, bool write,
                          std::uint64_t& linear)
{
    const auto fail = [&] {
        pending_ = raise(segment == x86::SS ? Vector::SS : Vector::GP);
        return false;
    };
    if (code_size == CodeSize::bits64) {
        linear = segment_base[segment] + offset;
        const auto canonical = [](std::uint64_t address) {
            return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) ==
                   address;
        };
        return canonical(linear) && canonical(linear + size - 1) ? true : fail();
    }
    const x86::Segment& from = state.segments[segment];
    if (state.protected_mode() && !state.vm86()) {
        if (from.unusable() || !from.present()) return fail();
        if (write ? !writable(from) : !readable(from)) return fail();
    }
    if (!within_limit(from, offset, size)) return fail();
    linear = (from.base + offset) & mask32;
    return true;
}

std::uint64_t Core::effective_offset(const Op& op) const
{
    const std::uint64_t offset = gpr[op.base] + (gpr[op.index] << op.scale_shift) +
                                 static_cast<std::uint64_t>(op.displacement);
    switch (op.address_size) {
    case 2: return offset & 0xffff;
    case 4: return offset & mask32;
    default: return offset;
    }
}

// ---- stack ----------------------------------------------------------------------------------

bool Core::push(std::uint64_t value, unsigned size)
{
    std::uint64_t linear = 0;
    std::uint64_t top = 0;
    if (code_size == CodeSize::bits64) {
        top = linear = gpr[x86::RSP] - size;
    } else {
        const std::uint64_t mask = stack32 ? mask32 : 0xffff;
        const std::uint64_t offset = (gpr[x86::RSP] - size) & mask;
        if (!linear_address(x86::SS, offset, size, true, linear)) return false;
        top = stack32 ? offset : (gpr[x86::RSP] & ~std::uint64_t{0xffff}) | offset;
    }
    const bool done = size == 8   ? store(linear, value)
                      : size == 4 ? store(linear, static_cast<std::uint32_t>(value))
                                  : store(linear, static_cast<std::uint16_t>(value));
    if (!done) {
        MemoryAccess::as_stack_fault(*this);
        return false;
    }
    gpr[x86::RSP] = top;
    return true;
}

bool Core::pop(std::uint64_t& value, unsigned size)
{
    std::uint64_t linear = gpr[x86::RSP];
    std::uint64_t top = linear + size;
    if (code_size != CodeSize::bits64) {
        const std::uint64_t mask = stack32 ? mask32 : 0xffff;
        const std::uint64_t offset = gpr[x86::RSP] & mask;
        if (!linear_address(x86::SS, offset, size, false, linear)) return false;
        top = (offset + size) & mask;
        if (!stack32) top |= gpr[x86::RSP] & ~std::uint64_t{0xffff};
    }
    std::uint16_t narrow = 0;
    std::uint32_t middle = 0;
    const bool done = size == 8   ? load(linear, value)
                      : size == 4 ? load(linear, middle)
                                  : load(linear, narrow);
    if (!done) {
        MemoryAccess::as_stack_fault(*this);
        return false;
    }
    if (size != 8) value = size == 4 ? middle : narrow;
    gpr[x86::RSP] = top;
    return true;
}

// ---- blocks of bytes, checks ------------------------------------------------------------------

bool Core::load_bytes(std::uint64_t linear, std::span<std::byte> to)
{
    return MemoryAccess::load_bytes(*this, linear, to, data_mmu, MemoryAccess::Kind::explicit_data);
}

bool Core::store_bytes(std::uint64_t linear, std::span<const std::byte> from)
{
    return MemoryAccess::store_bytes(*this, linear, from, data_mmu,
                                     MemoryAccess::Kind::explicit_data);
}

bool Core::check_write(std::uint64_t linear, unsigned size)
{
    return MemoryAccess::check(*this, linear, size, x86::Access::write, data_mmu);
}

bool Core::check_read(std::uint64_t linear, unsigned size)
{
    return MemoryAccess::check(*this, linear, size, x86::Access::read, data_mmu);
}

// ---- devices -----------------------------------------------------------------------------------

bool Core::io_read(std::uint16_t port, unsigned size, std::uint64_t& value)
{
    return MemoryAccess::device(*this, IoReadExit{port, static_cast<std::uint8_t>(size)}, value);
}

bool Core::io_write(std::uint16_t port, unsigned size, std::uint64_t value)
{
    return MemoryAccess::device(*this, IoWriteExit{port, static_cast<std::uint8_t>(size), value},
                                value);
}

void Core::answer_read(std::uint64_t value)
{
    if (device_log_.empty() || device_log_.back().answered) return;
    device_log_.back().value = value;
    device_log_.back().answered = true;
}

// ---- translation caches ------------------------------------------------------------------------

void Core::drop_translations(bool keep_global)
{
    MemoryAccess::flush(*this, keep_global);
}

void Core::flush_tlb(bool keep_global)
{
    drop_translations(keep_global);
    if (observer != nullptr) observer->tlb_flushed(keep_global);
}

void Core::flush_tlb_page(std::uint64_t linear)
{
    MemoryAccess::flush_page(*this, linear);
    if (observer != nullptr) observer->page_flushed(linear);
}

void Core::change_address_space(std::uint64_t cr3, bool keep)
{
    state.cr3 = cr3;
    // Translations carry no PCID here, so none of the old ones can be kept.
    drop_translations(true);
    if (observer != nullptr) observer->address_space_changed(cr3, keep);
}

void Core::flush_pcid(unsigned type, std::uint16_t pcid, std::uint64_t linear)
{
    if (type == 0) {
        MemoryAccess::flush_page(*this, linear);
    } else {
        drop_translations(type != 2);
    }
    if (observer != nullptr) observer->pcid_flushed(type, pcid, linear);
}

void Core::code_written(base::Gpa gpa, std::uint64_t size)
{
    if (blocks == nullptr) return;
    const std::span<std::byte> range = memory.span(gpa, size);
    if (range.empty()) return;
    if (blocks->written(static_cast<std::uint64_t>(range.data() - memory.ram()), size)) end_block();
}

}  // namespace doppel::engine::interpret
