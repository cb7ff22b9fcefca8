// What the families of system instructions share. Everything returns Flow: Flow::next means
// success, anything else is to be returned by the handler, with nothing changed.
#pragma once

#include <cstdint>

#include "engine/interpret/core.h"
#include "engine/interpret/lower.h"
#include "x86/descriptors.h"

namespace doppel::engine::interpret::privileged {

using x86::Segment;
using x86::SystemType;
namespace rflags = x86::rflags;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;
namespace efer = x86::efer;

#define FLOW_TRY(...)                                     \
    do {                                                  \
        const Flow flow_try_ = (__VA_ARGS__);             \
        if (flow_try_ != Flow::next) return flow_try_;    \
    } while (false)

inline Flow done(Core& core, bool ok) { return ok ? Flow::next : core.pending_flow(); }

// Protected mode proper: segment loads go through descriptors.
inline bool descriptors_in_use(const Core& core)
{
    return core.state.protected_mode() && !core.state.vm86();
}
inline bool code64(const Core& core) { return core.code_size == CodeSize::bits64; }
inline unsigned iopl(const Core& core)
{
    return static_cast<unsigned>(core.state.rflags >> 12) & 3;
}
inline bool canonical(std::uint64_t address)
{
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}
inline std::uint64_t size_mask(unsigned bytes)
{
    return bytes >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes)) - 1;
}

// Finishes an instruction after which the block must end: mode, paging, shadow, or a state
// that the run loop looks at.
inline Flow finish(Core& core, const Op& op)
{
    core.state.rip = core.next_rip(op);
    return Flow::leave;
}

inline std::uint64_t read_gpr(const Core& core, unsigned reg, unsigned size)
{
    return core.gpr[reg & 15] & size_mask(size);
}
// 32-bit writes clear the upper half, narrower ones keep it.
inline void write_gpr(Core& core, unsigned reg, unsigned size, std::uint64_t value)
{
    const std::uint64_t kept = size >= 4 ? 0 : core.gpr[reg & 15] & ~size_mask(size);
    core.gpr[reg & 15] = kept | (value & size_mask(size));
}

// ModRM.rm operand of 2, 4 or 8 bytes (and 1 by size).
Flow read_rm(Core& core, const Op& op, unsigned size, std::uint64_t& value);
Flow write_rm(Core& core, const Op& op, unsigned size, std::uint64_t value);

// A sized load or store with the rights of the current mode, and the implicit ones.
Flow load(Core& core, std::uint64_t linear, unsigned size, std::uint64_t& value);
Flow store(Core& core, std::uint64_t linear, unsigned size, std::uint64_t value);
Flow load_implicit(Core& core, std::uint64_t linear, unsigned size, std::uint64_t& value);
Flow store_implicit(Core& core, std::uint64_t linear, unsigned size, std::uint64_t value);

// ---- stacks -----------------------------------------------------------------------------

// A stack that pushes and pops on a copy of its pointer. Nothing of the Core changes until
// commit(). SDM volume 3 section 6.8.3, volume 1 section 6.2.
class StackCursor {
public:
    // The current stack.
    explicit StackCursor(Core& core);
    // A stack to switch to: faults name `ss` (legacy modes).
    StackCursor(Core& core, const Segment& ss, std::uint64_t pointer, unsigned new_cpl,
                bool mode64);

    Flow push(std::uint64_t value, unsigned size);
    Flow pop(std::uint64_t& value, unsigned size);
    // Room for `bytes` of pushes, before any of them is made.
    Flow check_room(unsigned bytes);
    // The pointer moves up without being looked at (RET imm16).
    void skip(std::uint64_t bytes) { pointer_ += bytes; }
    [[nodiscard]] std::uint64_t pointer() const { return pointer_; }
    void commit();

private:
    Flow address(std::uint64_t offset, unsigned size, std::uint64_t& linear);

    Core& core_;
    Segment ss_;
    std::uint64_t pointer_;
    unsigned width_;  // bytes of the pointer
    bool current_ = true;
    bool user_ = false;
    std::uint32_t error_ = 0;
};

// Writes RSP as a stack of this width does.
void set_stack_pointer(Core& core, std::uint64_t value, unsigned width);
unsigned stack_width(const Core& core);

// ---- segments -----------------------------------------------------------------------------

struct Descriptor {
    std::uint64_t linear = 0;  // where it lies
    std::uint64_t raw = 0;
    Segment segment;
};

// Looks a selector up (not null: the caller checks). Beyond the table: `vector`(selector).
Flow read_descriptor(Core& core, std::uint16_t selector, Vector vector, Descriptor& out);
// The upper half of a 16-byte descriptor: sets out.segment's base, checks the type bits.
Flow read_descriptor_high(Core& core, std::uint16_t selector, Vector vector, Descriptor& out,
                          std::uint64_t& high);
Flow set_accessed(Core& core, Descriptor& descriptor);

// MOV/POP to a segment register, LDS and kin, in the current mode.
Flow load_segment(Core& core, unsigned reg, std::uint16_t selector);
// The SS checks of a stack with the privilege `cpl`; `vector` for what is not #SS.
Flow check_stack_segment(Core& core, std::uint16_t selector, unsigned cpl, Vector vector,
                         Descriptor& out);
// Puts a new segment in place and refreshes what depends on it.
void set_segment(Core& core, unsigned reg, const Segment& segment);
// Real and virtual-8086 mode.
void set_real_segment(Core& core, unsigned reg, std::uint16_t selector);
// Segments that outer code may not use become null (SDM RET, IRET).
void drop_inner_segments(Core& core, unsigned new_cpl);
// CS of new privilege: selector's RPL becomes cpl.
Segment code_segment(const Descriptor& descriptor, std::uint16_t selector, unsigned cpl);
// A branch target within `cs`: #GP(0) otherwise.
Flow check_target(Core& core, const Segment& cs, std::uint64_t rip);

// ---- stacks of the TSS ----------------------------------------------------------------------

// SSn:(E)SPn for inner privilege; in IA-32e mode RSPn, with a null SS.
Flow inner_stack(Core& core, unsigned new_cpl, Descriptor& ss, std::uint64_t& pointer);
// IA-32e: RSPn, or ISTn when ist is not zero.
Flow tss64_stack(Core& core, unsigned offset, std::uint64_t& pointer);

// ---- tasks ------------------------------------------------------------------------------------

enum class TaskSwitch { jump, call, iret, event };
// SDM volume 3 section 7.3. next_rip is what the old task resumes at. For events with an
// error code: it is pushed on the new stack.
struct TaskRequest {
    TaskSwitch source = TaskSwitch::jump;
    std::uint16_t selector = 0;
    std::uint64_t next_rip = 0;
    bool push_error = false;
    std::uint32_t error_code = 0;
    bool resume_flag = false;  // RF in the saved image: faults
};
Flow switch_task(Core& core, const TaskRequest& request);

// I/O privilege of ports [port, port+size).
Flow check_io(Core& core, std::uint16_t port, unsigned size);

// ---- control registers, shared with LMSW, task switches and tests ---------------------------
Flow write_cr0(Core& core, std::uint64_t value);
Flow write_cr3(Core& core, std::uint64_t value);
Flow write_cr4(Core& core, std::uint64_t value);

inline Flow require_cpl0(Core& core)
{
    return core.cpl == 0 ? Flow::next : core.raise(Vector::GP);
}

// ---- lowering: each family takes the mnemonics that are its own -------------------------------
bool lower_segments(const Decoded& decoded, Op& op, Core& core);
bool lower_far_transfer(const Decoded& decoded, Op& op, Core& core);
bool lower_interrupts(const Decoded& decoded, Op& op, Core& core);
bool lower_syscall(const Decoded& decoded, Op& op, Core& core);
bool lower_control_registers(const Decoded& decoded, Op& op, Core& core);
bool lower_msr(const Decoded& decoded, Op& op, Core& core);
bool lower_tables(const Decoded& decoded, Op& op, Core& core);
bool lower_io(const Decoded& decoded, Op& op, Core& core);
bool lower_hypercall(const Decoded& decoded, Op& op, Core& core);
bool lower_misc(const Decoded& decoded, Op& op, Core& core);

}  // namespace doppel::engine::interpret::privileged
