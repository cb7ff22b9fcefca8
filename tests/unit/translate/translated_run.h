// Runs host code in this process: translated blocks, and the guest's own instructions beside
// them for comparison. The engine's areas are mapped where layout.h has them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/translate/block/translation.h"
#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate::test {

inline constexpr std::uint32_t exit_native_end = 5;  // ran into the end of native code

struct Registers {
    std::uint64_t gpr[16] = {};
    std::uint64_t flags = 0x202;
    std::uint64_t rip = 0;
};

struct Outcome {
    Registers registers;      // the guest's; RSP folded if it was
    std::uint32_t exit = 0;   // as ExecContext::exit
    std::uint64_t trap = 0, address = 0;   // after exit_fault
    std::uint64_t target = 0;  // after exit_no_target
    std::vector<std::uint8_t> vectors;     // XSAVE area without what names instructions
};

class Machine {
public:
    explicit Machine(bool user);
    ~Machine();
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;

    [[nodiscard]] ExecContext& context() const { return *context_; }
    std::uint8_t* map(std::uint64_t address, std::size_t length);
    // The target table's entry for `rip` leads to `host`; all others to a miss.
    void set_target(std::uint64_t rip, std::uint64_t host);
    // The second table has this block for `rip`; 0: none.
    void set_second_target(std::uint64_t rip, std::uint64_t host);
    // Host code for the block goes to `offset` of the code area. Returns its address.
    std::uint64_t place(std::span<const std::uint8_t> guest, std::uint64_t rip, const Mode& mode,
                        Translation& translation, std::uint32_t offset = 0x10000);
    // Host addresses of code at `offset`.
    [[nodiscard]] std::uint64_t code_at(std::uint32_t offset) const { return code_ + offset; }
    [[nodiscard]] std::uint8_t* code_bytes(std::uint32_t offset) const;

    // Enters at host address `host` with these registers.
    Outcome run(const Registers& registers, std::uint64_t host);
    // Writes a jump to the common exit at `rip`, behind guest code that is run itself.
    void end_native(std::uint64_t rip) const;
    // After a fault in the code of `translation`, placed at `host`: what the guest's registers
    // are.
    [[nodiscard]] Registers recover(const Outcome& outcome, const Translation& translation,
                                    std::uint64_t host) const;

private:
    bool user_;
    std::uint64_t code_;
    ExecContext* context_;
    std::vector<std::pair<std::uint64_t, std::size_t>> mapped_;
};

}  // namespace doppel::engine::translate::test
