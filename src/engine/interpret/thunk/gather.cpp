// Gathers and scatters, element by element. An element that is done clears its mask bit,
// so that a fault leaves the instruction resumable exactly as the architecture says (SDM
// volume 2, VPGATHERDD and VPSCATTERDD).
#include <algorithm>

#include "engine/interpret/thunk/run.h"
#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret::thunk {

namespace {

using Vector64 = std::array<std::uint8_t, 64>;

std::int64_t index_value(const Vector64& index, unsigned element, unsigned size)
{
    if (size == 4) {
        std::int32_t value = 0;
        std::memcpy(&value, index.data() + 4 * element, sizeof value);
        return value;
    }
    std::int64_t value = 0;
    std::memcpy(&value, index.data() + 8 * element, sizeof value);
    return value;
}

std::uint64_t truncate(std::uint64_t offset, unsigned address_size)
{
    return address_size == 8 ? offset : offset & ((std::uint64_t{1} << (8 * address_size)) - 1);
}

struct State {
    Vector64 vector{}, index{}, mask{};
    std::uint64_t opmask = 0;
};

bool element_enabled(const Gather& gather, const State& state, unsigned element)
{
    if (gather.opmask) return ((state.opmask >> element) & 1) != 0;
    return (state.mask[(element + 1) * gather.element_size - 1] & 0x80) != 0;
}

// The processor first widens each element's sign bit over the whole mask element, which a
// gather that stops half-way leaves visible.
void extend_mask(const Gather& gather, State& state)
{
    for (unsigned i = 0; i < gather.elements; ++i) {
        std::memset(state.mask.data() + std::size_t{i} * gather.element_size,
                    element_enabled(gather, state, i) ? 0xff : 0, gather.element_size);
    }
}

void element_done(const Gather& gather, State& state, unsigned element)
{
    if (gather.opmask) {
        state.opmask &= ~(std::uint64_t{1} << element);
    } else {
        std::memset(state.mask.data() + element * gather.element_size, 0, gather.element_size);
    }
}

void commit(Core& core, const Gather& gather, const State& state, bool complete)
{
    x86::XsaveArea& area = core.state.xsave;
    if (gather.opmask) {
        xsave_set(area, x86::xsave_offset_opmask + 8u * gather.mask,
                  complete ? 0 : state.opmask);
    }
    if (gather.scatter) return;
    // The destination above the last element is zeroed, as after any VEX or EVEX write;
    // before that, a partial gather has changed nothing but elements.
    Vector64 out = state.vector;
    Vector64 mask = state.mask;
    const std::size_t used = std::size_t{gather.elements} * gather.element_size;
    if (complete) {
        std::fill(out.begin() + static_cast<std::ptrdiff_t>(used), out.end(), std::uint8_t{0});
        mask.fill(0);
    }
    write_vector(area, gather.vector, out);
    if (!gather.opmask) write_vector(area, gather.mask, mask);
}

}  // namespace

Flow run_gather(Core& core, const Op& op) noexcept
{
    const Thunk* thunk = current(op);
    if (thunk == nullptr) [[unlikely]] return run_again(core, op);
    x86::Vector fault{};
    if (!may_run(core, thunk->needs, fault)) return core.raise(fault);
    ensure_present(core.state.xsave, thunk->needs.components);

    const Gather& gather = thunk->gather;
    State state;
    read_vector(core.state.xsave, gather.vector, state.vector);
    read_vector(core.state.xsave, gather.index, state.index);
    if (gather.opmask) {
        state.opmask = read_opmask(core.state.xsave, gather.mask) &
                       ((std::uint64_t{1} << gather.elements) - 1);
    } else {
        read_vector(core.state.xsave, gather.mask, state.mask);
        extend_mask(gather, state);
    }
    const std::uint64_t start = core.effective_offset(op);
    for (unsigned i = 0; i < gather.elements; ++i) {
        if (!element_enabled(gather, state, i)) continue;
        const auto index = static_cast<std::uint64_t>(index_value(state.index, i, gather.index_size));
        const std::uint64_t offset = truncate(start + index * gather.scale, op.address_size);
        const auto element = std::as_writable_bytes(
            std::span{state.vector}.subspan(std::size_t{i} * gather.element_size, gather.element_size));
        std::uint64_t linear = 0;
        const bool done =
            core.linear_address(op.segment, offset, gather.element_size, gather.scatter, linear) &&
            (gather.scatter ? core.store_bytes(linear, element) : core.load_bytes(linear, element));
        if (!done) {
            const Flow flow = core.pending_flow();
            // A device exit answers from its log when the instruction restarts from its
            // first element; a fault is resumed at the element that raised it.
            if (flow == Flow::fault) commit(core, gather, state, false);
            return flow;
        }
        element_done(gather, state, i);
    }
    commit(core, gather, state, true);
    return Flow::next;
}

}  // namespace doppel::engine::interpret::thunk
