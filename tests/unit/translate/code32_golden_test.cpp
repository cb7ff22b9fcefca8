// The host code of 32-bit code.
#include <gtest/gtest.h>

#include "engine/translate/block/recover.h"
#include "translated_code.h"
#include "x86/cpu_state.h"

#define GUEST32(text) GUEST(".code32\n" text "\n.code64")

namespace doppel::engine::translate::test {

namespace {

constexpr std::uint64_t kernel_rip = 0xc1000000;
constexpr std::uint64_t program_rip = 0x8048000;
constexpr Mode kernel_mode{.code32 = true, .fs = Reach::whole};
constexpr Mode program_mode{
    .user = true, .vector = true, .gs_free = true, .code32 = true, .gs = Reach::whole};

// Without the jump or the stub behind the last instruction.
std::string body(std::span<const std::uint8_t> guest, std::uint64_t rip, const Mode& mode)
{
    const Translated block{guest, rip, mode};
    EXPECT_TRUE(block.done);
    return disassemble(block.code, block.address, 0, block.translation.points.back().host);
}
std::string kernel(std::span<const std::uint8_t> guest) { return body(guest, kernel_rip, kernel_mode); }
std::string program(std::span<const std::uint8_t> guest)
{
    return body(guest, program_rip, program_mode);
}

}  // namespace

TEST(Code32Golden, AddressesHave32Bits)
{
    EXPECT_EQ(program(GUEST32("mov eax,[ebx+8]; add [ebx+ecx*4],edx; mov eax,ds:[0x1234]; inc eax; "
                              "dec si; cmp dword ptr ds:[0x90000000],5; lea eax,[ebx+ecx]; "
                              "add ds:[0x2000],ecx; addps xmm1,[eax]")),
              "mov eax, [ebx+0x8]\n"
              "add [ebx+ecx*4], edx\n"
              "mov eax, [0x1234]\n"
              "inc eax\n"
              "dec si\n"
              "cmp dword ptr [0x90000000], 0x5\n"
              "lea eax, [rbx+rcx*1]\n"
              "add [0x2000], ecx\n"
              "addps xmm1, [eax]\n");
}

TEST(Code32Golden, SupervisorSeesItsWindow)
{
    EXPECT_EQ(kernel(GUEST32("mov eax,[ebx+8]; mov ecx,[esp+4]; mov ds:[0x1234],al; lea edx,[esp+8]; "
                             "mov ebp,esp; rep stosd; movsb; lodsd")),
              "mov eax, gs:[ebx+0x8]\n"
              "mov ecx, gs:[esp+0x4]\n"
              "mov gs:[0x1234], al\n"
              "lea edx, [rsp+0x8]\n"
              "mov ebp, esp\n"
              "mov r13, 0x8000000000\n"
              "lea rdi, [rdi+r13*1]\n"
              "rep stosd\n"
              "mov edi, edi\n"
              "mov r13, 0x8000000000\n"
              "lea rdi, [rdi+r13*1]\n"
              "movsb\n"
              "mov edi, edi\n"
              "lodsd\n");
}

TEST(Code32Golden, SegmentBasesAreInRegisters)
{
    EXPECT_EQ(program(GUEST32("mov eax,gs:[0x14]; mov ecx,gs:[eax]; inc dword ptr gs:[ebx+esi*2-4]; "
                              "mov eax,gs:[0]; mov gs:[edx],cl")),
              "mov eax, [r15d+0x14]\n"
              "lea r12d, [rax]\n"
              "mov ecx, [r15d+r12d*1]\n"
              "lea r12d, [rbx+rsi*2-0x4]\n"
              "inc [r15d+r12d*1]\n"
              "mov eax, [r15d]\n"
              "lea r12d, [rdx]\n"
              "mov [r15d+r12d*1], cl\n");
    EXPECT_EQ(kernel(GUEST32("mov eax,fs:[0xc1234567]; add fs:[ebx],eax")),
              "mov eax, gs:[r14d-0x3EDCBA99]\n"
              "lea r12d, [rbx]\n"
              "add gs:[r14d+r12d*1], eax\n");
    EXPECT_EQ(program(GUEST32("mov eax,fs:[0]")), "");
    EXPECT_EQ(program(GUEST32("mov gs:[0],ah; mov gs:[0],ebx")), "");
    EXPECT_EQ(program(GUEST32("mov cs:[0],ebx")), "");
}

TEST(Code32Golden, ASegmentWithALimitIsNamedAtSmallOffsets)
{
    Mode mode = kernel_mode;
    mode.fs = Reach::page;
    EXPECT_EQ(body(GUEST32("mov eax,fs:[0x124]; mov fs:[0xfc0],ecx"), kernel_rip, mode),
              "mov eax, gs:[r14d+0x124]\n"
              "mov gs:[r14d+0xFC0], ecx\n");
    EXPECT_EQ(body(GUEST32("mov eax,fs:[0xfc4]"), kernel_rip, mode), "");
    EXPECT_EQ(body(GUEST32("mov eax,fs:[0xffffffe0]"), kernel_rip, mode), "");
    EXPECT_EQ(body(GUEST32("mov eax,fs:[ecx]"), kernel_rip, mode), "");
}

TEST(Code32Golden, TheStackPointerFollowsLater)
{
    EXPECT_EQ(program(GUEST32("push ebp; push esi; mov eax,ebx; push 5; push [ebx]; mov ebp,esp; pop edi; "
                              "pop esi; pop [ebx]; sub esp,16; push esp; pop esp; pushad; popad; leave")),
              "mov [rsp-0x4], ebp\n"
              "mov [rsp-0x8], esi\n"
              "mov eax, ebx\n"
              "mov dword ptr [rsp-0xC], 0x5\n"
              "mov r13d, [ebx]\n"
              "mov [rsp-0x10], r13d\n"
              "lea esp, [rsp-0x10]\n"
              "mov ebp, esp\n"
              "mov edi, [rsp]\n"
              "mov esi, [rsp+0x4]\n"
              "mov r13d, [rsp+0x8]\n"
              "mov [ebx], r13d\n"
              "lea esp, [rsp+0xC]\n"
              "sub esp, 0x10\n"
              "mov [rsp-0x4], esp\n"
              "lea esp, [rsp-0x4]\n"
              "mov esp, [rsp]\n"
              "mov [rsp-0x4], eax\n"
              "mov [rsp-0x8], ecx\n"
              "mov [rsp-0xC], edx\n"
              "mov [rsp-0x10], ebx\n"
              "mov [rsp-0x14], esp\n"
              "mov [rsp-0x18], ebp\n"
              "mov [rsp-0x1C], esi\n"
              "mov [rsp-0x20], edi\n"
              "lea esp, [rsp-0x20]\n"
              "mov r8d, [rsp]\n"
              "mov r9d, [rsp+0x4]\n"
              "mov r10d, [rsp+0x8]\n"
              "mov r11d, [rsp+0x10]\n"
              "mov r12d, [rsp+0x14]\n"
              "mov r13d, [rsp+0x18]\n"
              "mov eax, [rsp+0x1C]\n"
              "mov rdi, r8\n"
              "mov rsi, r9\n"
              "mov rbp, r10\n"
              "mov rbx, r11\n"
              "mov rdx, r12\n"
              "mov rcx, r13\n"
              "lea esp, [rsp+0x20]\n"
              "mov r13d, [rbp]\n"
              "lea esp, [rbp+0x4]\n"
              "mov ebp, r13d\n");
    EXPECT_EQ(kernel(GUEST32("push eax; push 0x1234567; pop ecx; pop edx; leave")),
              "mov gs:[rsp-0x4], eax\n"
              "mov dword ptr gs:[rsp-0x8], 0x1234567\n"
              "mov ecx, gs:[rsp-0x8]\n"
              "mov edx, gs:[rsp-0x4]\n"
              "mov r13d, gs:[rbp]\n"
              "lea esp, [rbp+0x4]\n"
              "mov ebp, r13d\n");
}

TEST(Code32Golden, FlagsOfAProgram)
{
    EXPECT_EQ(program(GUEST32("pushfd; pop eax")),
              "mov r8, rsp\n"
              "lea rsp, [0x700010000C0]\n"
              "pushfq\n"
              "pop r9\n"
              "mov rsp, r8\n"
              "mov r10d, 0x200CD5\n"
              "pext r9, r9, r10\n"
              "pdep r9, r9, r10\n"
              "mov r10d, 0x202\n"
              "lea r9, [r9+r10*1]\n"
              "mov [rsp-0x4], r9d\n"
              "mov eax, [rsp-0x4]\n");
    EXPECT_EQ(kernel(GUEST32("pushfd; pop eax; cli")),
              "mov r8, rsp\n"
              "lea rsp, [0x100000C0]\n"
              "pushfq\n"
              "pop r9\n"
              "mov rsp, r8\n"
              "mov r10d, 0x200CD5\n"
              "pext r9, r9, r10\n"
              "pdep r9, r9, r10\n"
              "mov r10, [system_flags]\n"
              "lea r9, [r9+r10*1]\n"
              "mov gs:[rsp-0x4], r9d\n"
              "mov eax, gs:[rsp-0x4]\n"
              "mov byte ptr [system_flags+1], 0x0\n");
}

TEST(Code32Golden, Branches)
{
    const auto branch = [](std::span<const std::uint8_t> guest) {
        const Translated block{guest, kernel_rip, kernel_mode};
        EXPECT_TRUE(block.done);
        return disassemble(block.code, block.address, 0, block.translation.hot_size);
    };
    EXPECT_EQ(branch(GUEST32("push eax; call .+0x105")),
              "mov gs:[rsp-0x4], eax\n"
              "mov dword ptr gs:[rsp-0x8], 0xC1000006\n"
              "lea esp, [rsp-0x8]\n"
              "jmp 0x20010017\n");
    EXPECT_EQ(branch(GUEST32("pop ebx; ret 8")),
              "mov ebx, gs:[rsp]\n"
              "mov [slot1], rcx\n"
              "mov ecx, gs:[rsp+0x4]\n"
              "lea esp, [rsp+0x10]\n"
              "mov [target], rcx\n"
              "mov dword ptr [branch], 0x2001001B\n"
              "rorx ecx, ecx, 0x2\n"
              "movzx ecx, cx\n"
              "jmp [rcx*8+0x10100000]\n");
    EXPECT_EQ(branch(GUEST32("call [ebx+4]")),
              "mov [slot1], rcx\n"
              "mov ecx, gs:[ebx+0x4]\n"
              "mov dword ptr gs:[rsp-0x4], 0xC1000003\n"
              "lea esp, [rsp-0x4]\n"
              "mov [target], rcx\n"
              "mov dword ptr [branch], 0x20010020\n"
              "rorx ecx, ecx, 0x2\n"
              "movzx ecx, cx\n"
              "jmp [rcx*8+0x10100000]\n");
    EXPECT_EQ(branch(GUEST32("jmp eax")),
              "mov [slot1], rcx\n"
              "mov [target], rax\n"
              "mov dword ptr [branch], 0x2001000E\n"
              "rorx ecx, eax, 0x2\n"
              "movzx ecx, cx\n"
              "jmp [rcx*8+0x10100000]\n");
}

// At each point ESP can be told.
TEST(Code32Golden, TheStackPointerIsKnownAtEachPoint)
{
    const Translated block{GUEST32("push eax; push ebx; mov eax,[ecx]; pop edx; pop edx; pop edx; "
                                   "nop; inc eax"),
                           program_rip, program_mode};
    ASSERT_TRUE(block.done);
    constexpr std::int64_t expected[] = {0, -4, -8, -8, -4, 0, 4};
    std::size_t at = 0;
    for (const Point& point : block.translation.points) {
        if (at == std::size(expected)) break;
        ExecContext context{};
        context.gpr[x86::RSP] = 0x1000;
        recover(block.translation.displaced, point.host, context);
        const bool caught_up = point.host > block.translation.points[6].host;
        if (!caught_up) {
            EXPECT_EQ(static_cast<std::int64_t>(context.gpr[x86::RSP]) - 0x1000, expected[at]) << at;
        }
        ++at;
    }
    EXPECT_EQ(at, std::size(expected));
}

}  // namespace doppel::engine::translate::test
