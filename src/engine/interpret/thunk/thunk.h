// One guest instruction made runnable on the host, and the cache of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/interpret/core.h"
#include "engine/interpret/lower.h"
#include "engine/interpret/thunk/arena.h"
#include "engine/interpret/thunk/host_fault.h"

namespace doppel::engine::interpret::thunk {

// Which rules of SDM volume 2 section 2.4 to 2.8 and volume 3 section 13.1 apply before
// the instruction may run.
enum class Unit : std::uint8_t {
    general,      // no register state beyond the general ones
    general_vex,  // the same, VEX-encoded: protected mode only
    x87,          // CR0.EM or CR0.TS: #NM
    wait,         // FWAIT: CR0.MP and CR0.TS together: #NM
    mmx,          // CR0.EM: #UD, CR0.TS: #NM
    sse,          // CR0.EM or no CR4.OSFXSR: #UD, CR0.TS: #NM
    avx,          // not protected mode, no CR4.OSXSAVE, XCR0: #UD, CR0.TS: #NM
    avx512,
};

// How a mask decides which elements of the memory operand are touched.
enum class Masking : std::uint8_t {
    none,
    opmask,         // bit i of a mask register: element i
    opmask_fold,    // broadcast of a tuple: bit i is element i modulo the count
    opmask_packed,  // expand and compress: as many elements as there are bits, in a row
    sign,           // sign bit of element i of a vector register
};

// What must hold before, given as masks so that the usual case costs three compares.
struct Requirements {
    Unit unit = Unit::general;
    bool protected_mode = false;  // VEX and EVEX do not exist in real and virtual-8086 mode
    bool pending_x87 = false;  // waits: #MF when an unmasked x87 exception is pending
    std::uint64_t cr0_clear = 0;
    std::uint64_t cr4_set = 0;
    std::uint64_t xcr0_set = 0;
    std::uint64_t components = 0;  // XSAVE components that must be in memory, not in INIT
};

Requirements requirements(Unit unit);

struct MemoryOperand {
    std::uint16_t size = 0;  // bytes
    bool read = false, write = false;
    std::uint16_t alignment = 1;
    Masking masking = Masking::none;
    std::uint8_t mask_register = 0;
    std::uint8_t mask_bits = 0;      // of the mask that count
    std::uint8_t elements = 0, element_size = 0;
};

// Gathers and scatters are never run natively: element by element in C++.
struct Gather {
    bool scatter = false, opmask = false;
    std::uint8_t vector = 0, index = 0, mask = 0;  // registers
    std::uint8_t elements = 0, element_size = 0, index_size = 0, scale = 1;
};

struct Thunk : CodeRange {
    using Entry = std::uint64_t (*)(Core* core, void* memory);
    // Ops remember the id with the pointer: a slot that was reused has another.
    std::uint64_t id = 0;
    Entry enter = nullptr;
    Requirements needs;
    MemoryOperand memory;
    Gather gather;
    bool saves_x87 = false;      // the routine stores x87 state: last pointers are to be mended
    std::uint8_t opcode = 0;     // low three bits of the x87 opcode, for FOP
};

}  // namespace doppel::engine::interpret::thunk

namespace doppel::engine::interpret {

// Thunks of one vCPU. Not thread-safe. Bounded: when the arena or the slots are full, all
// are forgotten; an Op whose thunk is gone (see Thunk::id) makes it anew when it runs.
class ThunkCache {
public:
    static base::Result<std::unique_ptr<ThunkCache>> create();

    // The slot for a key, empty (enter == nullptr, id set) when new. `code` is placed with it.
    thunk::Thunk* find(const std::string& key);
    thunk::Thunk* add(const std::string& key, std::span<const std::uint8_t> code,
                      std::size_t fault_exit);
    [[nodiscard]] bool owns_address(std::uint64_t address) const { return arena_.contains(address); }

    // Where memory operands are shown to thunks: same low 12 bits as the guest's address.
    [[nodiscard]] std::byte* bounce(std::uint64_t linear)
    {
        return bounce_.data() + (linear & base::page_mask);
    }

    [[nodiscard]] std::uint64_t flushes() const { return flushes_; }

private:
    static constexpr std::size_t arena_size = 8u << 20;
    static constexpr std::size_t slots = 32768;

    ThunkCache(thunk::Arena arena, base::MappedRegion bounce);

    thunk::Arena arena_;
    base::MappedRegion bounce_;
    std::vector<thunk::Thunk> slots_;
    std::unordered_map<std::string, thunk::Thunk*> index_;
    std::size_t used_ = 0;
    std::uint64_t next_id_ = 1;
    std::uint64_t flushes_ = 0;
};

// Deletes core.thunks (Core sees only the name of the type).
void destroy_thunks(Core& core) noexcept;

}  // namespace doppel::engine::interpret
