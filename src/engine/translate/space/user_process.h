// The worker's end of the user processes: see link/user_link.h for the protocol.
//
//   worker ──starts──▶ zygote ──forks, when asked──▶ user process (slot 0 .. user_slots - 1)
//          └──────── UserCommand, ExecContext, kick ────────▶
//
// The zygote ends with the thread that called UserProcesses::create(), the processes end with
// the zygote. After create() these system calls are made and no others: futex, futex_waitv,
// pidfd_open, pidfd_send_signal, poll, close, clock_gettime; and on destruction munmap, wait4.
//
// Nothing that a process writes is trusted here. Mind that guest user code can write its
// process's report: it can end a turn that it goes on with. That endangers the memory of the
// guest's other processes, not the worker.
//
// Not thread-safe: one vCPU thread uses all of it. Nothing throws.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/fd.h"
#include "base/mapped_region.h"
#include "base/processor_choice.h"
#include "base/result.h"
#include "engine/translate/link/mailbox.h"
#include "engine/translate/link/user_link.h"
#include "engine/translate/space/device_load.h"
#include "engine/translate/space/process_switches.h"
#include "engine/translate/space/user_wait.h"
#include "memory/guest_memory.h"
#include "x86/cpu_state.h"

namespace doppel::engine::translate
{

class UserProcess;

// How to wait for the other side. One for all processes of a worker.
struct UserWait {
    // Not zero: leave guest code. Whoever sets it wakes it as a (shared) futex, or sends this
    // thread a signal more than once. nullptr: never.
    const std::atomic<std::uint32_t>* attention = nullptr;
    SpinBudget budget;            // looks at the process's word before sleeping
    SpinBudget process_budget;    // its looks at ours
    std::uint64_t reported = 0;   // host TSC when the last turn was over
    UserProcess* last = nullptr;  // had the last turn: only that one may wait busily
    std::atomic<Place>* place = nullptr;  // Place::user is noted there when guest code has begun
    // vCPUs of the VM that may run guest code now, nullptr: one; and processors of the host. Busy
    // waiting takes two processors for a vCPU: not when there are not as many.
    const std::atomic<std::uint32_t>* vcpus = nullptr;
    std::uint32_t processors = 0;
    const DeviceLoad* devices = nullptr;  // of this vCPU; nullptr: none
    base::ProcessorChoice processor_choice;  // of the worker's thread

    ProcessSwitches switches;

    // Nor when a device's thread wants one of them, or other processes would have to be woken
    // there: then all stay on one. Several vCPUs are the host's to place: kept where they are, they
    // may come to lie on one.
    [[nodiscard]] bool on_one_processor(std::uint64_t tsc) const
    {
        return running() == 1 && !HostMoment::at(tsc) &&
               (beside_devices(tsc) || switches.frequent());
    }
    [[nodiscard]] std::uint32_t looks(const SpinBudget& of, std::uint64_t tsc) const
    {
        return 2 * running() > processors || on_one_processor(tsc) ? 0 : of.looks(tsc);
    }

private:
    [[nodiscard]] bool beside_devices(std::uint64_t tsc) const
    {
        return devices != nullptr && devices->busy(tsc) && processors <= 2;
    }
    [[nodiscard]] std::uint32_t running() const
    {
        return vcpus != nullptr ? vcpus->load(std::memory_order_relaxed) : 1;
    }
};

class UserProcess
{
public:
    UserProcess(const UserProcess&) = delete;
    UserProcess& operator=(const UserProcess&) = delete;
    ~UserProcess();  // kills it and waits until its mappings are gone

    // Registers to run with and after a run. The process can write it while guest code runs.
    [[nodiscard]] ExecContext& context() { return context_; }
    // target_count entries, at user_targets in the process.
    [[nodiscard]] std::uint64_t* targets() { return targets_; }
    // link_count entries, at user_links.
    [[nodiscard]] std::uint64_t* links() { return links_; }
    [[nodiscard]] unsigned slot() const { return slot_; }
    [[nodiscard]] int pid() const { return pid_; }

    // Changes that are made when guest code is entered next, in order. A full queue is
    // carried out at once.
    void map(const UserMapping& mapping);
    void unmap_all();  // also forgets what is queued
    // Carries out what is queued now. False: the process is dead.
    bool flush();

    // Guest FPU state: loaded when guest code is entered next; fetched from the process, which
    // saves it ahead where it was wanted lately.
    void load_fpu(const x86::XsaveArea& state);
    [[nodiscard]] bool save_fpu(x86::XsaveArea& state);  // false: the process is dead

    // Runs guest code from host_rip, with the registers in context(), until it leaves or
    // attention is set. actions: user_new_code and user_single_step or nothing.
    // A single step is not cut short by attention: that is how a boundary is reached then.
    // Returns ExecContext::exit (any value: guest code can write it), exit_cancelled if no
    // instruction was run; nullopt: the process is dead.
    std::optional<std::uint32_t> enter(std::uint32_t actions, std::uint64_t host_rip);
    // Of the last enter(), with exit_cancelled: errno of the first change that failed, or 0.
    // Later changes of its batch were not made: unmap_all() and start over.
    [[nodiscard]] int mapping_error() const { return mapping_error_; }

    // After death, for the error's text: the exception that the program itself raised, plus 1;
    // 0: none. Guest code can write it.
    [[nodiscard]] std::uint32_t crashed() const { return report_.crashed; }

    struct Counters {
        std::uint64_t turns = 0, sleeps = 0, wakes = 0, kicks = 0, changes = 0;
    };
    [[nodiscard]] const Counters& counters() const { return counters_; }

private:
    friend class UserProcesses;
    UserProcess(unsigned slot, std::byte* area, UserWait& wait, std::uint64_t xsave_mask,
                const UserFiles& files);
    base::Result<void> attach(int pid);
    bool hand_over(std::uint32_t actions);
    void set_turn();
    void prefetch_context() const;
    void take_over_spinning();
    void note_guest_code();
    bool spin_for_report(const std::atomic<std::uint32_t>* attention);
    bool wait_for_report(const std::atomic<std::uint32_t>* attention);
    void kick();
    [[nodiscard]] bool dead() const;

    const unsigned slot_;
    ExecContext& context_;
    UserReport& report_;
    UserCommand& command_;
    std::uint64_t* const targets_;
    std::uint64_t* const links_;
    UserWait& wait_;
    const std::uint64_t xsave_mask_;
    int pid_ = 0;
    base::Fd pidfd_;
    std::uint32_t turn_ = 0;
    std::uint32_t queued_actions_ = 0;
    std::uint32_t queued_ = 0;
    int queued_error_ = 0;
    int mapping_error_ = 0;
    bool kicked_ = false;
    bool lost_ = false;
    // Runs after which the FPU state is still to be saved ahead, and whether it was after the last.
    unsigned saves_ahead_ = 0;
    bool saved_ahead_ = false;
    Counters counters_;
};

class UserProcesses
{
public:
    struct Config {
        int ram_fd = -1;      // guest RAM; borrowed for create()
        int program_fd = -1;  // as user_program_file() makes it; borrowed for create()
        const std::atomic<std::uint32_t>* attention = nullptr;  // see UserWait
        std::atomic<Place>* place = nullptr;                    // see UserWait
        const std::atomic<std::uint32_t>* vcpus = nullptr;      // see UserWait
        const DeviceLoad* devices = nullptr;                    // see UserWait
        // Busy waiting on both sides before sleeping, at most (it adapts itself); none on a
        // machine with one processor.
        std::uint64_t spin_ns = 100'000;
        // What lies behind RAM; borrowed for create().
        std::span<const memory::GuestMemory::FileView> files;
    };
    static base::Result<std::unique_ptr<UserProcesses>> create(const Config& config);
    UserProcesses(const UserProcesses&) = delete;
    UserProcesses& operator=(const UserProcesses&) = delete;
    ~UserProcesses();

    // The writable alias of the code cache at user_code, user_code_size bytes.
    [[nodiscard]] std::span<std::uint8_t> code();
    // Forks a process into a free slot; it is this object's. Its window is empty, its FPU
    // state is undefined. Errors: no free slot, the host refused, the zygote is dead.
    base::Result<UserProcess*> start();
    void stop(UserProcess& process);
    [[nodiscard]] unsigned running() const;

private:
    UserProcesses(base::MappedRegion arena, const UserWait& wait);
    base::Result<void> start_zygote(const Config& config, int arena_fd);
    base::Result<int> fork_process(unsigned slot);
    [[nodiscard]] ZygoteControl& control();

    base::MappedRegion arena_;
    UserWait wait_;
    const std::uint64_t xsave_mask_;
    int zygote_ = 0;
    base::Fd zygote_pidfd_;
    std::array<std::unique_ptr<UserProcess>, user_slots> processes_;
};

}  // namespace doppel::engine::translate
