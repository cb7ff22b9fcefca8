// Memory operands of which a mask enables single elements. Only those are touched: a
// disabled element on a page that is not there raises nothing.
#include <algorithm>
#include <bit>

#include "engine/interpret/thunk/run.h"
#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret::thunk {

namespace {

// Bit i: element i of the memory operand is touched.
std::uint64_t enabled_elements(const Core& core, const MemoryOperand& operand)
{
    const x86::XsaveArea& area = core.state.xsave;
    if (operand.masking == Masking::sign) {
        std::array<std::uint8_t, 64> vector{};
        read_vector(area, operand.mask_register, {vector.data(), operand.size});
        std::uint64_t enabled = 0;
        for (unsigned i = 0; i < operand.elements; ++i) {
            const unsigned top = (i + 1) * operand.element_size - 1;
            if ((vector[top] & 0x80) != 0) enabled |= std::uint64_t{1} << i;
        }
        return enabled;
    }
    std::uint64_t mask = read_opmask(area, operand.mask_register);
    if (operand.mask_bits < 64) mask &= (std::uint64_t{1} << operand.mask_bits) - 1;
    if (operand.masking == Masking::opmask_packed) {
        const int count = std::popcount(mask);
        return count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    }
    if (operand.masking == Masking::opmask_fold) {
        std::uint64_t folded = 0;
        for (unsigned i = 0; i < operand.mask_bits; ++i) {
            if (((mask >> i) & 1) != 0) folded |= std::uint64_t{1} << (i % operand.elements);
        }
        return folded;
    }
    return mask;
}

// Calls touch(first byte, bytes) for each run of neighbouring enabled elements, in order.
template <typename Touch>
bool for_each_run(std::uint64_t enabled, unsigned element_size, Touch touch)
{
    while (enabled != 0) {
        const auto first = static_cast<unsigned>(std::countr_zero(enabled));
        const auto count = static_cast<unsigned>(std::countr_one(enabled >> first));
        if (!touch(first * element_size, count * element_size)) return false;
        if (first + count == 64) break;
        enabled &= ~std::uint64_t{0} << (first + count);
    }
    return true;
}

}  // namespace

Flow run_masked(Core& core, const Op& op) noexcept
{
    const Thunk* thunk = current(op);
    if (thunk == nullptr) [[unlikely]] return run_again(core, op);
    x86::Vector fault{};
    if (!may_run(core, thunk->needs, fault)) return core.raise(fault);
    ensure_present(core.state.xsave, thunk->needs.components);

    const MemoryOperand& operand = thunk->memory;
    const std::uint64_t enabled = enabled_elements(core, operand);
    const std::uint64_t offset = core.effective_offset(op);
    std::uint64_t base = 0;
    // The address of an operand without enabled elements is never used.
    if (enabled != 0) {
        const auto first = static_cast<unsigned>(std::countr_zero(enabled)) * operand.element_size;
        const auto end = (64u - static_cast<unsigned>(std::countl_zero(enabled))) * operand.element_size;
        std::uint64_t linear = 0;
        if (!core.linear_address(op.segment, offset + first, end - first, operand.write, linear)) {
            return core.pending_flow();
        }
        base = linear - first;
        if ((base & (operand.alignment - 1u)) != 0) return core.raise(x86::Vector::GP, 0);
    }
    std::byte* bounce = core.thunks->bounce(base);
    const bool ready = for_each_run(enabled, operand.element_size, [&](unsigned at, unsigned size) {
        return operand.write ? core.check_write(base + at, size)
                             : core.load_bytes(base + at, {bounce + at, size});
    });
    if (!ready) return core.pending_flow();
    const Flow flow = execute(core, op, *thunk, bounce);
    if (flow != Flow::next || !operand.write) return flow;
    // A masked store changes no register (but for MXCSR flags of a conversion, which stay
    // set when the instruction runs again): it can restart after a device exit.
    const bool stored = for_each_run(enabled, operand.element_size, [&](unsigned at, unsigned size) {
        return core.store_bytes(base + at, {bounce + at, size});
    });
    return stored ? Flow::next : core.pending_flow();
}

}  // namespace doppel::engine::interpret::thunk
