// What translated code and the engine share: one page of the worker for supervisor code, one
// page of every user process for user code. Translated code addresses it with constants.
//
// In a user process the page is writable while guest user code runs, and nothing keeps that
// code from writing it: whatever the engine reads from it is checked, and holds nothing but
// the user program's own registers.
//
// Freestanding: included by C++ of the worker and by the user program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace doppel::engine::translate {

// Why a context was left, in ExecContext::exit.
inline constexpr std::uint32_t exit_fault = 0;      // a host signal: trap, error, address say which
inline constexpr std::uint32_t exit_kick = 1;       // asked to leave: host_rip says where it was
inline constexpr std::uint32_t exit_no_target = 2;  // indirect branch without an entry: see slot_target
inline constexpr std::uint32_t exit_cancelled = 3;  // kicked before the first guest instruction
inline constexpr std::uint32_t first_exit_site = 16;  // from here on: an exit site of the code cache

struct alignas(64) ExecContext {
    // 0x00: guest registers. In the worker, gpr[RSP] holds guest RSP + fold.
    std::uint64_t gpr[16];
    // 0x80: host RFLAGS: status bits, DF and ID are the guest's.
    std::uint64_t flags;
    // 0x88: where to go in, and, after a signal, where it hit.
    std::uint64_t host_rip;
    // 0x90: scratch of translated code. By convention slot[0] holds RAX, slot[1] RCX, slot[2] RDX.
    std::uint64_t slot[8];
    // 0xd0: IA32_TSC_AUX. Here, since each cache line that the worker writes for a turn and the
    // user process has written takes its time to come over.
    std::uint32_t tsc_aux;
    // 0xd4: low half of an address in the code of the block whose indirect branch went to `target`
    // through the table of targets.
    std::uint32_t branch;
    // 0xd8
    std::uint32_t exit;
    // 0xdc: not zero: an interrupt may wait; translated code leaves where it becomes deliverable.
    std::uint32_t pending;
    // 0xe0: guest TSC - host TSC.
    std::uint64_t tsc_offset;
    // 0xe8: FS.base and GS.base to run with (user process: the guest's; worker: FS.base is
    // guest GS.base + fold). After an exit from a user process: what they are.
    std::uint64_t fs_base;
    std::uint64_t gs_base;
    // 0xf8: after exit_fault: x86 vector, error code and CR2 as the host's kernel reports them.
    std::uint64_t trap;
    std::uint64_t error;
    std::uint64_t address;
    // 0x110: the engine's stack pointer and FS.base while guest code runs.
    std::uint64_t engine_rsp;
    std::uint64_t engine_fs;
    // 0x120: guest RIP that an indirect branch went to without finding an entry.
    std::uint64_t target;
    // 0x128: worker: a kick came since the engine last looked; entering is then cancelled.
    std::uint32_t kicked;
    // What a signal found in `exit`: a stub may have stored it and not be through yet.
    std::uint32_t interrupted_exit;
    // 0x130: worker: guest RFLAGS without those in `flags` (bit 1 is set).
    std::uint64_t system_flags;
    // 0x138: worker: what SWAPGS makes fs_base, and the other way round; 0: cannot be had so.
    std::uint64_t other_fs_base;
    // 0x140: worker: CR2.
    std::uint64_t cr2;
    // 0x148: worker: the guest's FS.base.
    std::uint64_t guest_fs_base;
    // 0x150: worker: selectors, in the order of x86::SegmentIndex.
    std::uint32_t selectors[6];
};

namespace context_offset {
inline constexpr int gpr = 0x00, flags = 0x80, host_rip = 0x88, slot = 0x90, tsc_aux = 0xd0, branch = 0xd4,
    exit = 0xd8, pending = 0xdc, tsc_offset = 0xe0, fs_base = 0xe8, gs_base = 0xf0, trap = 0xf8,
    error = 0x100, address = 0x108, engine_rsp = 0x110, engine_fs = 0x118, target = 0x120, kicked = 0x128,
    system_flags = 0x130,
    other_fs_base = 0x138, cr2 = 0x140, guest_fs_base = 0x148, selectors = 0x150;
}
static_assert(offsetof(ExecContext, flags) == context_offset::flags);
static_assert(offsetof(ExecContext, slot) == context_offset::slot);
static_assert(offsetof(ExecContext, system_flags) == context_offset::system_flags);
static_assert(offsetof(ExecContext, exit) == context_offset::exit);
static_assert(offsetof(ExecContext, pending) == context_offset::pending);
static_assert(offsetof(ExecContext, tsc_offset) == context_offset::tsc_offset);
static_assert(offsetof(ExecContext, trap) == context_offset::trap);
static_assert(offsetof(ExecContext, engine_rsp) == context_offset::engine_rsp);
static_assert(offsetof(ExecContext, target) == context_offset::target);
static_assert(offsetof(ExecContext, kicked) == context_offset::kicked);
static_assert(offsetof(ExecContext, tsc_aux) == context_offset::tsc_aux);
static_assert(offsetof(ExecContext, branch) == context_offset::branch);
static_assert(offsetof(ExecContext, other_fs_base) == context_offset::other_fs_base);
static_assert(offsetof(ExecContext, cr2) == context_offset::cr2);
static_assert(offsetof(ExecContext, guest_fs_base) == context_offset::guest_fs_base);
static_assert(offsetof(ExecContext, selectors) == context_offset::selectors);

}  // namespace doppel::engine::translate
