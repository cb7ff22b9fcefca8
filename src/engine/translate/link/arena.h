// The arena: the memory (a memfd) that the VMM makes for one worker, and what the worker
// finds in it when it starts.
//
//   Mailbox │ Setup
//
// The descriptors that a worker is started with are below; it has no others but stderr.
#pragma once

#include <csignal>
#include <cstdint>

#include "engine/translate/link/commons.h"
#include "engine/translate/link/mailbox.h"
#include "engine/translate/link/user_link.h"
#include "x86/cpuid.h"

namespace doppel::engine::translate {

inline constexpr int arena_fd = 3;
inline constexpr int ram_fd = 4;
inline constexpr int lifeline_fd = 5;      // a pipe's read end: its end of file ends the worker
inline constexpr int commons_fd = 6;       // link/commons.h
inline constexpr int doorbell_fd = 7;      // eventfds, doorbell_count of them, to write to
inline constexpr int file_fd = doorbell_fd + static_cast<int>(doorbell_count);  // memory's files
inline constexpr int first_free_fd = file_fd + static_cast<int>(memory_files_max);

// Sent by the VMM to the worker's vCPU thread when Seat::in_guest says in_guest_code; the
// timer's signal is the worker's own.
inline int kick_signal() { return SIGRTMIN + 1; }
inline int timer_signal() { return SIGRTMIN; }
// Sent by other workers: Seat::notes are to be taken now.
inline int summons_signal() { return SIGRTMIN + 2; }

struct SetupSlot {
    std::uint64_t start, size, offset;
    std::uint64_t read_only;
};

struct SetupFile {
    std::uint64_t size;
    std::uint64_t read_only;
};

inline constexpr unsigned slots_max = 64;
inline constexpr unsigned cpuid_entries_max = 256;

// Written by the VMM before the worker starts.
struct Setup {
    std::uint32_t version;
    std::uint32_t slot_count;
    std::uint32_t cpuid_count;
    std::uint32_t vcpu_index;
    std::uint64_t ram_size;
    std::uint64_t tsc_hz;
    std::uint64_t lock_step;  // EngineConfig::lock_step
    SetupSlot slots[slots_max];
    std::uint64_t file_count;
    SetupFile files[memory_files_max];
    x86::CpuidEntry cpuid[cpuid_entries_max];
    // Written by the worker: its vCPU thread, where the kick signal goes. Any value is
    // harmless: the VMM names the worker's process with it.
    std::atomic<std::uint32_t> worker_thread;
};
inline constexpr std::uint32_t setup_version = 4;

namespace arena_offset {
inline constexpr std::uint64_t page = 4096;
inline constexpr std::uint64_t mailbox = 0;
inline constexpr std::uint64_t setup = (sizeof(Mailbox) + page - 1) & ~(page - 1);
}  // namespace arena_offset

inline constexpr std::uint64_t arena_size =
    arena_offset::setup + ((sizeof(Setup) + arena_offset::page - 1) & ~(arena_offset::page - 1));

}  // namespace doppel::engine::translate
