// Turns the decoded instructions of one block into host code. One member function per family
// of instructions; each writes a whole guest instruction or says that it cannot, which makes
// the instruction an `interpret` exit.
//
// A guest instruction's host code keeps guest state recoverable wherever it can fault: the
// registers as Translation::displaced says, RSP and flags as before the instruction.
#pragma once

#include <array>
#include <optional>
#include <span>

#include "engine/translate/emit/code.h"
#include "engine/translate/emit/rewrite.h"
#include "engine/translate/emit/rewrite32.h"
#include "engine/translate/lower/instruction.h"
#include "x86/canonical.h"

namespace doppel::engine::translate {

// What comes behind the last instruction of a block that does not transfer control.
enum class Follows : std::uint8_t {
    nothing,      // the block may go on there
    undecodable,  // the interpreter's
};

class Lowering {
public:
    Lowering(const Source& source, Code& code, Numbers first, std::uint64_t common_exit,
             Translation& result);

    // Everything: hot part, then cold part. False: out of room.
    bool run(std::span<const Instruction> instructions, Follows follows);

private:
    // Something behind the hot part that a jump leads to.
    struct Cold {
        enum class Kind : std::uint8_t { stub, learn, by_cell, literal } kind;
        std::uint32_t patch;   // offset of the rel32 that leads there; 0: a cell does
        std::uint32_t exit;    // stub, learn: index
        std::uint64_t value;   // by_cell: guest RIP; literal
    };
    // A register borrowed for one guest instruction.
    struct Borrowed {
        std::uint8_t reg = no_register;
        std::uint8_t slot = 0;
        bool spilled = false;
        std::uint32_t displaced_from = 0;
    };
    // What a later instruction of the block overwrites unread is not kept up until then.
    struct Unread {
        struct Register {
            std::uint8_t reg, slot;  // its value is in the slot
            std::uint32_t from;
        };
        std::array<Register, 3> registers;
        unsigned count = 0;
        Displaced flags;             // from 0: none
    };
    // 32-bit code: pushes and pops that ESP has not followed yet.
    struct Behind {
        std::int32_t offset = 0;  // guest's ESP - ESP
        std::uint32_t from = 0;   // since this offset of the code
    };
    struct Mark {
        std::uint32_t size;
        std::size_t points, displaced, exits, cold;
        std::uint32_t cells;
        Unread unread;
        Behind behind;
    };
    enum class Outcome : std::uint8_t { lowered, ended, failed };

    // lowering.cpp
    Outcome lower(std::span<const Instruction> rest);
    void emit_cold();
    [[nodiscard]] Mark mark() const;
    void roll_back(const Mark& mark);
    void point(std::uint32_t guest);
    [[nodiscard]] std::uint64_t rip_of(const Instruction& instruction) const;
    [[nodiscard]] std::uint64_t rip_behind(const Instruction& instruction) const;
    void check_pending(std::uint64_t target);
    void interpret_unless_rcx_is_zero(std::uint64_t target, bool rax_too);
    void end_unread(const Instruction& instruction);
    void restore_unread();

    // exits.cpp
    void leave(ExitKind kind, std::uint64_t target);
    void go_to(std::uint64_t target, const Mode& mode);
    void jump_to_cold(Cold::Kind kind, std::uint32_t patch, std::uint64_t value);
    void link_later(std::uint32_t patch, std::uint64_t target, const Mode& mode);
    void stub(std::uint32_t site_index);
    std::uint32_t add_exit(const Exit& exit);
    void jump_by_cell(std::uint64_t target);
    void leave_without_target();
    [[nodiscard]] bool linkable(std::uint64_t target) const;

    // memory.cpp
    bool plain(std::span<const Instruction> rest);
    bool lea(const Instruction& instruction);
    bool string(const Instruction& instruction);
    bool with_address(std::span<const Instruction> rest, Rewrite rewrite);
    // The segment prefix and addressing mode of the memory operand; false: the interpreter's.
    bool place_operand(const Instruction& instruction, Rewrite& rewrite) const;
    std::uint8_t take_unread(std::span<const Instruction> rest);
    Borrowed borrow(std::uint32_t used, unsigned nth);
    void borrowed_changes(Borrowed& borrowed);
    void give_back(const Borrowed& borrowed);
    void displaced(std::uint32_t from, std::uint8_t reg, Displaced::Where where, std::uint8_t slot);

    // stack_pointer.cpp: RSP as an operand of supervisor code
    bool stack_pointer(std::span<const Instruction> rest);
    bool without_flags(const Instruction& instruction, Displaced::Where where);
    void restore_flags();
    bool renamed_stack_pointer(const Instruction& instruction);
    bool adjust_with_flags(const Instruction& instruction);
    bool lea_stack_pointer(const Instruction& instruction);
    bool leave_frame(const Instruction& instruction);
    bool pop_stack_pointer();

    // code32.cpp: 32-bit code; nullopt: as 64-bit code
    std::optional<Outcome> lower_code32(const Instruction& instruction);
    bool place_code32(const Instruction& instruction, Rewrite32& rewrite) const;
    bool plain_code32(const Instruction& instruction);
    bool string_code32(const Instruction& instruction);
    bool push_code32(const Instruction& instruction);
    bool pop_code32(const Instruction& instruction);
    void push_immediate(std::uint32_t value);
    void push_all_code32();
    void pop_all_code32();
    void leave_code32();
    bool push_flags_code32();
    void push_return_code32(const Instruction& instruction);
    bool indirect_code32(const Instruction& instruction);
    void ret_code32(const Instruction& instruction);
    void window_prefix();
    void move_stack(unsigned opcode, unsigned reg, int displacement);
    [[nodiscard]] bool leaves_esp_behind(const Instruction& instruction) const;
    void leave_esp_behind(std::int32_t by);
    void catch_up_esp(std::int32_t by = 0);

    // branch.cpp
    bool push_return(const Instruction& instruction);
    bool conditional(const Instruction& instruction);
    bool loop(const Instruction& instruction);
    bool indirect(const Instruction& instruction);
    bool ret(const Instruction& instruction);
    bool indirect_by_register(const Instruction& instruction);
    void dispatch(std::uint32_t rcx_from, unsigned target);
    void note_stack_change(const Instruction& instruction);
    void save_target_register();
    void learning_jump(std::uint32_t rcx_from);

    // system.cpp
    bool push_flags(const Instruction& instruction);
    bool pop_flags(const Instruction& instruction);
    void read_tsc();
    void swap_gs(const Instruction& instruction);
    bool read_selector(const Instruction& instruction);
    bool read_gs_base(const Instruction& instruction);
    bool write_base(const Instruction& instruction);

    const Source& source_;
    Code& code_;
    Numbers first_;
    std::uint64_t common_exit_;
    Translation& result_;
    bool user_;
    bool learns_;  // indirect branches do: see learned_targets
    std::array<Cold, 96> cold_;
    std::size_t cold_count_ = 0;
    Unread unread_;
    Behind behind_;
};

}  // namespace doppel::engine::translate
