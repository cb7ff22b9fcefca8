#include "engine/translate/block/translation.h"
#include "engine/translate/emit/code.h"

namespace doppel::engine::translate {

namespace {

constexpr std::size_t entry_room = 80;
constexpr std::size_t miss_room = 48;

// rcx += value; RAX may be lost.
void add_to_target(Code& code, std::uint64_t value)
{
    if (fits_signed_32(value)) {
        code.add_constant(rcx, rcx, static_cast<std::int32_t>(static_cast<std::int64_t>(value)));
    } else {
        code.load_immediate(rax, value);
        code.add_addresses(rcx, rcx, rax);
    }
}

}  // namespace

std::uint32_t emit_entry(const CodeSpace& space, bool user, std::uint64_t rip, std::uint64_t body,
                         std::uint64_t miss)
{
    Code code{space, user};
    if (!code.room(entry_room)) return 0;
    add_to_target(code, 0 - rip);
    code.byte(0xe3);  // jrcxz: the flags are the guest's
    code.byte(0);
    const std::uint32_t patch = code.size() - 1;
    add_to_target(code, rip);
    code.jump(miss);
    code.patch_byte(patch, code.size());
    code.load(rcx, Code::slot(1));
    code.load(rax, Code::slot(0));
    code.jump(body);
    return code.size();
}

std::uint32_t emit_miss(const CodeSpace& space, bool user, std::uint64_t common_exit)
{
    Code code{space, user};
    if (!code.room(miss_room)) return 0;
    code.save(rcx, context_offset::target);
    code.load(rcx, Code::slot(1));
    code.load(rax, Code::slot(0));
    code.store_dword(context_offset::exit, exit_no_target);
    code.jump(common_exit);
    return code.size();
}

}  // namespace doppel::engine::translate
