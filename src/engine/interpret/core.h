// The interpreter's view of one vCPU: what instruction handlers work on.
//
//   block_cache ──▶ Block{Op...} ──▶ handler(Core&, Op&) ──▶ Flow
//                                        │
//                        Core: registers, memory access, faults, exits
//
// RIP: while a block runs, state.rip holds the RIP of the block's FIRST instruction, and
// op.offset leads to the current one. A handler that transfers control sets state.rip to the
// target and returns Flow::leave; on Flow::fault and Flow::exit the run loop sets state.rip
// to the current instruction. Handlers use rip_of(op) and next_rip(op).
//
// Flags: the six status flags live packed in `flags` (LAHF layout in bits 8-15, OF in
// bit 0), as the host's own LAHF/SETO produce them; everything else is in state.rflags,
// whose status bits are stale. rflags()/set_rflags() convert.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "engine/interpret/op.h"
#include "engine/interpret/tlb.h"
#include "memory/guest_memory.h"
#include "x86/cpu_state.h"
#include "x86/cpuid.h"
#include "x86/fault.h"
#include "x86/page_walk.h"

namespace doppel::engine::interpret {

class BlockCache;
class Observer;
class ThunkCache;
class System;
class Trial;

using x86::Fault;
using x86::Vector;

// Execution mode of code: decides decoding and address arithmetic. Part of a block's key.
enum class CodeSize : std::uint8_t { bits16, bits32, bits64 };

// An MMIO or port access made by the current instruction. An instruction that needs a
// device exits, is answered, and restarts; accesses already made are answered from this
// log in order, so that nothing is read or written twice. Cleared when it retires.
struct DeviceAccess {
    Exit what;
    std::uint64_t value = 0;
    bool answered = false;
};

class Core {
public:
    Core(memory::GuestMemory& memory, bus::VmClock& clock, const x86::CpuidPolicy& cpuid);
    ~Core();

    // ---- architectural state -------------------------------------------------------
    x86::CpuState state;
    // gpr[16] is constant zero: lets an address be base + index without a branch.
    // While running, registers live here, not in state.gpr.
    std::array<std::uint64_t, 17> gpr{};
    std::uint16_t flags = 0;  // see above

    [[nodiscard]] std::uint64_t rflags() const;      // exact RFLAGS
    void set_rflags(std::uint64_t value);            // all bits; recomputes cached modes if VM, AC changed
    [[nodiscard]] x86::CpuState export_state() const;
    void import_state(const x86::CpuState& from);    // flushes TLB and block lookups

    // ---- derived state, refreshed by update_mode() ----------------------------------
    // Call after any change to CR0, CR3 (use flush_tlb), CR4, EFER, CS, SS, CPL, RFLAGS.AC/VM.
    void update_mode();
    CodeSize code_size = CodeSize::bits16;
    unsigned cpl = 0;
    bool stack32 = false;          // SS.B, outside 64-bit mode
    std::uint8_t data_mmu = 0;     // MmuIndex for explicit data accesses
    // What decoded code depends on: code size, privilege, paging-independent mode bits and,
    // outside 64-bit mode, the base of CS. Equal keys decode equally.
    std::uint64_t mode_key = 0;
    // One iteration of a string instruction at a time (TF, data breakpoints).
    bool stepping = false;
    // Segment bases as address arithmetic wants them: zero for ES CS SS DS in 64-bit mode;
    // [segment_none] is zero.
    std::array<std::uint64_t, 7> segment_base{};

    // ---- the current instruction ------------------------------------------------------
    Fault fault;
    Exit exit;
    [[nodiscard]] std::uint64_t rip_of(const Op& op) const { return state.rip + op.offset; }
    [[nodiscard]] std::uint64_t next_rip(const Op& op) const
    {
        return state.rip + op.offset + op.length;
    }
    Flow raise(Fault f)
    {
        fault = f;
        return Flow::fault;
    }
    Flow raise(Vector vector, std::uint32_t error_code = 0)
    {
        return raise(x86::make_fault(vector, error_code));
    }

    // ---- memory: linear addresses -----------------------------------------------------
    // Explicit data accesses with the rights of the current mode. True on success; false:
    // core.fault or core.exit is set and pending_flow() says which. Any alignment, page
    // crossings included; both pages are checked before the first byte is written.
    // T: uint8_t .. uint64_t.
    template <typename T> [[nodiscard]] bool load(std::uint64_t linear, T& value);
    template <typename T> [[nodiscard]] bool store(std::uint64_t linear, T value);
    // Read-modify-write: host pointer to `size` bytes with write rights checked, A/D set and
    // code invalidated, or nullptr when they cross a page or are not RAM (then use load+store
    // after check_write), or on a fault (pending_ is set: test failed()).
    [[nodiscard]] std::byte* write_pointer(std::uint64_t linear, unsigned size);
    // Like load/store for n <= 4096 bytes (thunks, XSAVE); rights of the current mode.
    [[nodiscard]] bool load_bytes(std::uint64_t linear, std::span<std::byte> to);
    [[nodiscard]] bool store_bytes(std::uint64_t linear, std::span<const std::byte> from);
    [[nodiscard]] bool check_write(std::uint64_t linear, unsigned size);
    [[nodiscard]] bool check_read(std::uint64_t linear, unsigned size);
    // Implicit supervisor accesses (descriptor tables, TSS, interrupt frames to ring 0):
    // as load/store but at privilege 0 without regard to CPL and AC.
    template <typename T> [[nodiscard]] bool load_system(std::uint64_t linear, T& value);
    template <typename T> [[nodiscard]] bool store_system(std::uint64_t linear, T value);
    // As store, with explicit privilege (pushes to the new stack during a privilege change).
    template <typename T> [[nodiscard]] bool store_at(std::uint64_t linear, T value, bool user);

    [[nodiscard]] bool failed() const { return pending_ != Flow::next; }
    // The Flow that a handler returns after one of the above returned false.
    [[nodiscard]] Flow pending_flow()
    {
        const Flow flow = pending_;
        pending_ = Flow::next;
        return flow;
    }

    // Segment-checked linear address of [seg:offset], `size` bytes: limit, type, canonical,
    // null selector. In 64-bit mode: base + offset and the canonical check (#SS for SS-based).
    // False: fault set (pending_flow()).
    [[nodiscard]] bool linear_address(unsigned segment, std::uint64_t offset, unsigned size,
                                      bool write, std::uint64_t& linear);
    // Effective offset of op's memory operand, truncated to the address size.
    [[nodiscard]] std::uint64_t effective_offset(const Op& op) const;
    // Both together.
    [[nodiscard]] bool operand_address(const Op& op, unsigned size, bool write,
                                       std::uint64_t& linear)
    {
        return linear_address(op.segment, effective_offset(op), size, write, linear);
    }

    // Stack with the current stack's width rules; size 2, 4 or 8. Nothing is changed on failure.
    [[nodiscard]] bool push(std::uint64_t value, unsigned size);
    [[nodiscard]] bool pop(std::uint64_t& value, unsigned size);

    // ---- devices ------------------------------------------------------------------------
    // False: exit is pending (Flow::exit), or the device log answered (true).
    [[nodiscard]] bool io_read(std::uint16_t port, unsigned size, std::uint64_t& value);
    [[nodiscard]] bool io_write(std::uint16_t port, unsigned size, std::uint64_t value);
    void answer_read(std::uint64_t value);  // Vcpu::complete_read
    // The current instruction has made a device access and has yet to finish: nothing may
    // come between its restart and its end.
    [[nodiscard]] bool in_device_access() const { return !device_log_.empty(); }
    // The instruction (or one iteration of a string instruction) is done.
    void retire_device_log()
    {
        device_log_.clear();
        device_cursor_ = 0;
    }

    // Guest-physical ranges that the engine serves itself (the local APIC page). Set by Vcpu.
    class PhysicalHook {
    public:
        virtual ~PhysicalHook() = default;
        // True when served. size 1, 2, 4 or 8.
        virtual bool read(base::Gpa gpa, unsigned size, std::uint64_t& value) noexcept = 0;
        virtual bool write(base::Gpa gpa, unsigned size, std::uint64_t value) noexcept = 0;
    };
    PhysicalHook* physical_hook = nullptr;

    // ---- translation caches ---------------------------------------------------------------
    // An architectural flush: what CR0, CR4, EFER, task switches do. Tells the observer.
    void flush_tlb(bool keep_global);
    void flush_tlb_page(std::uint64_t linear);  // INVLPG; tells the observer
    void change_address_space(std::uint64_t cr3, bool keep);  // MOV to CR3; tells the observer
    void flush_pcid(unsigned type, std::uint16_t pcid, std::uint64_t linear);  // INVPCID; likewise
    void drop_translations(bool keep_global);  // tells nobody
    // Ends the current block after this instruction even on Flow::next (interrupt shadow,
    // self-modified code, mode change).
    void end_block() { end_block_ = true; }
    [[nodiscard]] bool ending() const { return end_block_; }
    // Guest-physical page whose code was decoded was written: drops its blocks. Any thread
    // may call request_invalidate; the vCPU thread does the work at the next block boundary.
    void code_written(base::Gpa gpa, std::uint64_t size);

    // ---- services ---------------------------------------------------------------------------
    memory::GuestMemory& memory;
    bus::VmClock& clock;
    const x86::CpuidPolicy& cpuid;
    BlockCache* blocks = nullptr;
    Observer* observer = nullptr;
    ThunkCache* thunks = nullptr;
    Trial* trial = nullptr;    // while instructions are only tried
    System* system = nullptr;  // exceptions, interrupts, MSRs, local APIC glue (vcpu.cpp)

    // Set from any thread: something needs attention at the next block boundary.
    std::atomic<bool> attention{false};
    // RFLAGS.IF while an interrupt waits for the guest to accept it, else 0.
    std::uint64_t interrupt_window = 0;

    // Runner::run() stops where one of these bits of RFLAGS is clear.
    std::uint64_t run_while = 0;
    // state.xsave is out of date: the observer is asked for it before an instruction needs it.
    bool vectors_elsewhere = false;

    // Counters for --stats.
    std::array<std::uint64_t, 512> stepped{};  // by step(): Op::opcode
    std::uint64_t instructions = 0;
    std::uint64_t blocks_run = 0, tlb_misses = 0, page_walks = 0, thunk_runs = 0, device_exits = 0;
    std::uint64_t device_accesses = 0;  // to memory, the local APIC's page included
    std::array<std::uint64_t, 32> exceptions{};
    std::uint64_t interrupts = 0;

private:
    friend class Runner;
    friend class MemoryAccess;
    void choose_tables();

    Flow pending_ = Flow::next;
    bool end_block_ = false;
    bool alignment_checks_ = false;  // CR0.AM, EFLAGS.AC and CPL 3
    bool data_breakpoints_ = false;  // DR7 watches data
    bool non_canonical_ = false;     // the pending fault is #GP for a non-canonical address
    std::uint32_t code_limit_ = 0;
    // The tables for explicit data accesses: of data_mmu, or an empty one when every access
    // has to take the slow path (alignment checks, data breakpoints).
    const TlbEntry* read_table_ = nullptr;
    const TlbEntry* write_table_ = nullptr;
    std::unique_ptr<Tlb> tlb_;
    std::vector<DeviceAccess> device_log_;
    std::size_t device_cursor_ = 0;
};

}  // namespace doppel::engine::interpret

#include "engine/interpret/memory_access.h"
