// Runs the vCPU by translated code wherever that works, and by the interpreter everywhere else.
//
//   run():  where is RIP? ──▶ block ──▶ enter ──▶ exit ──┬─ direct, no target: link, go on
//                                                        ├─ fault: fill a window, go on
//                                                        └─ anything else: one instruction by
//                                                           the interpreter
//
// While translated code runs, the registers live in a context (the worker's for supervisor
// code, the user process's for user code). They go back to the interpreter's state only where
// something needs them there.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/counters.h"
#include "engine/interpret/interpreter.h"
#include "engine/translate/cache/code_cache.h"
#include "engine/translate/link/exec_context.h"
#include "engine/translate/link/mailbox.h"
#include "engine/translate/space/guest_pages.h"
#include "engine/translate/space/user_process.h"
#include "engine/translate/space/window.h"
#include "engine/translate/worker/address_spaces.h"
#include "engine/translate/worker/brief_stays.h"
#include "engine/translate/worker/code_pages.h"
#include "engine/translate/worker/device_sites.h"
#include "engine/translate/worker/lock_step.h"
#include "engine/translate/worker/siblings.h"
#include "engine/translate/worker/supervisor_mapper.h"
#include "memory/guest_memory.h"
#include "x86/interrupt_return.h"

namespace doppel::engine::translate {

constexpr bool upper_half(std::uint64_t linear) { return (linear >> 63) != 0; }

class Executor final : private GuestPages,
                       private interpret::Observer,
                       private memory::WriteListener {
public:
    using Stop = interpret::Interpreter::Stop;

    struct Parts {
        interpret::Interpreter& interpreter;
        memory::GuestMemory& memory;
        const x86::CpuidPolicy& cpuid;
        UserProcesses& processes;
        std::uint8_t* supervisor_code_alias = nullptr;  // writable, layout.h's size
        Siblings& siblings;
        // called: something waits outside; run() then returns Stop::attention. summoned: the
        // siblings' notes are to be taken.
        std::atomic<std::uint32_t>& attention;
        std::atomic<Place>& place;                      // kept up to date
        unsigned spaces = 16;
        std::uint64_t lock_step = 0;  // LockStep::Parts::one_in; 0: no lock-step
    };
    static constexpr std::uint32_t called = 1, summoned = 2;
    explicit Executor(const Parts& parts);
    ~Executor() override;

    // As Interpreter::execute(). A budget is kept exactly, by interpreting.
    Stop run(std::uint64_t budget);
    // An interrupt waits for the guest to accept it: leave as soon as it does.
    void want_interrupt_window(bool wanted);
    // The state is about to be read or replaced from outside.
    void export_state();
    void forget_all();
    // Tells the siblings what was written to, and takes their notes. Between instructions, or
    // before translated code is resumed.
    void settle();
    // The guest's TSC is the host's plus this.
    void set_tsc_offset(std::uint64_t offset) { tsc_offset_ = offset; }

    void counters(base::CounterList& list) const;
    // The last exits, newest last: for reports of a crash.
    [[nodiscard]] std::string flight_recorder() const;
    // Not empty: a user process died or the like; run() returned Stop::environment.
    [[nodiscard]] const std::string& failure() const { return failure_; }

private:
    enum class Next : std::uint8_t {
        resume,    // registers still in the context: enter at host_rip_
        dispatch,  // registers in the interpreter's state: look where RIP is
        stop,      // return stop_
    };

    // GuestPages
    x86::WalkResult walk(std::uint64_t linear, x86::Access access, bool user) noexcept override;
    x86::WalkResult probe(std::uint64_t linear, x86::Access access, bool user) noexcept override;
    std::optional<RamPiece> ram(base::Gpa gpa) noexcept override;
    bool holds_code(std::uint64_t ram_offset) noexcept override;
    // Observer
    void tlb_flushed(bool keep_global) noexcept override;
    void page_flushed(std::uint64_t linear) noexcept override;
    void address_space_changed(std::uint64_t cr3, bool keep) noexcept override;
    void pcid_flushed(unsigned type, std::uint16_t pcid, std::uint64_t linear) noexcept override;
    void code_written(std::uint64_t ram_offset) noexcept override;
    void code_decoded(std::uint64_t ram_offset) noexcept override;
    void vectors_wanted() noexcept override { take_fpu(); }

    // WriteListener: somebody outside wrote to memory.
    void on_write(base::Gpa start, std::uint64_t size) noexcept override;

    // The mode of the next instruction, when translated code may run it.
    [[nodiscard]] bool eligible(Mode& mode);
    // executor_crossing.cpp
    std::optional<Next> cross(ExitKind kind, const Block& block);
    std::optional<Next> enter_kernel(std::uint64_t return_rip);
    std::optional<Next> leave_kernel();
    std::optional<Next> end_interrupt();
    std::optional<Next> return_inside_kernel(const x86::InterruptFrame& frame, const x86::Segment& cs,
                                             const x86::Segment& ss, std::uint64_t flags);
    std::optional<Next> return_to_program(const x86::InterruptFrame& frame, const x86::Segment& cs,
                                          const x86::Segment& ss, std::uint64_t flags);
    std::optional<Mode> prepare_program(std::uint64_t flags);
    void load_program(const Mode& mode, std::uint64_t rsp, std::uint64_t flags);
    [[nodiscard]] std::uint64_t descriptor(std::uint16_t selector);
    Next crossed_to(std::uint64_t rip);
    void note_vector_state();
    void allow_vectors(Mode& mode) const;
    Stop interpret_many(std::uint64_t budget);
    Next interpret_one();
    Next interpret_here();
    [[nodiscard]] bool eligible_code32(Mode& mode) const;
    [[nodiscard]] std::uint64_t page_tables(std::uint64_t cr3) const;
    [[nodiscard]] std::uint64_t page_tables() const { return page_tables(registers_.state->cr3); }
    [[nodiscard]] bool awaits_fs(const Mode& mode) const;
    Next interpret_until_fs();
    [[nodiscard]] bool may_branch_to(std::uint64_t rip) const;
    Next interpret_user_access();
    [[nodiscard]] bool accesses_user_memory() const;
    // The instruction at RIP, which `block` left to the interpreter.
    Next interpret_exit(ExitKind kind, Block& block);
    Next interpret_device(Block& block);
    // The instruction at RIP accessed a device from within the block.
    void learn_device(Block& block);
    Next dispatch();
    // space_ is the one of user code that runs in this mode now. False: the host refused it.
    bool prepare_space(const Mode& mode);
    Next enter();
    Next enter_user();
    Next enter_supervisor();
    Next after_exit(std::uint32_t exit);
    Next lost(std::string text);
    Next mappings_refused();
    Next after_site(const Site& site);
    Next stay_briefly(BriefStays& places, std::uint64_t flags);
    [[nodiscard]] bool gs_fits() const;
    Next after_missing_target(std::uint64_t rip);
    Next branch_to_nowhere(const Block* from);
    Next go_on_at(const Block& block);
    [[nodiscard]] bool may_link(const Site& from, const Block& to) const;
    Next after_indirect(const Site& site);
    Next after_fault();
    Next after_page_fault(std::uint64_t address, bool write);
    Next after_code_write(std::uint64_t linear);
    Next after_kick();
    Next fail(std::string text);
    bool begin_check();
    Next end_check(std::uint32_t exit);
    void verify_check();
    Next deliver(const x86::Fault& fault);

    Block* move_here(CodeCache& code, std::uint64_t rip, std::uint64_t ram_offset, Mode mode);
    [[nodiscard]] Block* translate_block(CodeCache& code, std::uint64_t rip,
                                         std::uint64_t ram_offset, Mode mode, bool target);
    [[nodiscard]] std::uint64_t second_page_of(std::uint64_t rip);
    void watch(std::uint64_t ram_page);
    void fill_after_fault();
    void link_within_page(CodeCache& code, Block& block);
    // The block at `rip`, translated if need be; nullptr: it cannot be
    // fetched, or is the interpreter's.
    // `target`: an indirect branch leads there.
    Block* block_for(std::uint64_t rip, Mode mode, bool note, bool target = false);
    // The same where that needs no look at guest memory, and the block runs; else nullptr.
    [[nodiscard]] const Block* known_block(std::uint64_t rip, Mode mode);
    void load_context();  // of mode_
    void load_user_context(std::uint64_t flags);
    void load_system_context(std::uint64_t flags);
    void load_code32_context();
    // Where an indirect branch went, as far as the guest can tell.
    [[nodiscard]] std::uint64_t branch_target();
    // Registers to the interpreter's state; RIP as given.
    void unload_context(std::uint64_t rip);
    bool take_bases();
    // Of code at high addresses, without vector instructions.
    [[nodiscard]] Mode supervisor_mode() const;
    // RFLAGS: of ExecContext::flags what is the guest's, else as `system` has it.
    [[nodiscard]] static std::uint64_t join_flags(std::uint64_t system, std::uint64_t host);
    // The same from the middle of a block, undoing what its code displaced. False: nobody knows
    // the host address.
    bool unload_precisely();
    // Likewise, where an interrupt may be taken. False: that is not here.
    bool unload_at_point();
    void unload_inside(const Block& block, std::uint32_t offset, const Point& point);

    [[nodiscard]] ExecContext& context();
    [[nodiscard]] CodeCache& cache() { return mode_.user ? user_cache_ : supervisor_cache_; }
    [[nodiscard]] Window& window();
    [[nodiscard]] CodeCache::Space code_space() const;  // in cache()
    [[nodiscard]] static std::uint64_t* targets_of_supervisor();
    void note_code(std::uint64_t rip, std::uint64_t ram_offset);
    void drop_code(std::uint64_t ram_page);
    void protect(std::uint64_t ram_page);
    [[nodiscard]] bool rewritten_often(std::uint64_t ram_page);
    [[nodiscard]] bool must_leave() const;
    // executor_siblings.cpp
    void tell_siblings();
    void take_notes();
    void find_lost_notes();
    void protect_all(const std::vector<std::uint64_t>& ram_pages);
    void show_nothing();
    [[nodiscard]] bool in_dropped_code();
    void refresh(AddressSpace& space);
    // Carries out what the guest flushed since translated code last ran.
    void apply_flushes();
    // Where executable code of a linear page lies now; false: nowhere.
    using CodeLookup = std::function<bool(std::uint64_t linear, CodePages::Page& now)>;
    [[nodiscard]] CodeLookup code_lookup(bool user);
    void drop_supervisor_code(const std::vector<CodePages::Changed>& changed);
    void take_fpu();
    static void make_initial(x86::XsaveArea& area);
    void record(std::uint8_t what, std::uint64_t detail);
    // Does `work` and has it counted for `place`. Costs two stores.
    template <typename Work>
    auto at(Place place, Work work)
    {
        place_.store(place, std::memory_order_relaxed);
        const auto result = work();
        place_.store(Place::engine, std::memory_order_relaxed);
        return result;
    }

    interpret::Interpreter& interpreter_;
    interpret::Interpreter::Registers registers_;
    memory::GuestMemory& memory_;
    const x86::CpuidPolicy& cpuid_;
    Siblings& siblings_;
    std::atomic<std::uint32_t>& attention_;
    std::atomic<Place>& place_;

    CodeCache supervisor_cache_;
    CodeCache user_cache_;
    SupervisorMapper supervisor_mapper_;
    Window supervisor_window_;
    Window window32_;                 // 32-bit supervisor code
    CodePages supervisor_pages_;
    AddressSpaces spaces_;
    AddressSpace* space_ = nullptr;   // of the current CR3 and privilege, when known

    bool in_context_ = false;         // the registers are in context(), not in the interpreter's state
    Mode mode_;
    CodeCache::Space supervisor_space_ = 0;
    Mode targets_mode_;               // supervisor code: of what the table of targets leads to
    unsigned waits_for_fs_ = 0;       // in vain, one after the other
    bool window32_shown_ = false;     // GS.base of the thread is window32
    std::uint64_t host_rip_ = 0;
    std::uint32_t resume_exit_ = 0;   // ExecContext::exit to go on with: see interrupted_exit
    bool stepping_ = false;           // on the way to the next exact point
    Stop stop_ = Stop::attention;
    // The last page fault that was delivered from user code.
    struct {
        bool pending = false, write = false;
        std::uint64_t rip = 0, address = 0;
        AddressSpace* space = nullptr;
    } user_fault_;
    UserProcess* fpu_owner_ = nullptr;  // nullptr: the interpreter's state holds it
    bool vector_ok_ = false, no_avx_ = true, no_avx512_ = true;
    std::uint64_t vector_cr0_ = 0, vector_cr4_ = 0, vector_xcr0_ = 0;
    std::uint64_t code_version_ = 1;
    std::uint64_t flushes_ = 0;

    // What block_for() found last, while nothing was translated, dropped or flushed.
    struct Lookup {
        std::uint64_t rip = 0, version = 0;
        AddressSpace* space = nullptr;
        Block* block = nullptr;
        unsigned mode = 0;  // Mode::key()
    };
    [[nodiscard]] Lookup& lookup(std::uint64_t rip, Mode mode)
    {
        // Fibonacci hashing: the RIPs that matter have many bits in common.
        constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;
        return lookups_[((rip ^ mode.key()) * golden) >> (64 - lookup_bits)];
    }
    [[nodiscard]] bool holds(const Lookup& found, std::uint64_t rip, Mode mode) const
    {
        return found.rip == rip && found.version == code_version_ + flushes_ &&
               found.mode == mode.key() && found.space == (mode.user ? space_ : nullptr);
    }
    static constexpr unsigned lookup_bits = 10;
    std::array<Lookup, 1u << lookup_bits> lookups_{};

    struct {
        bool any = false;
        bool global = false;      // everything
        bool non_global = false;  // everything of the current address space but global pages
        bool supervisor = false;  // CR3 changed: supervisor pages that are not global
        std::vector<std::uint64_t> pages;
    } flush_;
    static constexpr std::size_t flush_pages_max = 64;
    std::uint64_t tsc_offset_ = 0;
    bool window_wanted_ = false;
    std::unique_ptr<LockStep> lock_step_;  // nullptr: off
    LockStep::Left left_ = LockStep::Left::middle;
    bool skip_check_ = false;
    unsigned refusals_ = 0;
    std::string failure_;

    struct Record {
        std::uint64_t detail = 0;
        std::uint8_t what = 0;
        bool user = false;
    };
    static constexpr unsigned records = 64;
    std::array<Record, records> recorder_{};
    unsigned recorded_ = 0;

    struct {
        std::uint64_t entries_supervisor = 0, entries_user = 0, direct = 0, missing_targets = 0,
            interpreted = 0, interpreted_runs = 0, faults = 0, page_faults_guest = 0,
            device_faults = 0, odd_faults = 0, code_writes = 0, kicks = 0, steps = 0,
            fpu_saves = 0, fpu_loads = 0, lost = 0, crossings = 0, brief_stays = 0, stays_not_brief = 0;
    } counts_;
    std::array<std::uint64_t, exit_kinds> site_counts_{};  // by ExitKind
    struct Drops {
        std::uint32_t count = 0;
        std::uint64_t at = 0;  // host TSC of the last
    };
    std::unordered_map<std::uint64_t, Drops> drops_;  // by RAM page
    std::vector<std::uint64_t> to_tell_, telling_;    // RAM pages that siblings have code of
    Siblings::Notes notes_;
    bool settled_drops_ = false;  // settle() has dropped code since enter() last looked
    DeviceSites devices_;
    BriefStays brief_calls_, brief_returns_;  // behind SYSRET, behind IRET
};

}  // namespace doppel::engine::translate
