// What the VMM and the worker share: one page-aligned arena (memfd) for one vCPU. The worker
// runs the vCPU; the VMM's vCPU thread asks and waits, and its other threads post interrupts.
//
//   VMM vCPU thread: request, ++request_turn, futex ──▶ worker: does it, reply, ++reply_turn
//   any VMM thread: post() an interrupt event, kick
//
// The VMM trusts nothing the worker writes: every value is checked before use.
#pragma once

#include <atomic>
#include <cstdint>

#include "x86/cpu_state.h"

namespace doppel::engine::translate {

enum class Request : std::uint32_t {
    none,
    run,             // -> a Reply below
    complete_read,   // value: answers the last read; -> done
    get_state,       // -> done, Mailbox::state filled
    set_state,       // Mailbox::state -> done
    reset_apic,      // -> done
    counters,        // -> done, Mailbox::text: lines "name value\n"
    source_answer,   // value: what the InterruptSource answered to acknowledge; -> goes on with run
    exit,            // leave the process
};

enum class Reply : std::uint32_t {
    none,
    done,
    kick,
    io_read, io_write,      // address: port, size, value
    mmio_read, mmio_write,  // address: gpa, size, value
    halt,
    shutdown,               // text
    error,                  // text
    acknowledge,            // run() has to ask the InterruptSource for a vector: source_answer
    end_of_interrupt,       // value: vector; run() tells the InterruptSource: source_answer
};

// Posted by VMM threads, taken by the worker.
struct Event {
    enum Kind : std::uint32_t { msi, external_interrupt, nmi, memory_written } kind;
    std::uint32_t level;     // external_interrupt
    std::uint64_t address;   // msi; memory_written: gpa
    std::uint64_t data;      // msi; memory_written: bytes
};

inline constexpr unsigned event_count = 1024;  // a power of two

struct Mailbox {
    alignas(64) std::atomic<std::uint32_t> request_turn;  // futex
    std::atomic<std::uint32_t> worker_waiting;
    std::uint32_t request;                                // Request
    std::uint64_t value;
    std::uint64_t budget;                                 // run: instructions, 0 no limit

    alignas(64) std::atomic<std::uint32_t> reply_turn;    // futex
    std::atomic<std::uint32_t> vmm_waiting;
    std::uint32_t reply;                                  // Reply
    std::uint32_t size;
    std::uint64_t address;
    std::uint64_t reply_value;
    std::uint64_t instructions;                           // interpreted or counted so far

    // Set by anyone who wants the worker to look (with the kick signal if it runs guest code,
    // a futex wake if it sleeps in HLT).
    alignas(64) std::atomic<std::uint32_t> attention;     // futex
    std::atomic<std::uint32_t> kicked;                    // run() is to return Reply::kick
    std::atomic<std::uint32_t> in_guest;                  // worker: 1 guest code, 2 asleep in HLT
    alignas(64) std::atomic<std::uint32_t> event_head;    // VMM (under its own lock)
    alignas(64) std::atomic<std::uint32_t> event_tail;    // worker
    Event events[event_count];

    // The VM's clock, as HostVmClock computes it: written by the VMM when it starts or stops;
    // odd while it is being written.
    alignas(64) std::atomic<std::uint32_t> clock_sequence;
    std::uint32_t clock_running;
    std::uint64_t tsc_hz;
    std::uint64_t tsc_base;      // guest TSC = host TSC + tsc_base while running
    std::uint64_t now_base_ns;   // guest time at host TSC == now_base_tsc
    std::uint64_t now_base_tsc;

    alignas(64) x86::CpuState state;
    char text[65536];
};

// One bit a RAM page: it holds translated or decoded code, so a write by the VMM has to be
// posted. Lies behind the mailbox in the arena.

}  // namespace doppel::engine::translate
