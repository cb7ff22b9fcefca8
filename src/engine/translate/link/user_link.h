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
// To get a process out of guest code early the worker sets UserCommand::kicked to the turn
// and sends kick_signal. The program looks at the word before it goes in, and its handler
// takes a signal for a kick only if the word says so: no kick is lost and none comes late.
//
// Freestanding.
#pragma once

#include <cstdint>

#include "engine/translate/layout.h"
#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate {

// One mapping to make or to drop in the user window before going in. length is a multiple of
// 4 KiB; prot is PROT_READ, PROT_WRITE or both, or 0 for munmap. Maps guest memory at `offset`;
// with user_protect_only in prot what is mapped there stays and only its rights change.
struct UserMapping {
    std::uint64_t address;
    std::uint64_t length;
    std::uint64_t offset;
    std::uint32_t prot;
    std::uint32_t reserved;
};

inline constexpr unsigned memory_files_max = 4;

// Offsets from which on a mapping is of the n-th file, counted from its begin there
// (GuestMemory::files()). Rising; those that are not there, the largest number.
struct UserFiles {
    std::uint64_t offsets[memory_files_max] = {~0ull, ~0ull, ~0ull, ~0ull};
};

inline constexpr std::uint32_t user_protect_only = 0x100;

enum UserAction : std::uint32_t {
    user_run = 1,        // enter guest code at UserCommand::host_rip afterwards
    user_load_fpu = 2,   // XRSTOR from UserCommand::xsave first
    user_save_fpu = 4,   // XSAVE to UserReport::xsave (before anything else)
    user_new_code = 8,   // the code cache was written: serialise before entering
    user_exit = 16,      // leave the process
    user_unmap_all = 32, // drop the whole user window (before the mappings)
    user_single_step = 64,  // enter with TF: come back after one host instruction
    user_save_fpu_after = 128,  // XSAVE to UserReport::xsave when guest code has been left
};

inline constexpr int user_kick_signal = 10;  // SIGUSR1

inline constexpr unsigned user_mappings_max = 256;
inline constexpr unsigned user_xsave_size = 2688;  // as x86::XsaveArea
inline constexpr std::uint64_t user_xsave_components = 0xe7;

// What the process watches while it waits shares no cache line with what the worker writes for
// a turn: each look would take the line away between two writes.
struct UserCommand {
    alignas(64) std::uint32_t turn;      // the worker's word (futex)
    alignas(64) std::uint32_t spin;      // how many times to look before sleeping
    std::uint32_t worker_sleeping;       // wake the worker after reporting
    alignas(64) std::uint32_t actions;
    std::uint32_t mapping_count;
    std::uint64_t host_rip;              // where to enter: out of reach of guest code
    std::uint64_t xsave_mask;            // components to load and save
    std::uint32_t kicked;                // == turn: do not enter, or come out
    std::uint32_t processor;             // the worker's when it gave the turn, from 1; 0: unknown
    std::uint32_t joined;                // the processor to be on, from 1; 0: any
    UserFiles files;
    UserMapping mappings[user_mappings_max];
    alignas(64) std::uint8_t xsave[user_xsave_size];
};
static_assert(sizeof(UserCommand) <= 65536);

struct UserReport {
    alignas(64) std::uint32_t turn;      // the user process's word (futex)
    std::uint32_t user_sleeping;         // wake it after ++turn
    std::int32_t mapping_error;          // errno of the first mapping that failed, 0
    std::uint32_t processor;             // where it reported, from 1; 0: unknown
    std::uint32_t crashed;               // vector + 1: the program itself faulted and ends
    // The last turn that went into guest code, for statistics. Seldom read, and so not in the
    // cache line above, which the worker watches.
    alignas(64) std::uint32_t begun;
    alignas(64) std::uint8_t xsave[user_xsave_size];
};

// In the user process's writable area (64 KiB at layout.h's user_context).
inline constexpr std::uint64_t user_area_size = 65536;
inline constexpr std::uint64_t report_offset = 4096;
static_assert(sizeof(ExecContext) <= report_offset);
static_assert(report_offset + sizeof(UserReport) <= user_area_size);

// The user arena: a file that the worker has mapped whole. The zygote's page, then one area for
// each slot, then the code cache. Guest RAM, memory's files and the arena are the program's descriptors at
// its start; a forked process keeps all but the arena.
inline constexpr int user_ram_fd = 3;
inline constexpr int user_file_fd = 4;  // memory_files_max of them at most
inline constexpr int user_arena_fd = user_file_fd + static_cast<int>(memory_files_max);
inline constexpr unsigned user_slots = 96;
inline constexpr std::uint64_t user_arena_slots = 65536;  // offset of the first slot's area
inline constexpr std::uint64_t slot_context = 0, slot_command = user_area_size,
    slot_targets = slot_command + 65536, slot_links = slot_targets + target_table_size,
    slot_size = slot_links + link_table_size;
inline constexpr std::uint64_t user_arena_code =
    (user_arena_slots + user_slots * slot_size + large_page - 1) & ~(large_page - 1);
inline constexpr std::uint64_t user_arena_size = user_arena_code + user_code_size;

// What the zygote is asked for: fork a process for a slot. Lies at the arena's begin.
struct ZygoteControl {
    alignas(64) std::uint32_t turn;   // the worker's word (futex)
    std::uint32_t slot;
    std::int32_t parent;              // pid that started the zygote: it ends when that has gone
    UserFiles files;
    alignas(64) std::uint32_t done;   // the zygote's word (futex); 0: not ready yet
    std::int32_t pid;                 // of the process, or a negative errno
};

}  // namespace doppel::engine::translate
