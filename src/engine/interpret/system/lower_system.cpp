#include "engine/interpret/lower.h"
#include "engine/interpret/system/helpers.h"

namespace doppel::engine::interpret {

namespace {

using namespace privileged;

bool lower(const Decoded& decoded, Op& op, Core& core)
{
    // The register operands here are all of full width: no AH, BH, ... coding.
    const auto& raw = decoded.instruction.raw;
    if ((decoded.instruction.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0) {
        op.reg = static_cast<std::uint8_t>(raw.modrm.reg | raw.rex.R << 3);
        if (raw.modrm.mod == 3) op.rm = static_cast<std::uint8_t>(raw.modrm.rm | raw.rex.B << 3);
    }
    return lower_segments(decoded, op, core) || lower_far_transfer(decoded, op, core) ||
           lower_interrupts(decoded, op, core) || lower_syscall(decoded, op, core) ||
           lower_control_registers(decoded, op, core) || lower_msr(decoded, op, core) ||
           lower_tables(decoded, op, core) || lower_io(decoded, op, core) ||
           lower_hypercall(decoded, op, core) || lower_misc(decoded, op, core);
}

}  // namespace

bool lower_system(const Decoded& decoded, Op& op, Core& core)
{
    // Whoever is asked next gets the op as it was.
    Op mine = op;
    if (!lower(decoded, mine, core)) return false;
    op = mine;
    return true;
}

}  // namespace doppel::engine::interpret
