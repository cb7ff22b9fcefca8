// The hand-over between the worker and a user process: who runs the vCPU.
//
//   worker                                    user process
//   fill in UserCommand, ++turn ──────────▶  sees turn, does the fills, enters guest code
//   waits for UserReport.turn == turn  ◀───  left guest code: registers saved, turn copied
//
// Both sides watch the other's word for a bounded time, then sleep on it as a futex after
// setting their `sleeping` word. UserCommand is read-only in the user process. UserReport
// lies at the end of the ExecContext page (offset report_offset), writable there: the worker
// trusts nothing in it.
//
// Freestanding.
#pragma once

#include <cstdint>

#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate {

// One mapping to make or to drop in the user window before going in. length is a multiple of
// 4 KiB; prot is PROT_* or 0 for munmap. Maps guest RAM at `offset`.
struct UserMapping {
    std::uint64_t address;
    std::uint64_t length;
    std::uint64_t offset;
    std::uint32_t prot;
    std::uint32_t reserved;
};

enum UserAction : std::uint32_t {
    user_run = 1,        // enter guest code at ExecContext::host_rip afterwards
    user_load_fpu = 2,   // XRSTOR from UserCommand::xsave first
    user_save_fpu = 4,   // XSAVE to the context area's xsave (before anything else)
    user_new_code = 8,   // the code cache was written: serialise before entering
    user_exit = 16,      // leave the process
    user_unmap_all = 32, // drop the whole user window (before the mappings)
    user_single_step = 64,  // enter with TF: come back after one host instruction
};

inline constexpr unsigned user_mappings_max = 256;
inline constexpr unsigned user_xsave_size = 2688;  // as x86::XsaveArea
inline constexpr std::uint64_t user_xsave_components = 0xe7;

struct UserCommand {
    alignas(64) std::uint32_t turn;      // the worker's word (futex)
    std::uint32_t worker_sleeping;       // wake the worker after reporting
    std::uint32_t actions;
    std::uint32_t mapping_count;
    std::uint64_t xsave_mask;            // components to load and save
    std::uint32_t spin;                  // how many times to look before sleeping
    std::uint32_t reserved;
    UserMapping mappings[user_mappings_max];
    alignas(64) std::uint8_t xsave[user_xsave_size];
};
static_assert(sizeof(UserCommand) <= 65536);

struct UserReport {
    alignas(64) std::uint32_t turn;      // the user process's word (futex)
    std::uint32_t user_sleeping;         // wake it after ++turn
    std::int32_t mapping_error;          // errno of the first mapping that failed, 0
    std::uint32_t reserved;
    alignas(64) std::uint8_t xsave[user_xsave_size];
};

// In the user process's writable area (64 KiB at layout.h's user_context).
inline constexpr std::uint64_t user_area_size = 65536;
inline constexpr std::uint64_t report_offset = 4096;
static_assert(sizeof(ExecContext) <= report_offset);
static_assert(report_offset + sizeof(UserReport) <= user_area_size);

}  // namespace doppel::engine::translate
