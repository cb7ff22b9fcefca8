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

#include "engine/engine.h"

namespace doppel::engine::translate {

enum class Request : std::uint32_t {
    none,
    run,             // -> a Reply below; complete_read first if answers_read
    complete_read,   // value: answers the last read; -> done
    get_state,       // -> done, Mailbox::state filled
    set_state,       // Mailbox::state -> done
    hand_over,       // takes all events -> done, Mailbox::hand_over filled
    take_over,       // Mailbox::hand_over, checked -> done, or error: text
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

// Mailbox::place: what the vCPU thread is at, for the VMM's samples. Believed by nobody else.
enum class Place : std::uint32_t {
    engine,       // all else: exits, dispatch, the local APIC
    hand_over,    // to a user process, until it has begun
    user,         // guest user code, in its process
    supervisor,   // translated guest supervisor code
    interpreter,
    translation,  // of blocks
    windows,      // filling and flushing them
};
inline constexpr unsigned place_count = 7;

struct Mailbox {
    alignas(64) std::atomic<std::uint32_t> request_turn;  // futex
    std::atomic<std::uint32_t> worker_waiting;
    std::atomic<std::uint32_t> vmm_processor;             // where the VMM sent it: this_processor()
    std::uint32_t request;                                // Request
    std::uint32_t answers_read;                           // run: `value` answers the last read
    std::uint64_t value;
    std::uint64_t budget;                                 // run: instructions, 0 no limit

    alignas(64) std::atomic<std::uint32_t> reply_turn;    // futex
    std::atomic<std::uint32_t> vmm_waiting;
    std::atomic<std::uint32_t> worker_processor;          // where the worker took it
    std::uint32_t reply;                                  // Reply
    std::uint32_t size;
    std::uint64_t address;
    std::uint64_t reply_value;
    std::uint64_t instructions;                           // interpreted or counted so far
    std::uint32_t between_instructions;                   // 0: run has to finish one first

    // What Seat::attention (link/commons.h) announces, with the events.
    alignas(64) std::atomic<std::uint32_t> kicked;        // run() is to return Reply::kick
    std::atomic<std::uint32_t> all_memory_written;        // too many memory_written for the ring
    alignas(64) std::atomic<std::uint32_t> event_head;    // VMM (under its own lock)
    alignas(64) std::atomic<std::uint32_t> event_tail;    // worker
    Event events[event_count];

    // The VM's clock: written by the VMM before Request::run (never while the worker runs
    // guest code) when it started, stopped or was set.
    alignas(64) std::uint32_t clock_running;
    std::uint64_t tsc_base;      // running: guest TSC = host TSC + this; else the guest TSC
    std::uint64_t now_base_ns;   // running: guest ns = CLOCK_MONOTONIC + this; else guest ns

    // Written by the VMM now and then: for how long the processes that run the vCPU have been kept
    // from running by others.
    std::atomic<std::uint64_t> steal_ns;

    // Written by the worker: where its time goes.
    alignas(64) std::atomic<Place> place;
    std::atomic<std::uint64_t> halted_ns;  // asleep in HLT, total

    alignas(64) x86::CpuState state;
    HandOver hand_over;
    char text[65536];            // ends with a zero
    char crash[256];             // the last words of a worker that dies of its own fault
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace doppel::engine::translate
