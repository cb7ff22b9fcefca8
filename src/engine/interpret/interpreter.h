// The interpreter as a component: used by its own engine, and by other engines for
// instructions that they cannot run. One per vCPU; not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "x86/fault.h"
#include "x86/lapic/lapic.h"
#include "x86/page_walk.h"

namespace doppel::engine::interpret {

// What the interpreter needs from whoever owns the vCPU's interrupts and MSRs outside
// CpuState. The interpret engine gives it a local APIC; the kvm engine refuses, so that
// such instructions go back to KVM.
class Environment {
public:
    virtual ~Environment() = default;
    // Local APIC page and x2APIC MSRs. False: not served here, stop before the instruction.
    virtual bool apic_read(std::uint32_t reg, std::uint64_t& value) noexcept = 0;
    virtual bool apic_write(std::uint32_t reg, std::uint64_t value) noexcept = 0;
    virtual std::uint64_t cr8() noexcept = 0;
    virtual void set_cr8(std::uint64_t value) noexcept = 0;
    virtual void set_apic_base(std::uint64_t value) noexcept = 0;
    virtual void set_tsc_deadline(std::uint64_t value) noexcept = 0;
    virtual std::uint64_t tsc_deadline() noexcept = 0;
    virtual std::uint32_t apic_id() noexcept = 0;
    // The last apic_read(), apic_write() or set_apic_base() was architecturally illegal: #GP
    // rather than a stop. Asked directly after it. `reg` is an xAPIC page offset >> 4 (0-0xff)
    // or an x2APIC MSR (0x800-0x8ff).
    virtual bool rejected() noexcept { return false; }
    // MSRs that the interpreter does not know: somebody else may, so stop before the
    // instruction instead of #GP.
    virtual bool has_other_msrs() noexcept { return false; }
    // The guest writes to a device. True: that was a doorbell, and it has been rung; there is no
    // exit. An instruction that is started anew may ring twice.
    virtual bool ring(bus::Space space, std::uint64_t address, unsigned size,
                      std::uint64_t value) noexcept
    {
        static_cast<void>(space), static_cast<void>(address);
        static_cast<void>(size), static_cast<void>(value);
        return false;
    }
    // The guest's time-stamp counter is VmClock::tsc() + offset from now on.
    virtual void tsc_offset_changed(std::uint64_t offset) noexcept { static_cast<void>(offset); }
    // For the paravirtual clock: nanoseconds since 1970 (CLOCK_REALTIME unless overridden), and
    // for how many the vCPU's thread has been kept from running.
    virtual std::uint64_t realtime_ns() noexcept;
    virtual std::uint64_t steal_ns() noexcept { return 0; }

    // ---- hypercalls about other vCPUs: x86/paravirt.h. Any APIC ID may be asked for. ------------
    // Somebody else serves them all: stop before the instruction.
    virtual bool hypercalls_elsewhere() noexcept { return false; }
    // Ends the vCPU's HLT, or its next one.
    virtual void kick_cpu(std::uint32_t apic_id) noexcept { static_cast<void>(apic_id); }
    // To the vCPUs whose APIC IDs are bits that are set; fixed or NMI. How many take it.
    virtual unsigned send_ipis(std::uint64_t apic_ids, const x86::ApicMessage& message) noexcept
    {
        static_cast<void>(apic_ids), static_cast<void>(message);
        return 0;
    }
    // The vCPU waits for that one, and may lose its processor to it.
    virtual void yield_to(std::uint32_t apic_id) noexcept { static_cast<void>(apic_id); }
};

// For an engine that runs most instructions itself, over translations and code of its own:
// what the interpreted instructions mean for those. Called on the vCPU's thread, in the middle
// of execute(), step() or deliver_*(): the vCPU's state may be read then, not changed.
class Observer {
public:
    virtual ~Observer() = default;
    // CR0, CR4 or EFER changed the meaning of translations, a task switch loaded CR3, or
    // set_state() was called: no translation holds any longer; keep_global: but global ones.
    virtual void tlb_flushed(bool keep_global) noexcept = 0;
    // INVLPG: the page's translations are gone, global or not.
    virtual void page_flushed(std::uint64_t linear) noexcept = 0;
    // MOV to CR3. cr3: as stored, PCID in bits 11:0 when CR4.PCIDE is set. keep: CR4.PCIDE and
    // bit 63 were set, so that translations of the PCID may be kept; else those of that PCID
    // (without CR4.PCIDE: all) are gone but for global ones.
    virtual void address_space_changed(std::uint64_t cr3, bool keep) noexcept = 0;
    // INVPCID (SDM volume 2): type 0 an address of a PCID, 1 a PCID, both but for global
    // translations; 2 everything, 3 everything but global translations.
    virtual void pcid_flushed(unsigned type, std::uint16_t pcid, std::uint64_t linear) noexcept = 0;
    // The interpreter stored into a page that watch_code() or watch_writes() named, or GuestMemory told of a
    // write to it. ram_offset: of the page. May call watch_code() and unwatch_code(). Nothing
    // may be translated from the page before the call of the interpreter is over.
    virtual void code_written(std::uint64_t ram_offset) noexcept = 0;
    // The interpreter is about to decode code of this page of RAM, which watch_code() has not
    // named: from now on it wants to hear of writes that it does not make itself; see
    // Interpreter::code_changed(), which may be called at once.
    virtual void code_decoded(std::uint64_t ram_offset) noexcept
    {
        static_cast<void>(ram_offset);
    }
    // After Interpreter::vectors_elsewhere(): an instruction is about to use CpuState::xsave, so
    // it is to be brought up to date now. That alone may be changed.
    virtual void vectors_wanted() noexcept {}
};

// See Interpreter::eoi_taken().
enum class EoiOffer : std::uint8_t { keep, withdraw };

// A write to RAM by instructions that are tried.
struct TrialWrite {
    std::uint64_t ram_offset = 0;
    std::uint32_t size = 0;
    std::uint32_t before = 0;  // where in trial_before() what was there begins
    bool page_table = false;   // the processor's own: accessed and dirty bits
};

class SharedCode;

// Of several interpreters over one guest memory, which run at the same time.
struct Sharing {
    SharedCode* code = nullptr;  // outlives them; nullptr: there is only one
    unsigned vcpu = 0;
};

class Interpreter {
public:
    static base::Result<std::unique_ptr<Interpreter>> create(memory::GuestMemory& memory,
                                                             bus::VmClock& clock,
                                                             const x86::CpuidPolicy& cpuid,
                                                             Environment& environment,
                                                             const Sharing& sharing = {});
    virtual ~Interpreter() = default;

    virtual void set_state(const x86::CpuState& state) = 0;
    [[nodiscard]] virtual x86::CpuState state() const = 0;
    // RAM may have been written without GuestMemory's knowledge: drops all decoded code.
    virtual void forget_code() = 0;

    // ---- sharing the vCPU with another engine -------------------------------------------------
    // All of it on the vCPU's thread, between calls of execute() and step().

    // The state itself, for as long as the interpreter lives. gpr has 16 registers. `state`
    // holds everything else, with these exceptions: state->gpr is not used, the status flags
    // of state->rflags are stale (use rflags() and set_rflags()), state->tsc is not kept.
    // After changing
    //  - a segment register, CPL (the DPL of SS), CR0, CR4, EFER, DR7: mode_changed()
    //  - what translations depend on (CR0, CR3, CR4, EFER): flush_translations() as well
    struct Registers {
        std::uint64_t* gpr = nullptr;
        std::uint64_t* rip = nullptr;
        x86::CpuState* state = nullptr;
    };
    [[nodiscard]] virtual Registers direct() = 0;
    [[nodiscard]] virtual std::uint64_t rflags() const = 0;
    // All bits; no mode_changed() is needed.
    virtual void set_rflags(std::uint64_t value) = 0;
    virtual void mode_changed() = 0;
    // state->xsave is out of date until vectors_wanted(), which is called once, or until this is
    // called with false.
    virtual void vectors_elsewhere(bool elsewhere) = 0;
    // The interpreter's own; the observer is not told.
    virtual void flush_translations(bool keep_global) = 0;

    // Delivers the fault at the current RIP through the guest's IDT; a page fault sets CR2.
    // False: triple fault, which execute() and step() report as a ShutdownExit from now on.
    virtual bool deliver_fault(const x86::Fault& fault) = 0;

    // The guest's page tables as they are now, past the TLB: x86::walk() (sets A and D) and
    // x86::probe() (changes nothing), EFLAGS.AC taken as clear. linear: canonical. user: with
    // the rights of CPL 3, else of CPL 0.
    virtual x86::WalkResult walk(std::uint64_t linear, x86::Access access, bool user) = 0;
    virtual x86::WalkResult probe(std::uint64_t linear, x86::Access access, bool user) = 0;
    // What an implicit supervisor load (of a descriptor table) reads, through the TLB, where all of
    // it is RAM of one page. False: it is not, or the load faults, of which nothing is kept.
    virtual bool read_system(std::uint64_t linear, std::span<std::byte> to) = 0;

    static constexpr std::uint64_t no_memory = ~std::uint64_t{0};
    // Where in RAM the code byte at the linear address lies, for an instruction fetch in the
    // current mode; no_memory when no memory answers there. The fault otherwise: not
    // delivered.
    virtual std::optional<x86::Fault> fetch(std::uint64_t linear, std::uint64_t& ram_offset) = 0;

    // nullptr: nobody. Outlives the interpreter or is taken off.
    virtual void set_observer(Observer* observer) = 0;
    // Reports every write to the page of RAM, until unwatch_code(). Costs the page the fast path
    // for stores.
    virtual void watch_code(std::uint64_t ram_offset) = 0;
    virtual void unwatch_code(std::uint64_t ram_offset) = 0;
    // As watch_code(), but for code that somebody else has: Observer::code_written() is told, and
    // the instructions of execute() stop after the one that wrote if the observer has it so by
    // request_attention().
    virtual void watch_writes(std::span<const std::uint64_t> ram_offsets) = 0;
    virtual void unwatch_writes(std::uint64_t ram_offset) = 0;
    // The page of RAM has decoded or watched code: writes that neither the interpreter nor
    // GuestMemory sees have to be told by code_changed().
    [[nodiscard]] virtual bool holds_code(std::uint64_t ram_offset) const = 0;
    // [ram_offset, ram_offset + size) of RAM was written by somebody else: drops what was
    // decoded from it. The observer is not told.
    virtual void code_changed(std::uint64_t ram_offset, std::uint64_t size) = 0;

    // ---- trying instructions ------------------------------------------------------------------
    // Runs instructions to see what they would do. From begin_trial() to end_trial() only
    // try_step() may be called, and state may be read. end_trial() puts RAM back; registers and
    // the rest of the state are the caller's to put back, then mode_changed().
    enum class Tried {
        done,     // one instruction
        part,     // a string instruction did a part of its work
        refused,  // not done: it faults, needs a device or vector registers that are elsewhere, or
                  // writes to memory that holds code
    };
    virtual void begin_trial() = 0;
    virtual Tried try_step() = 0;
    virtual void end_trial() = 0;
    // Of the last trial, in order; and what was there before.
    [[nodiscard]] virtual const std::vector<TrialWrite>& trial_writes() const = 0;
    [[nodiscard]] virtual const std::vector<std::byte>& trial_before() const = 0;
    // RAM that the last trial read, and did not write, has other contents now: somebody else wrote
    // there. What is the same again is not seen.
    [[nodiscard]] virtual bool trial_disturbed() const = 0;

    // ---- running --------------------------------------------------------------------------------

    // Why execute() stopped.
    enum class Stop {
        budget,       // ran as many instructions as asked
        exit,         // exit() needs the caller; call complete_read() if it is a read
        attention,    // request_attention() was called
        environment,  // the next instruction needs what Environment refused
    };
    // Runs up to `instructions` (0: no limit). Delivers faults itself; takes no external
    // interrupts: the caller injects them with deliver_interrupt() when interruptible().
    virtual Stop execute(std::uint64_t instructions) = 0;
    // As execute(), for one instruction and then for as long as all of these bits of RFLAGS are
    // set; then `budget`.
    virtual Stop execute_while(std::uint64_t flags) = 0;
    // The same for at most so many instructions, up to a block of code that uses vector registers
    // while these are elsewhere: without any, if it comes first. Flags count where blocks end.
    virtual Stop execute_briefly(std::uint64_t flags, std::uint64_t instructions) = 0;
    // As execute(1), and quick. `budget`, too: a fault was delivered, and RIP is the handler's
    // first instruction, which has not run; or a string instruction did a part of its work and
    // RIP is still there.
    virtual Stop step() = 0;
    [[nodiscard]] virtual const Exit& exit() const = 0;
    virtual void complete_read(std::uint64_t value) = 0;
    virtual void request_attention() = 0;  // any thread
    // While wanted, execute() stops with `attention` as soon as interruptible() holds.
    virtual void request_interrupt_window(bool wanted) = 0;

    // The guest's TSC is VmClock::tsc() plus this; set_state() sets it by CpuState::tsc.
    virtual void set_tsc_offset(std::uint64_t offset) = 0;
    // All that there is lies in state(): no device access is under way, and no debug exception
    // waits for MOV SS.
    [[nodiscard]] virtual bool between_instructions() const = 0;
    // IF set, no shadow, not in the middle of a device access.
    [[nodiscard]] virtual bool interruptible() const = 0;
    // As above without IF.
    [[nodiscard]] virtual bool nmi_allowed() const = 0;
    [[nodiscard]] virtual bool interrupts_enabled() const = 0;
    virtual void deliver_interrupt(std::uint8_t vector) = 0;
    virtual void deliver_nmi() = 0;
    // The current instruction has had its exit and is to be finished by step() or execute().
    [[nodiscard]] virtual bool in_device_access() const = 0;
    // So far, to memory that is none: devices, the local APIC's page, nothing. For telling whether
    // an instruction made one.
    [[nodiscard]] virtual std::uint64_t device_accesses() const = 0;
    // Leave HLT (activity becomes running).
    virtual void wake() = 0;

    // ---- paravirtual aids: x86/paravirt.h, where the guest asked for them ----------------------

    // Before guest code runs: the EOI of the interrupt in service would have no effect but on the
    // local APIC (LocalApic::eoi_is_silent()), so the guest may leave it out.
    virtual void offer_eoi() = 0;
    // True: the guest took the offer, so that EOI is due now, and the offer is gone. Else keep
    // leaves it standing, withdraw takes it back: before anything that the guest must
    // make a real EOI for, and before the local APIC's owner decides about interrupts.
    [[nodiscard]] virtual bool eoi_taken(EoiOffer offer) = 0;
    // The vCPU will not run for a while: it halts, or is paused.
    virtual void stops_running() = 0;
    // Before guest code runs after that or an interrupt is delivered, and after set_state(): does
    // what other vCPUs asked for meanwhile. Cheap when there was nothing.
    virtual void runs_again() = 0;

    [[nodiscard]] virtual std::uint64_t instructions() const = 0;
    // Instructions that step() ran or tried to, by opcode: Op::opcode.
    [[nodiscard]] virtual std::span<const std::uint64_t> stepped() const = 0;
    virtual void counters(base::CounterList& list) const = 0;
};

}  // namespace doppel::engine::interpret
