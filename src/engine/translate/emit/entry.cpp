#include "engine/translate/block/translation.h"
#include "engine/translate/emit/code.h"

namespace doppel::engine::translate {

namespace {

constexpr std::size_t entry_room = 96;
constexpr std::size_t miss_room = 192;

// RCX (ECX) -= value, without a flag.
void subtract_from_rcx(Code& code, std::uint32_t value)
{
    code.add_constant(rcx, rcx, static_cast<std::int32_t>(0 - value));
}
void subtract_from_ecx(Code& code, std::uint32_t value)
{
    code.byte(0x8d);
    code.byte(0x89);
    code.dword(0 - value);
}

// Goes on behind with RCX zero, else to `miss`. LEA and JRCXZ leave the guest's flags alone.
void go_on_if_zero(Code& code, std::uint64_t miss)
{
    constexpr unsigned jump_size = 5;
    code.byte(0xe3);  // jrcxz
    code.byte(jump_size);
    code.jump(miss);
}

void check_target(Code& code, std::uint64_t rip, std::uint64_t miss)
{
    const auto low = static_cast<std::uint32_t>(rip);
    const bool negatable = low != 0x80000000;
    if (fits_signed_32(rip) && negatable) {
        code.load(rcx, context_offset::target);
        subtract_from_rcx(code, low);
    } else if (host_has_rorx() && negatable && rip <= INT64_MAX) {
        // The low half first; with it gone the rest is all there is, and its turn.
        const auto low_extended = static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(low)});
        const auto rest = static_cast<std::uint32_t>((rip - low_extended) >> 32);
        const std::uint8_t swap_halves[] = {0xc4, 0xe3, 0xfb, 0xf0, 0xc9, 0x20};  // rorx rcx, rcx, 32
        code.load(rcx, context_offset::target);
        subtract_from_rcx(code, low);
        code.bytes(swap_halves, sizeof swap_halves);
        subtract_from_rcx(code, rest);
    } else {
        code.load_low(rcx, context_offset::target);
        subtract_from_ecx(code, low);
        go_on_if_zero(code, miss);
        code.load_low(rcx, context_offset::target + 4);
        subtract_from_ecx(code, static_cast<std::uint32_t>(rip >> 32));
    }
    go_on_if_zero(code, miss);
}

}  // namespace

std::uint32_t emit_entry(const CodeSpace& space, bool user, std::uint64_t rip, std::uint64_t body,
                         std::uint64_t miss)
{
    Code code{space, user};
    if (!code.room(entry_room)) return 0;
    check_target(code, rip, miss);
    code.load(rcx, Code::slot(1));
    if (body != 0) code.jump(body);
    return code.size();
}

std::uint32_t emit_table_jump(const CodeSpace& space)
{
    constexpr bool user = true;
    Code code{space, user};
    if (!code.room(entry_room)) return 0;
    code.note_branch();
    code.table_index(rcx, rcx);
    code.jump_through_gs(rcx);
    return code.size();
}

void emit_cell_jump(const CodeSpace& space, std::uint32_t cell)
{
    constexpr bool user = true;
    Code{space, user}.jump_by_cell(cell);
}

std::uint32_t emit_miss(const CodeSpace& space, bool user, std::uint64_t common_exit)
{
    Code code{space, user};
    if (!code.room(miss_room)) return 0;
    constexpr unsigned host_slot = 7;
    code.save(rax, Code::slot(0));
    code.save(rdx, Code::slot(2));
    code.load_word(rax, context_offset::target);
    code.load_word(rdx, context_offset::target + 2);
    code.add_addresses(rax, rax, rdx);
    code.low_word(rax, rax);
    const std::uint8_t lea_rdx[] = {0x48, 0x8d, 0x15};  // lea rdx, [rip + keys]
    code.bytes(lea_rdx, sizeof lea_rdx);
    code.rip_operand((user ? user_targets : supervisor_targets) + second_keys, 0);
    const std::uint8_t load[] = {
        0x48, 0x8b, 0x0c, 0xc2,  // mov rcx, [rdx + rax*8]
        0x48, 0x8b, 0x84, 0xc2,  // mov rax, [rdx + rax*8 + (hosts - keys)]
    };
    code.bytes(load, sizeof load);
    code.dword(static_cast<std::uint32_t>(second_hosts - second_keys));
    code.save(rax, Code::slot(host_slot));
    code.load(rdx, context_offset::target);
    code.add_addresses(rcx, rcx, rdx);
    code.load(rdx, Code::slot(2));
    code.load(rax, Code::slot(0));
    code.byte(0xe3);  // jrcxz
    code.byte(0);
    const std::uint32_t found = code.size() - 1;
    code.load(rcx, Code::slot(1));
    code.store_dword(context_offset::exit, exit_no_target);
    code.jump(common_exit);
    code.patch_byte(found, code.size());
    code.load(rcx, Code::slot(1));
    code.byte(0xff);  // jmp [slot]
    code.byte(0x25);
    code.context_operand(Code::slot(host_slot), 0);
    return code.size();
}

}  // namespace doppel::engine::translate
