// The host code itself, so that a change of it is seen in review.
#include <gtest/gtest.h>

#include "translated_code.h"

namespace doppel::engine::translate::test {

namespace {

constexpr std::uint64_t kernel_rip = 0xffffffff81000000;
constexpr std::uint64_t program_rip = 0x555555554000;

std::string hot(const Translated& block)
{
    return disassemble(block.code, block.address, 0, block.translation.hot_size);
}
// Without the jump or the stub behind the last instruction.
std::string body(std::span<const std::uint8_t> guest, std::uint64_t rip, const Mode& mode)
{
    const Translated block{guest, rip, mode};
    EXPECT_TRUE(block.done);
    return disassemble(block.code, block.address, 0, block.translation.points.back().host);
}
std::string kernel(std::span<const std::uint8_t> guest)
{
    return body(guest, kernel_rip, supervisor_mode);
}
std::string program(std::span<const std::uint8_t> guest)
{
    return body(guest, program_rip, user_mode);
}
std::string kernel_branch(std::span<const std::uint8_t> guest)
{
    const Translated block{guest, kernel_rip, supervisor_mode};
    EXPECT_TRUE(block.done);
    return hot(block);
}
std::string program_branch(std::span<const std::uint8_t> guest)
{
    const Translated block{guest, program_rip, user_mode};
    EXPECT_TRUE(block.done);
    return hot(block);
}

}  // namespace

TEST(TranslationGolden, SupervisorMemoryIsFoldedByThePrefix)
{
    EXPECT_EQ(kernel(GUEST("mov rax,[rbx+8]; add [0x1000],ax; lock cmpxchg [r12+r13*8+0x1234],r9;"
                           "mov qword ptr [rip+0x2000],5; tzcnt rax,[rbx]; shlx rax,[rdx],rcx;"
                           "cmp byte ptr ds:[rbp],1; movnti [rdi],rax")),
              "mov rax, gs:[rbx+0x8]\n"
              "add gs:[0x1000], ax\n"
              "lock cmpxchg gs:[r12+r13*8+0x1234], r9\n"
              "mov qword ptr gs:[0xFFFFFFFF81002021], 0x5\n"
              "tzcnt rax, gs:[rbx]\n"
              "shlx rax, gs:[rdx], rcx\n"
              "cmp byte ptr gs:[rbp], 0x1\n"
              "movnti gs:[rdi], rax\n");
}

TEST(TranslationGolden, SupervisorGsIsTheHostsFs)
{
    EXPECT_EQ(kernel(GUEST("mov rax,gs:[0x28]; inc dword ptr gs:[rip+0x1000]; mov gs:[rbx],ecx")),
              "mov rax, fs:[0x28]\n"
              "inc fs:[0xFFFFFFFF81001010]\n"
              "mov fs:[rbx], ecx\n");
    EXPECT_EQ(kernel(GUEST("mov rax,fs:[0x28]")), "");
    EXPECT_EQ(kernel(GUEST("mov rax,gs:[rsp+8]")), "");
}

TEST(TranslationGolden, StackAccessesAreNative)
{
    EXPECT_EQ(kernel(GUEST("push rbx; push qword ptr [rsp+8]; push [rbx]; mov [rsp+8],rax;"
                           "mov rax,[rsp+rcx*4]; pop [rcx]; pop rax; push -5")),
              "push rbx\n"
              "push [rsp+0x8]\n"
              "push gs:[rbx]\n"
              "mov [rsp+0x8], rax\n"
              "mov rax, [rsp+rcx*4]\n"
              "pop gs:[rcx]\n"
              "pop rax\n"
              "push 0xFFFFFFFFFFFFFFFB\n");
    EXPECT_EQ(kernel(GUEST("push rsp")), "");
}

TEST(TranslationGolden, StackPointerAsAnOperand)
{
    EXPECT_EQ(kernel(GUEST("mov rbp,rsp; mov rsp,rbp; lea rax,[rsp+0x20]; lea rsp,[rsp+8];"
                           "lea rsp,[rbp-0x28]; mov rsp,gs:[0x5678]; mov gs:[0x1234],rsp")),
              "mov rbp, 0xFFFF800000200000\n"
              "lea rbp, [rsp+rbp*1]\n"
              "mov rsp, 0x7FFFFFE00000\n"
              "lea rsp, [rsp+rbp*1]\n"
              "mov rax, 0xFFFF800000200000\n"
              "lea rax, [rsp+rax*1+0x20]\n"
              "lea rsp, [rsp+0x8]\n"
              "mov rsp, 0x7FFFFFE00000\n"
              "lea rsp, [rsp+rbp*1-0x28]\n"
              "mov [slot2], rdx\n"
              "mov rdx, fs:[0x5678]\n"
              "mov rsp, 0x7FFFFFE00000\n"
              "lea rsp, [rsp+rdx*1]\n"
              "mov rdx, [slot2]\n"
              "mov [slot2], rdx\n"
              "mov rdx, 0xFFFF800000200000\n"
              "lea rdx, [rsp+rdx*1]\n"
              "mov fs:[0x1234], rdx\n"
              "mov rdx, [slot2]\n");
    EXPECT_EQ(kernel(GUEST("leave")), "mov [slot2], rdx\n"
                                      "mov rdx, gs:[rbp]\n"
                                      "mov rsp, 0x7FFFFFE00000\n"
                                      "lea rsp, [rsp+rbp*1+0x8]\n"
                                      "mov rbp, rdx\n"
                                      "mov rdx, [slot2]\n");
}

TEST(TranslationGolden, StackPointerArithmeticIsNativeWhenItsFlagsAreDead)
{
    EXPECT_EQ(kernel(GUEST("sub rsp,0x20; mov [rsp],rax; test rax,rax")),
              "sub rsp, 0x20\nmov [rsp], rax\ntest rax, rax\n");
    EXPECT_EQ(kernel(GUEST("and rsp,-16; cmp eax,1")), "and rsp, 0xFFFFFFFFFFFFFFF0\ncmp eax, 0x1\n");
    EXPECT_EQ(kernel(GUEST("add rsp,0x20; pop rbx")), "mov [slot2], rdx\n"
                                                      "mov rdx, 0xFFFF800000200000\n"
                                                      "lea rdx, [rsp+rdx*1]\n"
                                                      "add rdx, 0x20\n"
                                                      "lea rsp, [rsp+0x20]\n"
                                                      "mov rdx, [slot2]\n"
                                                      "pop rbx\n");
}

TEST(TranslationGolden, StringInstructionsFoldTheDestination)
{
    const Translated block{GUEST("rep movsb"), kernel_rip, supervisor_mode};
    EXPECT_EQ(disassemble(block.code, block.address, 0, block.translation.points.back().host),
              "mov [slot2], rdx\n"
              "mov rdx, 0x7FFFFFE00000\n"
              "lea rdi, [rdi+rdx*1]\n"
              "rep movsb\n"
              "mov rdx, 0xFFFF800000200000\n"
              "lea rdi, [rdi+rdx*1]\n"
              "mov rdx, [slot2]\n");
    // The source's prefix, which the disassembly hides.
    const std::uint8_t copied[] = {0x65, 0xf3, 0xa4};
    EXPECT_EQ(std::memcmp(block.code.data() + 21, copied, sizeof copied), 0);
    ASSERT_EQ(block.translation.displaced.size(), 2u);
    const Displaced& rdi = block.translation.displaced[0];
    EXPECT_EQ(rdi.reg, 7);
    EXPECT_EQ(rdi.where, Displaced::Where::folded);
    EXPECT_EQ(rdi.from, 21u);
    EXPECT_EQ(rdi.to, 38u);
    const Displaced& rdx = block.translation.displaced[1];
    EXPECT_EQ(rdx.reg, 2);
    EXPECT_EQ(rdx.where, Displaced::Where::slot);
    EXPECT_EQ(rdx.slot, 2);
    EXPECT_EQ(kernel(GUEST(".byte 0x64,0xf3,0xa4")), "");
}

TEST(TranslationGolden, SupervisorBranches)
{
    EXPECT_EQ(kernel_branch(GUEST("call .+0x1000")), "push 0xFFFFFFFF81000005\njmp 0x2001000A\n");
    EXPECT_EQ(kernel_branch(GUEST("jz .+0x100000")), "jz 0x2001000B\njmp 0x2001001A\n");
    EXPECT_EQ(kernel_branch(GUEST("call [rbx+rcx*8]")), "mov [slot1], rcx\n"
                                                        "mov rcx, gs:[rbx+rcx*8]\n"
                                                        "push 0xFFFFFFFF81000003\n"
                                                        "mov [target], rcx\n"
                                                        "mov dword ptr [branch], 0x20010018\n"
                                                        "rorx ecx, ecx, 0x2\n"
                                                        "movzx ecx, cx\n"
                                                        "jmp [rcx*8+0x10100000]\n");
    EXPECT_EQ(kernel_branch(GUEST("jmp r11")), "mov [slot1], rcx\n"
                                               "mov [target], r11\n"
                                               "mov dword ptr [branch], 0x2001000E\n"
                                               "rorx ecx, r11d, 0x2\n"
                                               "movzx ecx, cx\n"
                                               "jmp [rcx*8+0x10100000]\n");
    EXPECT_EQ(kernel_branch(GUEST("ret 16")), "mov [slot1], rcx\n"
                                              "pop rcx\n"
                                              "lea rsp, [rsp+0x10]\n"
                                              "mov [target], rcx\n"
                                              "mov dword ptr [branch], 0x20010014\n"
                                              "rorx ecx, ecx, 0x2\n"
                                              "movzx ecx, cx\n"
                                              "jmp [rcx*8+0x10100000]\n");
    EXPECT_EQ(kernel_branch(GUEST("loop .-10")), "loop 0x20010007\njmp 0x2001000C\njmp 0x2001001B\n");
}

TEST(TranslationGolden, BranchesAcrossTheEndOfAHalfAreLeftAlone)
{
    constexpr std::uint64_t last = 0x7fffffffeff0;
    for (const auto& guest : {GUEST("jmp .+0x1100"), GUEST("call .+0x1100"), GUEST("jz .+0x1100"),
                              GUEST("loop .+0x7f")}) {
        const std::uint64_t rip = guest.size() == 2 ? last + 0x1000 : last;
        const Translated block{guest, rip, user_mode};
        EXPECT_EQ(block.translation.count, 0u);
        EXPECT_EQ(block.translation.exits[0].kind, ExitKind::interpret);
        EXPECT_EQ(block.translation.exits[0].target, rip);
    }
    // What runs into it faults there.
    const Translated behind{GUEST("nop"), 0x7fffffffffff, user_mode};
    EXPECT_EQ(behind.translation.count, 1u);
    EXPECT_EQ(behind.translation.exits[0].kind, ExitKind::interpret);
    EXPECT_EQ(behind.translation.exits[0].target, 0x800000000000u);
}

TEST(TranslationGolden, UserBranches)
{
    EXPECT_EQ(program_branch(GUEST("jmp .+0x10")), "jmp 0x70010010005\n");
    EXPECT_EQ(program_branch(GUEST("jmp .+0x101234")), "jmp [0x70004000FA0]\n");
    EXPECT_EQ(program_branch(GUEST("call [rip+0x1000]")), "mov [slot1], rcx\n"
                                                          "mov rcx, 0x555555555006\n"
                                                          "mov rcx, [rcx]\n"
                                                          "push [0x7001001004F]\n"
                                                          "mov [target], rcx\n"
                                                          "mov dword ptr [branch], 0x10010021\n"
                                                          "rorx ecx, ecx, 0x2\n"
                                                          "movzx ecx, cx\n"
                                                          "mov [slot0], rax\n"
                                                          "lea rax, [0x70001200000]\n"
                                                          "mov rcx, [rax+rcx*8]\n"
                                                          "mov rax, [slot0]\n"
                                                          "jmp rcx\n");
}

TEST(TranslationGolden, IndirectBranchesCompareWithWhatTheyLearned)
{
    Mode mode = user_mode;
    mode.gs_free = true;
    EXPECT_EQ(hot(Translated{GUEST("ret"), 0x401000, mode}), "mov gs:[0xFFFFFFFFFFE00098], rcx\n"
                                                             "pop rcx\n"
                                                             "mov [target], rcx\n"
                                                             "lea rcx, [rcx-0x401000]\n"
                                                             "lea rcx, [rcx-0x1]\n"
                                                             "jrcxz 0x7001001002F\n"
                                                             "lea rcx, [rcx-0x1]\n"
                                                             "jrcxz 0x7001001003E\n"
                                                             "jmp 0x7001001006B\n"
                                                             "mov rcx, gs:[0xFFFFFFFFFFE00098]\n"
                                                             "jmp 0x7001001004D\n"
                                                             "nop\n"
                                                             "mov rcx, gs:[0xFFFFFFFFFFE00098]\n"
                                                             "jmp 0x7001001005C\n"
                                                             "nop\n");
    const Translated far{GUEST("jmp rax"), program_rip, mode};
    EXPECT_EQ(disassemble(far.code, far.address, far.translation.exits[0].compare,
                          far.translation.exits[1].compare + 4),
              "lea rcx, [rcx-0x55554000]\n"
              "rorx rcx, rcx, 0x20\n"
              "lea rcx, [rcx-0x5555]\n"
              "rorx rcx, rcx, 0x20\n"
              "lea rcx, [rcx-0x1]\n");
    std::vector<std::uint8_t> code(100);
    const auto size = emit_table_jump({code.data(), user_code, code.size()});
    EXPECT_EQ(disassemble(code, user_code, 0, size),
              "mov dword ptr [branch], 0x10000000\nrorx ecx, ecx, 0x2\nmovzx ecx, cx\njmp gs:[rcx*8]\n");
    EXPECT_EQ(emit_table_jump({code.data(), user_code, 10}), 0u);
}

TEST(TranslationGolden, AFreeGsHoldsTheTableOfTargets)
{
    Mode mode = user_mode;
    mode.gs_free = true;
    EXPECT_EQ(body(GUEST("mov rax,gs:[0x28]"), program_rip, mode), "");
    EXPECT_EQ(body(GUEST("jmp gs:[rcx]"), program_rip, mode), "");
    EXPECT_EQ(body(GUEST("mov rax,fs:[0x28]"), program_rip, mode), "mov rax, fs:[0x28]\n");
}

TEST(TranslationGolden, ABlockGoesOnBehindBranchesForward)
{
    const Translated block{GUEST("jz .+0x20; mov eax,1; jnz .-0x20; mov eax,2"), program_rip + 0x100,
                           user_mode};
    EXPECT_EQ(hot(block), "jz 0x70010010016\n"
                          "mov eax, 0x1\n"
                          "jnz 0x70010010025\n"
                          "jmp 0x70010010034\n");
    EXPECT_EQ(block.translation.count, 3u);
    ASSERT_EQ(block.translation.exits.size(), 3u);
    EXPECT_EQ(block.translation.exits[0].target, program_rip + 0x120);
    ASSERT_EQ(block.translation.points.size(), 4u);
    EXPECT_EQ(block.translation.points[1].guest, 2u);
}

TEST(TranslationGolden, UserMemoryIsAsItIs)
{
    EXPECT_EQ(program(GUEST("mov rax,[rbx]; mov rcx,fs:[0x28]; addps xmm0,[rcx]; rep movsb; pushfq;"
                            "lea rdx,[rip+0x100]; vzeroupper; and rsp,-16; push rsp")),
              "mov rax, [rbx]\n"
              "mov rcx, fs:[0x28]\n"
              "addps xmm0, [rcx]\n"
              "rep movsb\n"
              "pushfq\n"
              "mov rdx, 0x555555554119\n"
              "vzeroupper\n"
              "and rsp, 0xFFFFFFFFFFFFFFF0\n"
              "push rsp\n");
}

TEST(TranslationGolden, AddressesRelativeToRip)
{
    // The destination itself, a register that is overwritten further on, a spilled one.
    EXPECT_EQ(program(GUEST("mov rax,[rip+0x100]")), "mov [slot4], rax\n"
                                                     "mov rax, 0x555555554107\n"
                                                     "mov rax, [rax]\n");
    EXPECT_EQ(program(GUEST("addsd xmm0,[rip+0x100]; xor ecx,ecx")), "mov [slot4], rcx\n"
                                                                     "mov rcx, 0x555555554108\n"
                                                                     "addsd xmm0, [rcx]\n"
                                                                     "xor ecx, ecx\n");
    // Two at once, of which one serves twice.
    EXPECT_EQ(program(GUEST("inc dword ptr [rip+0x100]; mov rcx,[rip+0x100]; neg dword ptr [rip];"
                            "mov edx,1")),
              "mov [slot4], rdx\n"
              "mov rdx, 0x555555554106\n"
              "inc [rdx]\n"
              "mov rdx, 0x55555555410D\n"
              "mov rcx, [rdx]\n"
              "mov rdx, 0x555555554013\n"
              "neg [rdx]\n"
              "mov edx, 0x1\n");
    EXPECT_EQ(program(GUEST("inc dword ptr [rip+0x100]")), "mov [slot2], rdx\n"
                                                           "mov rdx, 0x555555554106\n"
                                                           "inc [rdx]\n"
                                                           "mov rdx, [slot2]\n");
    // Near the beginning of the address space it needs none.
    EXPECT_EQ(body(GUEST("inc dword ptr [rip+0x100]; vpaddd zmm17,zmm18,[rip+0x40]"), 0x401000,
                   user_mode),
              "inc [0x401106]\nvpaddd zmm17, zmm18, [0x401050]\n");
}

// What is not kept up since it is overwritten unread, by an instruction that then turns out not to
// be translated, is as it should be where the block ends.
TEST(TranslationGolden, NothingIsLeftUnreadAtTheEnd)
{
    Mode mode = user_mode;
    mode.gs_free = true;
    EXPECT_EQ(body(GUEST("inc dword ptr [rip+0x100]; mov rdx,gs:[0]"), program_rip, mode),
              "mov [slot4], rdx\n"
              "mov rdx, 0x555555554106\n"
              "inc [rdx]\n"
              "mov rdx, [slot4]\n");
    const char* ends[] = {"add", "sub", "and"};
    const std::string code[] = {kernel(GUEST("add rsp,0x20; cmp rax,fs:[rax]")),
                                kernel(GUEST("sub rsp,0x20; cmp rax,fs:[rax]")),
                                kernel(GUEST("and rsp,-32; cmp rax,fs:[rax]"))};
    for (unsigned i = 0; i < 3; ++i) {
        const std::string name = ends[i];
        const std::string operand = name == "and" ? "0xFFFFFFFFFFFFFFE0" : "0x20";
        EXPECT_TRUE(code[i].starts_with(name + " rsp, " + operand + "\nmov [slot2], rdx\n")) << code[i];
        EXPECT_TRUE(code[i].ends_with("lea rdx, [rsp+rdx*1]\n" + name + " rdx, " + operand +
                                      "\nmov rdx, [slot2]\n"))
            << code[i];
    }
}

TEST(TranslationGolden, InterruptFlag)
{
    EXPECT_EQ(kernel(GUEST("cli; pushfq; pop rax")), "mov byte ptr [system_flags+1], 0x0\n"
                                                     "pushfq\n"
                                                     "mov [slot0], rax\n"
                                                     "mov [slot1], rcx\n"
                                                     "mov rax, [rsp]\n"
                                                     "mov rcx, [system_flags]\n"
                                                     "lea rax, [rax+rcx*1-0x202]\n"
                                                     "mov [rsp], rax\n"
                                                     "mov rax, [slot0]\n"
                                                     "mov rcx, [slot1]\n"
                                                     "pop rax\n");
    const Translated block{GUEST("sti; mov ebx,eax; mov eax,1"), kernel_rip, supervisor_mode};
    EXPECT_EQ(disassemble(block.code, block.address, 0, block.translation.points.back().host),
              "mov [slot1], rcx\n"
              "mov ecx, [pending]\n"
              "jrcxz 0x2001001B\n"
              "mov rcx, [slot1]\n"
              "jmp 0x20010035\n"
              "mov rcx, [slot1]\n"
              "mov byte ptr [system_flags+1], 0x2\n"
              "mov ebx, eax\n"
              "mov eax, 0x1\n");
    ASSERT_EQ(block.translation.exits.size(), 2u);
    EXPECT_EQ(block.translation.exits[0].kind, ExitKind::interpret);
    EXPECT_EQ(block.translation.exits[0].target, kernel_rip);
    // No interrupt behind STI.
    ASSERT_GE(block.translation.points.size(), 3u);
    EXPECT_FALSE(block.translation.points[0].shadow);
    EXPECT_TRUE(block.translation.points[1].shadow);
    EXPECT_FALSE(block.translation.points[2].shadow);
    EXPECT_EQ(block.translation.exits[0].patch, 0u);
}

TEST(TranslationGolden, SystemInstructions)
{
    EXPECT_EQ(kernel(GUEST("rdtsc")), "rdtsc\n"
                                      "rorx rdx, rdx, 0x20\n"
                                      "lea rax, [rax+rdx*1]\n"
                                      "mov rdx, [tsc_offset]\n"
                                      "lea rax, [rax+rdx*1]\n"
                                      "rorx rdx, rax, 0x20\n"
                                      "mov edx, edx\n"
                                      "mov eax, eax\n");
}

TEST(TranslationGolden, Entries)
{
    std::vector<std::uint8_t> code(200);
    auto size = emit_entry({code.data(), user_code, code.size()}, true, program_rip,
                           user_code + 0x1000, user_code + 0x2000);
    EXPECT_EQ(disassemble(code, user_code, 0, size), "mov rcx, [target]\n"
                                                     "lea rcx, [rcx-0x55554000]\n"
                                                     "rorx rcx, rcx, 0x20\n"
                                                     "lea rcx, [rcx-0x5555]\n"
                                                     "jrcxz 0x70010000022\n"
                                                     "jmp 0x70010002000\n"
                                                     "mov rcx, [slot1]\n"
                                                     "jmp 0x70010001000\n");
    size = emit_entry({code.data(), supervisor_code, code.size()}, false, kernel_rip, 0,
                      supervisor_code + 0x2000);
    EXPECT_EQ(disassemble(code, supervisor_code, 0, size), "mov rcx, [target]\n"
                                                           "lea rcx, [rcx+0x7F000000]\n"
                                                           "jrcxz 0x20000015\n"
                                                           "jmp 0x20002000\n"
                                                           "mov rcx, [slot1]\n");
    size = emit_miss({code.data(), supervisor_code, code.size()}, false, supervisor_code + 0x1000);
    EXPECT_EQ(disassemble(code, supervisor_code, 0, size), "mov [slot0], rax\n"
                                                           "mov [slot2], rdx\n"
                                                           "movzx eax, word ptr [target]\n"
                                                           "movzx edx, word ptr [target+2]\n"
                                                           "lea rax, [rax+rdx*1]\n"
                                                           "movzx eax, ax\n"
                                                           "lea rdx, [0x10180000]\n"
                                                           "mov rcx, [rdx+rax*8]\n"
                                                           "mov rax, [rdx+rax*8+0x80000]\n"
                                                           "mov [slot7], rax\n"
                                                           "mov rdx, [target]\n"
                                                           "lea rcx, [rcx+rdx*1]\n"
                                                           "mov rdx, [slot2]\n"
                                                           "mov rax, [slot0]\n"
                                                           "jrcxz 0x2000006E\n"
                                                           "mov rcx, [slot1]\n"
                                                           "mov dword ptr [exit], 0x2\n"
                                                           "jmp 0x20001000\n"
                                                           "mov rcx, [slot1]\n"
                                                           "jmp [slot7]\n");
    EXPECT_EQ(emit_entry({code.data(), user_code, 10}, true, program_rip, user_code, user_code), 0u);
    EXPECT_EQ(emit_miss({code.data(), user_code, 10}, true, user_code), 0u);
}

struct LeftAlone {
    const char* name;
    std::span<const std::uint8_t> guest;
    ExitKind kind;
    bool user;
};

TEST(TranslationGolden, WhatIsNotTranslatedLeavesTheBlock)
{
    const LeftAlone cases[] = {
        {"syscall", GUEST("syscall"), ExitKind::syscall, true},
        {"sysretq", GUEST("sysretq"), ExitKind::sysret, false},
        {"sysretl", GUEST(".byte 0x0f,0x07"), ExitKind::interpret, false},
        {"iretq", GUEST("iretq"), ExitKind::iret, false},
        {"stac", GUEST("stac"), ExitKind::stac, false},
        {"stac of a program", GUEST("stac"), ExitKind::interpret, true},
        {"user iretq", GUEST("iretq"), ExitKind::interpret, true},
        {"user swapgs", GUEST("swapgs"), ExitKind::interpret, true},
        {"hlt", GUEST("hlt"), ExitKind::interpret, false},
        {"cpuid", GUEST("cpuid"), ExitKind::interpret, true},
        {"xgetbv", GUEST("xgetbv"), ExitKind::interpret, true},
        {"rdpid", GUEST("rdpid rax"), ExitKind::interpret, true},
        {"rdfsbase", GUEST("rdfsbase rax"), ExitKind::interpret, true},
        {"wrgsbase", GUEST("wrgsbase rax"), ExitKind::interpret, true},
        {"mov fs", GUEST("mov fs,eax"), ExitKind::interpret, true},
        {"mov from ds", GUEST("mov eax,ds"), ExitKind::interpret, true},
        {"push fs", GUEST("push fs"), ExitKind::interpret, true},
        {"mov cr0", GUEST("mov rax,cr0"), ExitKind::interpret, false},
        {"mov dr7", GUEST("mov dr7,rax"), ExitKind::interpret, false},
        {"in", GUEST("in al,dx"), ExitKind::interpret, false},
        {"rep outsb", GUEST("rep outsb"), ExitKind::interpret, false},
        {"int3", GUEST("int3"), ExitKind::interpret, true},
        {"int 0x80", GUEST("int 0x80"), ExitKind::interpret, true},
        {"ud2", GUEST("ud2"), ExitKind::interpret, true},
        {"lgdt", GUEST("lgdt [rax]"), ExitKind::interpret, false},
        {"lret", GUEST(".byte 0xcb"), ExitKind::interpret, true},
        {"jmp far", GUEST("jmp fword ptr [rax]"), ExitKind::interpret, true},
        {"enter", GUEST("enter 8,0"), ExitKind::interpret, true},
        {"clflush", GUEST("clflush [rax]"), ExitKind::interpret, true},
        {"xsave", GUEST("xsave [rax]"), ExitKind::interpret, true},
        {"xrstor", GUEST("xrstor [rax]"), ExitKind::interpret, true},
        {"fxrstor", GUEST("fxrstor [rax]"), ExitKind::interpret, true},
        {"wrpkru", GUEST(".byte 0x0f,0x01,0xef"), ExitKind::interpret, true},
        {"xbegin", GUEST("xbegin ."), ExitKind::interpret, true},
        {"tpause", GUEST("tpause eax"), ExitKind::interpret, true},
        {"incssp", GUEST(".byte 0xf3,0x0f,0xae,0xe8"), ExitKind::interpret, true},
        {"user cli", GUEST("cli"), ExitKind::interpret, true},
        {"user stac", GUEST("stac"), ExitKind::interpret, true},
        {"address size", GUEST("mov eax,[ebx]"), ExitKind::interpret, true},
        {"call16", GUEST(".byte 0x66,0xe8,0,0,0,0"), ExitKind::interpret, true},
        {"pushfw", GUEST("pushfw"), ExitKind::interpret, true},
        {"supervisor addps", GUEST("addps xmm0,xmm1"), ExitKind::vectors, false},
        {"supervisor fld", GUEST("fld1"), ExitKind::vectors, false},
        {"sti at the end", GUEST("sti"), ExitKind::interpret, false},
        {"sti hlt", GUEST("sti; hlt"), ExitKind::interpret, false},
    };
    for (const LeftAlone& each : cases) {
        const Translated block{each.guest, kernel_rip, each.user ? user_mode : supervisor_mode};
        ASSERT_TRUE(block.done) << each.name;
        ASSERT_EQ(block.translation.exits.size(), 1u) << each.name;
        EXPECT_EQ(block.translation.exits[0].kind, each.kind) << each.name;
        EXPECT_EQ(block.translation.exits[0].target, kernel_rip) << each.name;
        EXPECT_EQ(block.translation.count, 0u) << each.name;
        EXPECT_GT(block.translation.guest_bytes, 0u) << each.name;
        EXPECT_EQ(block.translation.points.size(), 1u) << each.name;
    }
}

// Supervisor code is translated with AC clear: what lies between STAC and CLAC is the
// interpreter's.
TEST(TranslationGolden, StacLeavesAndClacIsNothing)
{
    const Translated leaves{GUEST("mov eax,ebx; stac; mov rax,[rbx]"), kernel_rip, supervisor_mode};
    ASSERT_EQ(leaves.translation.exits.size(), 1u);
    EXPECT_EQ(leaves.translation.exits[0].kind, ExitKind::stac);
    EXPECT_EQ(leaves.translation.exits[0].target, kernel_rip + 2);
    const Translated stays{GUEST("clac; mov eax,ebx; hlt"), kernel_rip, supervisor_mode};
    EXPECT_EQ(stays.translation.count, 2u);
}

TEST(TranslationGolden, VectorInstructionsOfSupervisorCodeSayThatTheyWantTheirRegisters)
{
    const Translated block{GUEST("mov eax,ebx; addps xmm0,xmm1"), kernel_rip, supervisor_mode};
    ASSERT_EQ(block.translation.exits.size(), 1u);
    EXPECT_EQ(block.translation.exits[0].kind, ExitKind::vectors);
    Mode mode;
    mode.vector = true;
    const Translated with{GUEST("addps xmm0,xmm1; hlt"), kernel_rip, mode};
    EXPECT_EQ(with.translation.count, 1u);
}

TEST(TranslationGolden, WithoutVectorRegistersUserCodeInterpretsThem)
{
    Mode mode = user_mode;
    mode.vector = false;
    const Translated block{GUEST("popcnt eax,ebx; addps xmm0,xmm1"), program_rip, mode};
    EXPECT_EQ(block.translation.count, 1u);
    ASSERT_EQ(block.translation.exits.size(), 1u);
    EXPECT_EQ(block.translation.exits[0].kind, ExitKind::interpret);
}

TEST(TranslationGolden, EndsOfBlocks)
{
    // An instruction that does not fit the bytes.
    const Translated cut{GUEST("nop; .byte 0x48,0x8b"), program_rip, user_mode};
    EXPECT_EQ(cut.translation.guest_bytes, 1u);
    EXPECT_EQ(cut.translation.exits[0].kind, ExitKind::interpret);
    EXPECT_EQ(cut.translation.exits[0].target, program_rip + 1);
    const Translated nothing{GUEST(".byte 0x48,0x8b"), program_rip, user_mode};
    EXPECT_TRUE(nothing.done);
    EXPECT_EQ(nothing.translation.guest_bytes, 0u);
    EXPECT_EQ(nothing.translation.exits[0].kind, ExitKind::interpret);
    // The 65th instruction.
    const Translated full{GUEST(".fill 70,1,0xf8"), program_rip, user_mode};
    EXPECT_EQ(full.translation.count, 64u);
    EXPECT_EQ(full.translation.exits[0].kind, ExitKind::direct);
    EXPECT_EQ(full.translation.exits[0].target, program_rip + 64);
    // Not enough room, at any size.
    const auto guest = GUEST("mov rax,[rip+0x1000]; call .+0x10");
    for (std::size_t capacity = 0; capacity < 200; capacity += 7) {
        EXPECT_FALSE((Translated{guest, program_rip, user_mode, capacity}.done));
    }
}

TEST(TranslationGolden, InstructionsThatAccessDevicesEndTheBlock)
{
    const auto guest = GUEST("mov rax,rbx; mov [rdi],eax; mov rbx,rax; mov [rdi],eax");
    const std::uint64_t rip = kernel_rip + 0x234;
    const auto translated = [&](std::initializer_list<std::uint16_t> devices) {
        return Translated{guest, rip, supervisor_mode, 16384, devices};
    };
    const Translated second = translated({0x111, 0x237});
    EXPECT_EQ(second.translation.count, 1u);
    EXPECT_EQ(second.translation.guest_bytes, 5u);
    ASSERT_EQ(second.translation.exits.size(), 1u);
    EXPECT_EQ(second.translation.exits[0].kind, ExitKind::device);
    EXPECT_EQ(second.translation.exits[0].target, rip + 3);
    const Translated first = translated({0x234});
    EXPECT_EQ(first.translation.count, 0u);
    EXPECT_EQ(first.translation.guest_bytes, 3u);
    EXPECT_EQ(first.translation.exits[0].kind, ExitKind::device);
    EXPECT_EQ(first.translation.exits[0].target, rip);
    // In the middle of an instruction, and in front of the block: none of these.
    EXPECT_EQ(translated({0x235, 0x230}).translation.count, 4u);
    // What follows STI runs before an interrupt is taken: neither is translated.
    const Translated shadow{GUEST("nop; sti; mov [rdi],eax"), rip, supervisor_mode, 16384,
                            std::initializer_list<std::uint16_t>{0x236}};
    EXPECT_EQ(shadow.translation.count, 1u);
    EXPECT_EQ(shadow.translation.exits.back().kind, ExitKind::interpret);
    EXPECT_EQ(shadow.translation.exits.back().target, rip + 1);
}

}  // namespace doppel::engine::translate::test
