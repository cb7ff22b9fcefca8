// XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS. SDM volume 1 sections 13.7 to 13.12.
//
// Guest components live in CpuState::xsave in standard format, so that saving is copying
// pieces; XINUSE is that area's own XSTATE_BV. The modified optimisation is never applied
// (the architecture leaves that open).
#include <algorithm>

#include "engine/interpret/thunk/legacy_image.h"
#include "engine/interpret/thunk/run.h"

namespace doppel::engine::interpret::thunk {

namespace {

using namespace x86;

constexpr std::uint64_t compacted = std::uint64_t{1} << 63;
constexpr unsigned extended = 576;

struct Component {
    std::uint64_t bit;
    unsigned offset, size;  // standard format
    unsigned narrow_size;   // outside 64-bit mode, where registers 8 and up are not accessible
};
constexpr Component components[] = {
    {xcr0::AVX, xsave_offset_avx, 256, 128},
    {xcr0::OPMASK, xsave_offset_opmask, 64, 64},
    {xcr0::ZMM_HI256, xsave_offset_zmm_hi256, 512, 256},
    {xcr0::HI16_ZMM, xsave_offset_hi16_zmm, 1024, 0},
};

enum class Form { standard, optimised, compact, supervisor };

struct Layout {
    unsigned offset[std::size(components)]{};
    unsigned end = extended;
};

// Compacted: components of `format` follow each other; their sizes are multiples of 64, so
// that the alignment bits of CPUID leaf 0xd change nothing.
Layout layout(bool compact, std::uint64_t format)
{
    Layout result;
    for (std::size_t i = 0; i < std::size(components); ++i) {
        const Component& component = components[i];
        if ((format & component.bit) == 0) continue;
        result.offset[i] = compact ? result.end : component.offset;
        result.end = result.offset[i] + component.size;
    }
    return result;
}

unsigned accessible(const Component& component, bool long_mode)
{
    return long_mode ? component.size : component.narrow_size;
}

// Checks before any of them. False: the fault is in `flow`.
bool prepare(Core& core, const Op& op, Form form, unsigned size, bool write, std::uint64_t& linear,
             Flow& flow)
{
    const CpuState& state = core.state;
    if ((state.cr4 & cr4::OSXSAVE) == 0) {
        flow = core.raise(Vector::UD);
    } else if ((state.cr0 & cr0::TS) != 0) {
        flow = core.raise(Vector::NM);
    } else if (form == Form::supervisor && core.cpl != 0) {
        flow = core.raise(Vector::GP, 0);
    } else if (!core.operand_address(op, size, write, linear)) {
        flow = core.pending_flow();
    } else if ((linear & 63) != 0) {
        flow = core.raise(Vector::GP, 0);
    } else {
        return true;
    }
    return false;
}

std::uint64_t requested(const Core& core, Form form)
{
    const std::uint64_t mask = (core.gpr[RDX] << 32) | (core.gpr[RAX] & 0xffffffffu);
    const std::uint64_t enabled =
        form == Form::supervisor ? core.state.xcr0 | core.state.xss : core.state.xcr0;
    return mask & enabled & xcr0::SUPPORTED;
}

// Stores collected first and checked before the first byte is written.
class Stores {
public:
    explicit Stores(std::uint64_t base) : base_(base) {}
    void add(unsigned offset, const void* from, unsigned size)
    {
        if (size == 0) return;
        ASSERT(count_ < pieces_.size());
        pieces_[count_++] = {offset, size, static_cast<const std::byte*>(from)};
    }
    Flow commit(Core& core) const
    {
        for (std::size_t i = 0; i < count_; ++i) {
            if (!core.check_write(base_ + pieces_[i].offset, pieces_[i].size)) return core.pending_flow();
        }
        for (std::size_t i = 0; i < count_; ++i) {
            const Piece& piece = pieces_[i];
            if (!core.store_bytes(base_ + piece.offset, {piece.from, piece.size})) {
                return core.pending_flow();
            }
        }
        return Flow::next;
    }

private:
    struct Piece {
        unsigned offset, size;
        const std::byte* from;
    };
    std::uint64_t base_;
    std::array<Piece, 12> pieces_{};
    std::size_t count_ = 0;
};

// XINUSE: MXCSR is part of the SSE component for the forms that say so.
std::uint64_t in_use(const XsaveArea& area, Form form)
{
    std::uint64_t used = xstate_bv(area);
    if (form == Form::compact || form == Form::supervisor) {
        if (xsave_get<std::uint32_t>(area, xsave_mxcsr) != mxcsr_default) used |= xcr0::SSE;
    }
    return used;
}

// Memory of components in INIT may hold anything; give it the initial values.
void fill_initial(XsaveArea& area)
{
    const std::uint64_t missing = xcr0::SUPPORTED & ~xstate_bv(area);
    if (missing != 0) initialise(area, missing);
}

Flow save(Core& core, const Op& op, Form form)
{
    const std::uint64_t rfbm = requested(core, form);
    const bool compact = form == Form::compact || form == Form::supervisor;
    const Layout where = layout(compact, rfbm);
    std::uint64_t linear = 0;
    Flow flow{};
    if (!prepare(core, op, form, where.end, true, linear, flow)) return flow;

    XsaveArea& area = core.state.xsave;
    fill_initial(area);
    const bool long_mode = core.code_size == CodeSize::bits64;
    const std::uint64_t used = in_use(area, form) & rfbm;
    // XSAVE writes every requested component; the others leave those in INIT alone.
    const std::uint64_t written = form == Form::standard ? rfbm : used;

    std::array<std::uint64_t, 2> header{used, rfbm | compacted};
    if (!compact) {
        std::uint64_t old = 0;
        // Read to be written: a page that cannot be is found as one.
        if (!core.check_write(linear + xsave_header, sizeof old) ||
            !core.load(linear + xsave_header, old)) {
            return core.pending_flow();
        }
        header[0] = (old & ~rfbm) | used;
    }
    std::array<std::uint8_t, xsave_xmm> legacy{};
    std::memcpy(legacy.data(), area.bytes.data(), legacy.size());
    std::memcpy(legacy.data() + xsave_mxcsr_mask, &mxcsr_supported, 4);
    if ((op.extra & extra_wide) == 0) narrow_pointers(legacy.data());

    Stores stores{linear};
    if ((written & xcr0::X87) != 0) {
        stores.add(0, legacy.data(), legacy_x87_size);
        stores.add(xsave_st, legacy.data() + xsave_st, 128);
    }
    const bool mxcsr = compact ? (written & xcr0::SSE) != 0 : (rfbm & (xcr0::SSE | xcr0::AVX)) != 0;
    if (mxcsr) stores.add(xsave_mxcsr, legacy.data() + xsave_mxcsr, 8);
    if ((written & xcr0::SSE) != 0) {
        stores.add(xsave_xmm, area.bytes.data() + xsave_xmm, 16 * visible_xmm(long_mode));
    }
    for (std::size_t i = 0; i < std::size(components); ++i) {
        if ((written & components[i].bit) == 0) continue;
        stores.add(where.offset[i], area.bytes.data() + components[i].offset,
                   accessible(components[i], long_mode));
    }
    stores.add(xsave_header, header.data(), compact ? 16 : 8);
    return stores.commit(core);
}

struct Image {
    alignas(64) std::array<std::uint8_t, 2688> bytes{};
    std::uint64_t xstate_bv = 0, xcomp_bv = 0;
    [[nodiscard]] bool compact() const { return (xcomp_bv & compacted) != 0; }
};

bool header_valid(const Core& core, Form form, const Image& image, const std::uint8_t* header)
{
    const std::uint64_t enabled =
        core.state.xcr0 | (form == Form::supervisor ? core.state.xss : std::uint64_t{0});
    if (form == Form::supervisor && !image.compact()) return false;
    const unsigned reserved_end = image.compact() ? 64 : 24;
    if (std::any_of(header + 16, header + reserved_end, [](std::uint8_t byte) { return byte != 0; })) {
        return false;
    }
    if (!image.compact()) return image.xcomp_bv == 0 && (image.xstate_bv & ~enabled) == 0;
    const std::uint64_t format = image.xcomp_bv & ~compacted;
    return (format & ~enabled) == 0 && (image.xstate_bv & ~format) == 0;
}

// Copies component memory of `area` from an image in which it lies at `from`.
void restore_component(XsaveArea& area, const Component& component, const std::uint8_t* from,
                       bool long_mode)
{
    ensure_present(area, component.bit);
    std::memcpy(area.bytes.data() + component.offset, from, accessible(component, long_mode));
}

void initialise_component(XsaveArea& area, const Component& component, bool long_mode)
{
    if (long_mode) return initialise(area, component.bit);
    ensure_present(area, component.bit);
    std::memset(area.bytes.data() + component.offset, 0, component.narrow_size);
}

Flow restore(Core& core, const Op& op, Form form)
{
    std::uint64_t linear = 0;
    Flow flow{};
    if (!prepare(core, op, form, extended, false, linear, flow)) return flow;
    const std::uint64_t rfbm = requested(core, form);

    Image image;
    if (!core.load_bytes(linear, std::as_writable_bytes(std::span{image.bytes}.first(extended)))) {
        return core.pending_flow();
    }
    const std::uint8_t* header = image.bytes.data() + xsave_header;
    std::memcpy(&image.xstate_bv, header, 8);
    std::memcpy(&image.xcomp_bv, header + 8, 8);
    const bool compact_feature = core.cpuid.has(13, 1, 'a', 1);
    if (!header_valid(core, form, image, header) || (image.compact() && !compact_feature)) {
        return core.raise(Vector::GP, 0);
    }

    const std::uint64_t format = image.compact() ? image.xcomp_bv & ~compacted : rfbm;
    const Layout where = layout(image.compact(), format);
    const std::uint64_t loaded = image.xstate_bv & rfbm;
    const bool long_mode = core.code_size == CodeSize::bits64;
    for (std::size_t i = 0; i < std::size(components); ++i) {
        const unsigned size = accessible(components[i], long_mode);
        if ((loaded & components[i].bit) == 0 || size == 0) continue;
        const auto target = std::span{image.bytes}.subspan(where.offset[i], size);
        if (!core.linear_address(op.segment, core.effective_offset(op), where.end, false, linear) ||
            !core.load_bytes(linear + where.offset[i], std::as_writable_bytes(target))) {
            return core.pending_flow();
        }
    }

    // MXCSR: with standard format whenever SSE or AVX is asked for, whatever XSTATE_BV.
    const bool mxcsr_loaded = image.compact() ? (loaded & xcr0::SSE) != 0
                                              : (rfbm & (xcr0::SSE | xcr0::AVX)) != 0;
    const bool mxcsr_initialised = image.compact() && (rfbm & ~loaded & xcr0::SSE) != 0;
    std::uint32_t mxcsr = 0;
    std::memcpy(&mxcsr, image.bytes.data() + xsave_mxcsr, sizeof mxcsr);
    if (mxcsr_loaded && (mxcsr & ~mxcsr_supported) != 0) return core.raise(Vector::GP, 0);

    XsaveArea& area = core.state.xsave;
    if (mxcsr_loaded || mxcsr_initialised) {
        xsave_set(area, xsave_mxcsr, mxcsr_loaded ? mxcsr : mxcsr_default);
    }
    if ((loaded & xcr0::X87) != 0) {
        if ((op.extra & extra_wide) == 0) narrow_pointers(image.bytes.data());
        clear_x87_reserved(image.bytes.data());
        ensure_present(area, xcr0::X87);
        std::memcpy(area.bytes.data(), image.bytes.data(), legacy_x87_size);
        std::memcpy(area.bytes.data() + xsave_st, image.bytes.data() + xsave_st, 128);
    } else if ((rfbm & xcr0::X87) != 0) {
        initialise(area, xcr0::X87);
    }
    const Component sse{xcr0::SSE, xsave_xmm, 256, 128};
    if ((loaded & xcr0::SSE) != 0) {
        restore_component(area, sse, image.bytes.data() + xsave_xmm, long_mode);
    } else if ((rfbm & xcr0::SSE) != 0) {
        initialise_component(area, sse, long_mode);
    }
    for (std::size_t i = 0; i < std::size(components); ++i) {
        if ((loaded & components[i].bit) != 0) {
            restore_component(area, components[i], image.bytes.data() + where.offset[i], long_mode);
        } else if ((rfbm & components[i].bit) != 0) {
            initialise_component(area, components[i], long_mode);
        }
    }
    return Flow::next;
}

template <Form form>
Flow run_save(Core& core, const Op& op) noexcept
{
    return save(core, op, form);
}
template <Form form>
Flow run_restore(Core& core, const Op& op) noexcept
{
    return restore(core, op, form);
}

}  // namespace

Handler handler_xsave(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE: case ZYDIS_MNEMONIC_XSAVE64: return run_save<Form::standard>;
    case ZYDIS_MNEMONIC_XSAVEOPT: case ZYDIS_MNEMONIC_XSAVEOPT64: return run_save<Form::optimised>;
    case ZYDIS_MNEMONIC_XSAVEC: case ZYDIS_MNEMONIC_XSAVEC64: return run_save<Form::compact>;
    case ZYDIS_MNEMONIC_XSAVES: case ZYDIS_MNEMONIC_XSAVES64: return run_save<Form::supervisor>;
    case ZYDIS_MNEMONIC_XRSTOR: case ZYDIS_MNEMONIC_XRSTOR64: return run_restore<Form::standard>;
    case ZYDIS_MNEMONIC_XRSTORS: case ZYDIS_MNEMONIC_XRSTORS64: return run_restore<Form::supervisor>;
    default: return nullptr;
    }
}

}  // namespace doppel::engine::interpret::thunk
