// Where the vCPU's registers are, and how they get there: the interpreter's state, a context of
// translated code, the vector registers of a processor.
#include "engine/translate/worker/executor.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "engine/translate/block/recover.h"
#include "engine/translate/dispatch/supervisor.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {

namespace {

using x86::rflags::AC, x86::rflags::DF, x86::rflags::ID, x86::rflags::STATUS;

// RFLAGS that translated code keeps in the host's own.
constexpr std::uint64_t own_flags = STATUS | DF | ID;
constexpr unsigned legacy_registers = 8;
constexpr std::uint64_t low_half = 0xffffffff;
constexpr std::uint64_t host_flags = 0x202;  // IF and the bit that is always set

}  // namespace

ExecContext& Executor::context()
{
    return mode_.user ? space_->process().context() : supervisor();
}

Window& Executor::window()
{
    if (mode_.user) return space_->window();
    return mode_.code32 ? window32_ : supervisor_window_;
}

std::uint64_t* Executor::targets_of_supervisor()
{
    // SAFETY: mapped by the worker at its fixed address.
    return reinterpret_cast<std::uint64_t*>(supervisor_targets);
}

CodeCache::Space Executor::code_space() const
{
    return mode_.user ? space_->code() : supervisor_space_;
}

void Executor::load_context()
{
    ExecContext& to = context();
    std::copy_n(registers_.gpr, 16, to.gpr);
    if (mode_.user) {
        load_user_context(interpreter_.rflags());
    } else {
        if (!mode_.code32) to.gpr[x86::RSP] += fold;
        load_system_context(interpreter_.rflags());
    }
    if (mode_.code32) load_code32_context();
    in_context_ = true;
}

// What 32-bit code is promised, see lower/code32.cpp. The upper halves of its registers are undefined
// since it was entered, R8 to R15 stay in the interpreter's state.
void Executor::load_code32_context()
{
    const x86::CpuState& state = *registers_.state;
    ExecContext& to = context();
    for (unsigned i = 0; i < legacy_registers; ++i) {
        registers_.gpr[i] &= low_half;
        to.gpr[i] = registers_.gpr[i];
    }
    to.gpr[x86::R14] = state.segments[x86::FS].base & low_half;
    to.gpr[x86::R15] = state.segments[x86::GS].base & low_half;
}

// All but the general registers, these two.
void Executor::load_user_context(std::uint64_t flags)
{
    const x86::CpuState& state = *registers_.state;
    ExecContext& to = context();
    to.flags = (flags & own_flags) | host_flags;
    to.fs_base = state.segments[x86::FS].base;
    to.gs_base = mode_.gs_free ? user_targets : state.segments[x86::GS].base;
    to.tsc_offset = tsc_offset_;
    to.tsc_aux = static_cast<std::uint32_t>(state.tsc_aux);
}

void Executor::load_system_context(std::uint64_t flags)
{
    const x86::CpuState& state = *registers_.state;
    ExecContext& to = supervisor();
    to.flags = (flags & own_flags) | host_flags;
    to.system_flags = flags & ~own_flags;
    to.guest_fs_base = state.segments[x86::FS].base;
    for (unsigned i = 0; i < std::size(to.selectors); ++i) to.selectors[i] = state.segments[i].selector;
    to.fs_base = mode_.code32 ? 0 : state.segments[x86::GS].base + fold;
    const std::uint64_t other = state.kernel_gs_base + fold;
    to.other_fs_base = other < user_window_end ? other : 0;
    to.cr2 = state.cr2;
    to.pending = window_wanted_ ? 1 : 0;
    to.tsc_offset = tsc_offset_;
    to.tsc_aux = static_cast<std::uint32_t>(state.tsc_aux);
}

std::uint64_t Executor::join_flags(std::uint64_t system, std::uint64_t host)
{
    return (system & ~own_flags) | (host & own_flags);
}

void Executor::unload_context(std::uint64_t rip)
{
    const ExecContext& from = context();
    if (mode_.code32) {
        for (unsigned i = 0; i < legacy_registers; ++i) registers_.gpr[i] = from.gpr[i] & low_half;
    } else {
        std::copy_n(from.gpr, 16, registers_.gpr);
    }
    if (mode_.user) {
        interpreter_.set_rflags(join_flags(registers_.state->rflags, from.flags));
    } else {
        interpreter_.set_rflags(join_flags(from.system_flags, from.flags));
    }
    if (!mode_.user && !mode_.code32) {
        registers_.gpr[x86::RSP] -= fold;
        if (take_bases()) interpreter_.mode_changed();
    }
    *registers_.rip = rip;
    in_context_ = false;
    if (lock_step_ != nullptr) verify_check();
}

// What SWAPGS, WRFSBASE and WRGSBASE did in translated code since the context was loaded. False:
// nothing.
bool Executor::take_bases()
{
    x86::CpuState& state = *registers_.state;
    const ExecContext& from = supervisor();
    const std::uint64_t gs = from.fs_base - fold;
    // 0: one that the host cannot take, so that it was not exchanged either.
    if (from.other_fs_base != 0) state.kernel_gs_base = from.other_fs_base - fold;
    std::uint64_t& fs_base = state.segments[x86::FS].base;
    std::uint64_t& gs_base = state.segments[x86::GS].base;
    if (gs == gs_base && from.guest_fs_base == fs_base) return false;
    gs_base = gs;
    fs_base = from.guest_fs_base;
    return true;
}

bool Executor::unload_at_point()
{
    const Block* block = cache().block_at(host_rip_);
    if (block == nullptr) return false;
    const auto offset = static_cast<std::uint32_t>(host_rip_ - block->host);
    const auto point = std::lower_bound(block->points.begin(), block->points.end(), offset,
                                        [](const Point& p, std::uint32_t value) { return p.host < value; });
    if (point == block->points.end() || point->host != offset || point->shadow) return false;
    unload_inside(*block, offset, *point);
    return true;
}

bool Executor::unload_precisely()
{
    const Block* block = cache().block_at(host_rip_);
    if (block == nullptr) return false;
    const auto offset = static_cast<std::uint32_t>(host_rip_ - block->host);
    auto point = std::upper_bound(block->points.begin(), block->points.end(), offset,
                                  [](std::uint32_t value, const Point& p) { return value < p.host; });
    if (point == block->points.begin()) return false;
    unload_inside(*block, offset, *(point - 1));
    return true;
}

void Executor::unload_inside(const Block& block, std::uint32_t offset, const Point& point)
{
    recover(block.displaced, offset, context());
    unload_context(block.rip + point.guest);
    stepping_ = false;
}

void Executor::take_fpu()
{
    if (fpu_owner_ == nullptr) return;
    UserProcess* owner = fpu_owner_;
    fpu_owner_ = nullptr;
    interpreter_.vectors_elsewhere(false);
    ++counts_.fpu_saves;
    if (!owner->save_fpu(registers_.state->xsave)) failure_ = "a user process died";
}

// Components whose registers are all zero become initial. To the guest it is the same; the
// processor otherwise takes the upper halves for used, and legacy SSE code that meets VEX code
// then runs twenty times slower.
void Executor::make_initial(x86::XsaveArea& area)
{
    struct Component {
        std::uint64_t bit;
        unsigned offset, size;
    };
    constexpr Component components[] = {{x86::xcr0::AVX, x86::xsave_offset_avx, 256},
                                        {x86::xcr0::OPMASK, x86::xsave_offset_opmask, 64},
                                        {x86::xcr0::ZMM_HI256, x86::xsave_offset_zmm_hi256, 512},
                                        {x86::xcr0::HI16_ZMM, x86::xsave_offset_hi16_zmm, 1024}};
    constexpr unsigned header = 512;
    std::uint64_t present = 0;
    std::memcpy(&present, area.bytes.data() + header, sizeof present);
    for (const Component& component : components) {
        if ((present & component.bit) == 0) continue;
        const auto* first = area.bytes.data() + component.offset;
        if (std::all_of(first, first + component.size, [](std::uint8_t byte) { return byte == 0; })) {
            present &= ~component.bit;
        }
    }
    std::memcpy(area.bytes.data() + header, &present, sizeof present);
}

void Executor::export_state()
{
    ASSERT(!in_context_);
    take_fpu();
}

void Executor::forget_all()
{
    flush_.any = true;
    flush_.global = true;
    space_ = nullptr;  // the PCID may be another
    fpu_owner_ = nullptr;
    interpreter_.vectors_elsewhere(false);
}

}  // namespace doppel::engine::translate
