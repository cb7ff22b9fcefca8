// Host addresses of the translate engine, in its two kinds of process.
//
//   worker (guest supervisor code)          user process (guest user code, one a space)
//   ------------------------------          -------------------------------------------
//   0x0000_1000_0000  ExecContext           identity: guest user address = host address
//   0x0000_1010_0000  target table
//   0x0000_2000_0000  code cache (R-X)      0x0700_0000_0000  the program itself (R-X, RW)
//   0x0000_6000_0000  the program, heap     0x0700_0100_0000  ExecContext (RW)
//   0x0080_0000_0000  4 GiB of 32-bit code  0x0700_0110_0000  UserCommand (R--)
//   0x0100_0000_0000  guest RAM             0x0700_0120_0000  target table (R--)
//   supervisor window: host = guest + B     0x0700_0400_0000  links (R--)
//   0x7f80.. to 0x7fbf..  libraries, mmaps  0x0700_1000_0000  code cache (R-X)
//
// The supervisor window is folded: with B = 0x7fffffe00000 the guest's upper half lands in
// the host's 47 bits of user addresses. The lowest 8 TiB of that half, which Linux keeps as
// a guard hole, fold onto the worker's own memory, and so does a part of the hole at
// 0xffffff8000000000. A user address plus B is not canonical (for the lowest 2 MiB: nothing is
// mapped there): supervisor code that touches user memory by mistake faults.
#pragma once

#include <cstdint>

namespace doppel::engine::translate {

inline constexpr std::uint64_t large_page = 2 << 20;  // the host's

inline constexpr std::uint64_t fold = 0x7fffffe00000;  // B; GS.base of the worker

inline constexpr std::uint64_t supervisor_context = 0x10000000;
inline constexpr std::uint64_t supervisor_targets = 0x10100000;
inline constexpr std::uint64_t supervisor_code = 0x20000000;
inline constexpr std::uint64_t supervisor_code_size = 128ull << 20;
inline constexpr std::uint64_t worker_image = 0x60000000;
// Where 32-bit supervisor code sees its 4 GiB: a multiple of them, so that the lower half of a host
// address is the guest's. GS.base of the worker while such code runs.
inline constexpr std::uint64_t window32 = 0x008000000000;
inline constexpr std::uint64_t window32_size = std::uint64_t{1} << 32;
inline constexpr std::uint64_t worker_ram = 0x010000000000;
// What the worker has for itself: no window entry may overlap these host ranges.
inline constexpr std::uint64_t worker_low_end = 0x070000000000;   // [0, this)
inline constexpr std::uint64_t worker_high = 0x7f8000000000;      // [this, worker_high_end)
inline constexpr std::uint64_t worker_high_end = 0x7fc000000000;  // libraries end here
inline constexpr std::uint64_t window_end = 0x7fffffe00000;       // supervisor window: below this

inline constexpr std::uint64_t user_image = 0x070000000000;
inline constexpr std::uint64_t user_common_exit = user_image + 0x1000;  // where user code leaves
inline constexpr std::uint64_t user_program_data = user_image + 0x4000;  // writable
inline constexpr std::uint64_t user_context = 0x070001000000;
inline constexpr std::uint64_t user_command = 0x070001100000;
inline constexpr std::uint64_t user_targets = 0x070001200000;
inline constexpr std::uint64_t user_links = 0x070004000000;
inline constexpr std::uint64_t user_code = 0x070010000000;
inline constexpr std::uint64_t user_code_size = 256ull << 20;
inline constexpr std::uint64_t user_engine_end = 0x070020000000;  // [user_image, this) is not the guest's
inline constexpr std::uint64_t user_window_end = 0x7ffffffff000;

// Tables of indirect branch targets: indexed by 16 bits of the guest's RIP (first_index()). Behind
// each, for RIPs that have those in common, two more that are indexed by bits 0 to 15 plus bits 16 to
// 31: the negated RIP, and the address of its block.
inline constexpr unsigned target_count = 1u << 16;
inline constexpr std::uint64_t second_keys = target_count * 8ull;   // offsets
inline constexpr std::uint64_t second_hosts = target_count * 16ull;
inline constexpr std::uint64_t target_table_size = target_count * 24ull;

inline bool host_has_rorx()
{
    static const bool has = __builtin_cpu_supports("bmi2") != 0;
    return has;
}

// Of the first table of targets: bits 2 to 17 of RIP. Seldom are two targets nearer than that, and the
// entries of one program lie closer together. Without RORX bits 0 to 15.
inline unsigned first_index(std::uint64_t rip)
{
    return static_cast<unsigned>(host_has_rorx() ? rip >> 2 : rip) & (target_count - 1);
}
constexpr unsigned second_index(std::uint64_t rip) { return (rip + (rip >> 16)) & (target_count - 1); }
// In an unused place: no RIP that is looked for there.
constexpr std::uint64_t second_unused(unsigned index) { return index == 0 ? ~0ull : 0; }

// Where user code's direct jumps to other pages lead in this address space: the host addresses of
// blocks, by the number of the jump's cell.
inline constexpr std::uint64_t link_count = 1u << 21;
inline constexpr std::uint64_t link_table_size = link_count * 8;
constexpr std::uint64_t link_address(std::uint64_t cell) { return user_links + cell * 8; }
static_assert(user_targets + target_table_size <= user_links &&
              user_links + link_table_size <= user_code);

}  // namespace doppel::engine::translate
