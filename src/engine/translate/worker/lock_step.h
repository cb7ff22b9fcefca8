// Lock-step: translated code, checked against the interpreter, block by block.
//
//   predict()  the interpreter tries the block's instructions one by one; what each did is kept,
//              RAM and registers are put back
//   (the executor runs a translation of the block that leads nowhere else)
//   verify()   registers and RAM must be what they were at that boundary
//
// The interpreter stops in front of an instruction that faults, needs a device, writes to code, or
// has another answer each time (RDTSC, RDRAND). What comes behind it is not compared.
//
// Neither the manual's undefined flags are compared, nor the status of x87 and SSE before an
// instruction that faults, which may be what it faults for.
//
// A device may write to memory that the block reads between the trial and the run. So where something
// differs, what the trial has read is looked at again, for a while: if somebody else has changed any
// of it, the difference says nothing. The guest goes on, and the block is checked again when it next
// comes; when it has differed so many times in a row, it counts after all: translated code may be
// what writes there. (To put RAM back and to do both again would show devices that memory a second
// time: rings whose index goes back and forth.)
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/counters.h"
#include "engine/interpret/interpreter.h"
#include "engine/translate/cache/code_cache.h"
#include "engine/translate/lower/instruction.h"
#include "memory/guest_memory.h"
#include "x86/cpuid.h"

namespace doppel::engine::translate {

class LockStep {
public:
    struct Parts {
        interpret::Interpreter& interpreter;
        memory::GuestMemory& memory;
        const x86::CpuidPolicy& cpuid;
        // Checked are a block's first run, and one in so many of the blocks that the executor
        // enters; 1: every block.
        std::uint64_t one_in = 1;
        // For how long memory is looked at again before a difference counts. What goes to and
        // fro, such as a device's wish to be notified, changes within a few milliseconds.
        std::uint64_t watch_ns = 5'000'000;
    };
    explicit LockStep(const Parts& parts);

    // Whether the block, about to be entered by the executor, is to be checked this time.
    [[nodiscard]] bool due(const Block& block);

    // First of the two that come before the block runs: looks at its instructions. True: they
    // touch x87 or vector registers, so these have to be in the interpreter's state as well.
    [[nodiscard]] bool prepare(const Block& block);
    // All guest state is in the interpreter, RIP is the block's first instruction.
    void predict();
    [[nodiscard]] bool armed() const { return armed_; }
    [[nodiscard]] bool vectors() const { return vectors_; }
    // The block's code; while armed.
    [[nodiscard]] bool covers(std::uint64_t host) const { return host_.has(host); }

    // How translated code was left: it leads on, and behind its last instruction; in front of one
    // that is the interpreter's; or anywhere, for a fault or a kick.
    enum class Left : std::uint8_t { end, stopped, middle };
    // All guest state is in the interpreter again. Does nothing when no block was predicted.
    void verify(Left left);
    // A fault of translated code is delivered to the guest. verify() came right before.
    void fault_delivered();
    // The block was left on a way that nobody compares.
    void abandon();

    // Not empty: translated code did something else than the interpreter; for people.
    [[nodiscard]] const std::string& difference() const { return difference_; }
    void counters(base::CounterList& list) const;

private:
    // All that may have changed when so many instructions were done.
    struct Boundary {
        std::array<std::uint64_t, 16> gpr{};
        std::uint64_t rip = 0, rflags = 0, fs_base = 0, gs_base = 0, kernel_gs_base = 0;
        std::uint64_t undefined = 0;  // flags
        std::size_t writes = 0;       // of trial_writes()
        bool inside = true;           // reached without a branch
    };
    struct Allowance {
        std::uint64_t flags = 0;
        bool vector_status = false;   // x87 but for FCW, MXCSR
    };

    void copy_code(const Block& block);
    [[nodiscard]] bool try_next(std::size_t index);
    void push_boundary(std::uint64_t undefined, bool inside);
    void keep_writes(std::size_t from);
    [[nodiscard]] const Boundary* find(Left left) const;
    [[nodiscard]] Allowance allowance(Left left, std::size_t index) const;
    void compare(const Boundary& expected, const Allowance& allowed);
    void compare_registers(const Boundary& expected, const Allowance& allowed);
    void compare_vectors(const x86::XsaveArea& expected, bool status);
    void compare_memory(std::size_t writes);
    [[nodiscard]] bool settled(std::uint64_t byte, std::size_t from, std::size_t to) const;
    void differ(std::string what);
    void report(const Boundary* expected);
    [[nodiscard]] std::string describe(const Boundary* expected) const;
    [[nodiscard]] bool disturbed() const;

    interpret::Interpreter& interpreter_;
    interpret::Interpreter::Registers registers_;
    memory::GuestMemory& memory_;
    const x86::CpuidPolicy& cpuid_;
    std::uint64_t one_in_, watch_ns_;
    std::uint64_t since_ = 0;                     // blocks entered since the last one checked
    std::unordered_set<std::uint64_t> seen_;      // host addresses of blocks that were checked
    std::uint64_t due_ = 0;                       // the last of them that was due
    std::unordered_map<std::uint64_t, unsigned> disturbed_;  // of those, how many times in a row
    static constexpr unsigned disturbed_max = 16;

    bool armed_ = false, vectors_ = false;
    bool whole_ = false;                          // the interpreter came to the block's end
    Mode mode_;
    HostCode host_;
    std::vector<std::uint8_t> code_;
    std::vector<Instruction> instructions_;
    std::vector<Boundary> boundaries_;            // [0]: before the first instruction
    std::vector<x86::XsaveArea> xsave_;           // with vectors_: of each
    std::vector<std::byte> after_;                // of each write, as `before` says: what it wrote
    x86::CpuState state_;                         // before
    std::size_t verified_ = 0;                    // where the last one was left, in the middle; or
    static constexpr std::size_t nowhere = ~std::size_t{0};
    std::string difference_;
    std::vector<std::string> differences_;

    struct {
        std::uint64_t checked = 0, instructions = 0, writes = 0, user = 0, partly = 0,
            abandoned = 0, disturbed = 0;
    } counts_;
};

}  // namespace doppel::engine::translate
