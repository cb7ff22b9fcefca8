// Supervisor blocks run in this process, their memory where the fold puts it.
#include <gtest/gtest.h>

#include "translated_code.h"
#include "translated_generator.h"
#include "translated_run.h"

namespace doppel::engine::translate::test {

namespace {

constexpr std::uint64_t base = 0xffff888000000000;  // guest address of everything below
constexpr std::size_t page = 4096;
constexpr std::uint64_t data_address = base;
constexpr std::uint64_t stack_address = base + 0x10000;
constexpr std::uint64_t kernel_rip = base + 0x20000;
constexpr std::uint32_t status_flags = 0x8d5;

std::uint64_t gs_base()
{
    std::uint64_t value = 0;
    // SAFETY: the C++ side of a 64-bit Linux program does not use GS.
    asm volatile("rdgsbase %0" : "=r"(value));
    return value;
}
void set_gs_base(std::uint64_t value)
{
    asm volatile("wrgsbase %0" : : "r"(value));
}

class TranslationSupervisor : public ::testing::Test {
protected:
    TranslationSupervisor() : saved_gs_base(gs_base())
    {
        data = machine.map(data_address + fold, 2 * page);
        stack = machine.map(stack_address + fold, page);
        code = machine.map(kernel_rip + fold, 2 * page);
        set_gs_base(fold);
        for (unsigned i = 0; i < 16; ++i) registers.gpr[i] = 0x0123456789abcdefull * (i + 3);
        registers.gpr[rbx] = data_address + page;
        registers.gpr[rsp] = stack_address + page / 2 + fold;
        machine.context().system_flags = 0x202;
    }
    ~TranslationSupervisor() override { set_gs_base(saved_gs_base); }

    Outcome run(std::span<const std::uint8_t> guest, const Mode& mode = supervisor_mode)
    {
        const std::uint64_t host = machine.place(guest, kernel_rip, mode, translation);
        const Outcome outcome = machine.run(registers, host);
        text = disassemble({machine.code_bytes(0x10000), machine.code_bytes(0x10000) + translation.hot_size},
                           host, 0, translation.hot_size);
        return outcome;
    }
    // The exit that was taken; nothing else changed but what the test says.
    [[nodiscard]] const Exit& exit_of(const Outcome& outcome) const
    {
        EXPECT_GE(outcome.exit, first_site) << text;
        EXPECT_LT(outcome.exit, first_site + translation.exits.size()) << text;
        return translation.exits[outcome.exit - first_site];
    }
    void fill_memory(std::span<const std::uint8_t> guest)
    {
        for (std::size_t i = 0; i < 2 * page; ++i) data[i] = static_cast<std::uint8_t>(i * 7 + 3);
        for (std::size_t i = 0; i < page; ++i) stack[i] = static_cast<std::uint8_t>(i * 5 + 1);
        std::memset(code, 0, 2 * page);
        std::memcpy(code, guest.data(), guest.size());
        machine.end_native(kernel_rip + fold + guest.size());
    }
    [[nodiscard]] std::vector<std::uint8_t> memory() const
    {
        std::vector<std::uint8_t> bytes(data, data + 2 * page);
        bytes.insert(bytes.end(), stack, stack + page);
        return bytes;
    }
    std::uint64_t& stack_word(std::uint64_t guest) const
    {
        return *reinterpret_cast<std::uint64_t*>(guest + fold);
    }
    [[nodiscard]] std::uint64_t guest_rsp() const { return registers.gpr[rsp] - fold; }

    Machine machine{false};
    std::uint8_t *code, *data, *stack;
    std::uint64_t saved_gs_base;
    Registers registers;
    Translation translation;
    std::string text;
};

}  // namespace

// The same code at folded addresses: RBX, RSI and RDI, which point there, differ by the fold.
TEST_F(TranslationSupervisor, RandomStraightCode)
{
    Generator generator{20240118, supervisor_mode, data_address};
    for (unsigned round = 0; round < 12000; ++round) {
        std::vector<std::uint8_t> bytes;
        const unsigned count = 1 + generator.below(6);
        while (bytes.size() < 8 || (bytes.size() < 200 && generator.below(count) != 0)) {
            const auto next = generator.instruction(kernel_rip + bytes.size());
            bytes.insert(bytes.end(), next.begin(), next.end());
        }
        for (unsigned i = 0; i < 16; ++i) {
            if (i != rbx && i != rsp) registers.gpr[i] = generator.value();
        }
        registers.gpr[rsi] = data_address + 512 + generator.below(64);
        registers.gpr[rdi] = data_address + 1024 + generator.below(64);
        registers.flags = 0x202 | (generator.below(0x1000) & status_flags);

        Registers native_registers = registers;
        for (const unsigned pointer : {rbx, rsi, rdi}) native_registers.gpr[pointer] += fold;
        fill_memory(bytes);
        Outcome native = machine.run(native_registers, kernel_rip + fold);
        for (const unsigned pointer : {rbx, rsi, rdi}) native.registers.gpr[pointer] -= fold;
        const auto native_memory = memory();

        fill_memory(bytes);
        const Outcome translated = run(bytes);
        const std::string both = disassemble(bytes, kernel_rip, 0, bytes.size()) + "--\n" + text;
        Registers got = translated.registers;
        if (native.exit == exit_fault) {
            ASSERT_EQ(translated.exit, exit_fault) << both;
            got = machine.recover(translated, translation, machine.code_at(0x10000));
            EXPECT_EQ(got.rip, native.registers.rip - kernel_rip - fold) << both;
            // A byte register of RBX may have lost the pointer: no memory here, no address there.
            if (native.trap != 14) EXPECT_EQ(translated.trap, native.trap) << both;
        } else {
            ASSERT_EQ(translated.exit, first_site) << both;
            EXPECT_EQ(exit_of(translated).kind, ExitKind::direct) << both;
        }
        for (unsigned i = 0; i < 16; ++i) {
            EXPECT_EQ(got.gpr[i], native.registers.gpr[i]) << "register " << i << "\n" << both;
        }
        EXPECT_EQ(got.flags & status_flags, native.registers.flags & status_flags) << both;
        ASSERT_EQ(memory(), native_memory) << both;
        ASSERT_FALSE(HasFailure());
    }
}

TEST_F(TranslationSupervisor, StackPointerMoves)
{
    const std::uint64_t guest = guest_rsp();
    auto outcome = run(GUEST("mov rbp,rsp; lea rax,[rsp+8]; lea rcx,[rsp+rdx*2-4]; mov r12,rsp; mov r8d,esp"));
    EXPECT_EQ(outcome.registers.gpr[rbp], guest) << text;
    EXPECT_EQ(outcome.registers.gpr[rax], guest + 8);
    EXPECT_EQ(outcome.registers.gpr[rcx], guest + registers.gpr[rdx] * 2 - 4);
    EXPECT_EQ(outcome.registers.gpr[12], guest);
    EXPECT_EQ(outcome.registers.gpr[8], guest & 0xffffffff);
    EXPECT_EQ(outcome.registers.gpr[rdx], registers.gpr[rdx]);
    EXPECT_EQ(outcome.registers.gpr[rsp], registers.gpr[rsp]);

    registers.gpr[rbp] = guest + 64;
    outcome = run(GUEST("mov rsp,rbp"));
    EXPECT_EQ(outcome.registers.gpr[rsp], guest + 64 + fold);
    outcome = run(GUEST("lea rsp,[rbp-0x28]"));
    EXPECT_EQ(outcome.registers.gpr[rsp], guest + 64 - 0x28 + fold);
    outcome = run(GUEST("lea rsp,[rbp+rdx*8+1]; lea rsp,[rsp+rcx]"));
    EXPECT_EQ(outcome.registers.gpr[rsp],
              guest + 64 + registers.gpr[rdx] * 8 + 1 + registers.gpr[rcx] + fold);
    outcome = run(GUEST("mov esp,0x89abcdef"));
    EXPECT_EQ(outcome.registers.gpr[rsp], 0x89abcdef + fold);
    outcome = run(GUEST("mov esp,ebp"));
    EXPECT_EQ(outcome.registers.gpr[rsp], ((guest + 64) & 0xffffffff) + fold);
    outcome = run(GUEST("lea rsp,[rip+0x100]"));
    EXPECT_EQ(outcome.registers.gpr[rsp], kernel_rip + 8 + 0x100 - 1 + fold);
    outcome = run(GUEST("mov [rbx],rsp; mov rcx,[rbx]; mov rsp,[rbx]"));
    EXPECT_EQ(outcome.registers.gpr[rcx], guest);
    EXPECT_EQ(outcome.registers.gpr[rsp], guest + fold);
    EXPECT_EQ(outcome.registers.gpr[rdx], registers.gpr[rdx]);
}

TEST_F(TranslationSupervisor, LeavePopsTheFrame)
{
    const std::uint64_t frame = guest_rsp() + 128;
    stack_word(frame) = 0x1122334455667788;
    registers.gpr[rbp] = frame;
    auto outcome = run(GUEST("leave"));
    EXPECT_EQ(outcome.registers.gpr[rbp], 0x1122334455667788u);
    EXPECT_EQ(outcome.registers.gpr[rsp], frame + 8 + fold);
    EXPECT_EQ(outcome.registers.gpr[rdx], registers.gpr[rdx]);
    // A bad frame: nothing has changed.
    registers.gpr[rbp] = base + 0x9000000;
    outcome = run(GUEST("leave"));
    EXPECT_EQ(outcome.exit, exit_fault);
    EXPECT_EQ(outcome.address, base + 0x9000000 + fold);
    const Registers got = machine.recover(outcome, translation, machine.code_at(0x10000));
    EXPECT_EQ(got.gpr[rsp], registers.gpr[rsp]);
    EXPECT_EQ(got.gpr[rdx], registers.gpr[rdx]);
}

TEST_F(TranslationSupervisor, StackPointerArithmeticHasTheGuestsFlags)
{
    const auto check = [this](std::span<const std::uint8_t> on_rsp, std::span<const std::uint8_t> on_rax) {
        for (const std::uint64_t guest : {guest_rsp(), guest_rsp() - 0x18, std::uint64_t{0x10}, ~std::uint64_t{7}}) {
            Registers saved = registers;
            registers.gpr[rsp] = guest + fold;
            const auto outcome = run(on_rsp);
            const std::string shown = text;
            registers.gpr[rsp] = saved.gpr[rsp];
            registers.gpr[rax] = guest;
            const auto expected = run(on_rax);
            EXPECT_EQ(outcome.registers.gpr[rsp], expected.registers.gpr[rax] + fold) << shown;
            EXPECT_EQ(outcome.registers.flags, expected.registers.flags) << shown;
            EXPECT_EQ(outcome.registers.gpr[rdx], registers.gpr[rdx]) << shown;
            registers = saved;
        }
    };
    check(GUEST("add rsp,0x20"), GUEST("add rax,0x20"));
    check(GUEST("sub rsp,0x12345"), GUEST("sub rax,0x12345"));
    check(GUEST("sub rsp,-0x80000000"), GUEST("sub rax,-0x80000000"));
    check(GUEST("and rsp,-16"), GUEST("and rax,-16"));
    check(GUEST("and rsp,-0x1000"), GUEST("and rax,-0x1000"));
    check(GUEST("and rsp,0x7fff"), GUEST("and rax,0x7fff"));
    check(GUEST("and rsp,-0x1000000; cmp ecx,edx"), GUEST("and rax,-0x1000000; cmp ecx,edx"));
    check(GUEST("and rsp,-0x40; cmp ecx,edx"), GUEST("and rax,-0x40; cmp ecx,edx"));
    check(GUEST("sub rsp,rcx"), GUEST("sub rax,rcx"));
    check(GUEST("sub rsp,rcx; test ecx,ecx"), GUEST("sub rax,rcx; test ecx,ecx"));
    check(GUEST("or rsp,0x8"), GUEST("or rax,0x8"));
    check(GUEST("cmp rsp,rbx"), GUEST("cmp rax,rbx"));
    check(GUEST("cmp rsp,[rbx]"), GUEST("cmp rax,[rbx]"));
    check(GUEST("inc rsp"), GUEST("inc rax"));
    check(GUEST("mov sp,cx"), GUEST("mov ax,cx"));
    check(GUEST("mov spl,cl"), GUEST("mov al,cl"));
    check(GUEST("xor rsp,rsp"), GUEST("xor rax,rax"));
    check(GUEST("bt rsp,5"), GUEST("bt rax,5"));
    check(GUEST("movzx esp,ch"), GUEST("movzx eax,ch"));
    check(GUEST("xadd rsp,rcx"), GUEST("xadd rax,rcx"));
}

TEST_F(TranslationSupervisor, GsIsTheHostsFs)
{
    // FS.base is guest GS.base + fold: set around the run, which calls nothing that needs it.
    const std::uint64_t guest_gs = data_address + page;
    for (unsigned i = 0; i < 16; ++i) data[page + i] = static_cast<std::uint8_t>(0x50 + i);
    machine.context().fs_base = guest_gs + fold;
    registers.gpr[rdi] = 8;
    const auto outcome = run(GUEST("movzx eax, byte ptr gs:[5]; mov ecx,gs:[rdi]; mov gs:[rdi+8],rsp"));
    EXPECT_EQ(outcome.registers.gpr[rax], 0x55u);
    EXPECT_EQ(outcome.registers.gpr[rcx], 0x5b5a5958u);
    std::uint64_t stored = 0;
    std::memcpy(&stored, data + page + 16, sizeof stored);
    EXPECT_EQ(stored, guest_rsp());
    machine.context().fs_base = 0;
}

TEST_F(TranslationSupervisor, StringInstructions)
{
    registers.gpr[rsi] = data_address + 16;
    registers.gpr[rdi] = data_address + page;
    registers.gpr[rcx] = 100;
    fill_memory({});
    auto outcome = run(GUEST("rep movsb"));
    EXPECT_EQ(std::memcmp(data + 16, data + page, 100), 0);
    EXPECT_EQ(outcome.registers.gpr[rcx], 0u);
    EXPECT_EQ(outcome.registers.gpr[rsi], data_address + 116);
    EXPECT_EQ(outcome.registers.gpr[rdi], data_address + page + 100);
    EXPECT_EQ(outcome.registers.gpr[rdx], registers.gpr[rdx]);

    // Into a hole: exact in the middle.
    registers.gpr[rcx] = 0x1800;
    registers.gpr[rax] = 0x77;
    outcome = run(GUEST("nop; xor ebp,ebp; rep stosb"));
    EXPECT_EQ(outcome.exit, exit_fault);
    EXPECT_EQ(outcome.trap, 14u);
    Registers got = machine.recover(outcome, translation, machine.code_at(0x10000));
    EXPECT_EQ(got.rip, 3u);
    EXPECT_EQ(got.gpr[rdi] + got.gpr[rcx], registers.gpr[rdi] + registers.gpr[rcx]);
    EXPECT_EQ(got.gpr[rdi], data_address + 2 * page);
    EXPECT_EQ(got.gpr[rdx], registers.gpr[rdx]);

    registers.gpr[rcx] = 50;
    registers.flags |= 0x400;
    outcome = run(GUEST("repe cmpsb"));
    EXPECT_EQ(outcome.registers.gpr[rsi] - registers.gpr[rsi],
              outcome.registers.gpr[rdi] - registers.gpr[rdi]);
    EXPECT_LT(outcome.registers.gpr[rdi], registers.gpr[rdi]);
}

TEST_F(TranslationSupervisor, CallsAndReturns)
{
    const std::uint64_t target = kernel_rip + 0x1230;
    auto outcome = run(GUEST("call .+0x1230"));
    EXPECT_EQ(exit_of(outcome).target, target);
    EXPECT_EQ(outcome.registers.gpr[rsp], registers.gpr[rsp] - 8);
    EXPECT_EQ(stack_word(guest_rsp() - 8), kernel_rip + 5);

    // To a table entry, and to the miss.
    const std::uint64_t entry = machine.code_at(0x40000);
    Translation there;
    const std::uint64_t body = machine.place(GUEST("mov ebp,0x1234"), target, supervisor_mode, there, 0x30000);
    ASSERT_NE(emit_entry({machine.code_bytes(0x40000), entry, 256}, false, target, body, machine.code_at(0x300)), 0u);
    machine.set_target(target, entry);
    registers.gpr[rcx] = target;
    outcome = run(GUEST("call rcx"));
    EXPECT_EQ(outcome.exit, first_site);
    EXPECT_EQ(outcome.registers.gpr[rbp], 0x1234u);
    EXPECT_EQ(outcome.registers.gpr[rcx], target);
    EXPECT_EQ(outcome.registers.gpr[rax], registers.gpr[rax]);
    EXPECT_EQ(outcome.registers.flags & status_flags, registers.flags & status_flags);
    EXPECT_EQ(stack_word(guest_rsp() - 8), kernel_rip + 2);

    registers.gpr[rcx] = target + 0x10000;  // the same entry
    outcome = run(GUEST("jmp rcx"));
    EXPECT_EQ(outcome.exit, exit_no_target);
    EXPECT_EQ(outcome.target, target + 0x10000);
    EXPECT_EQ(outcome.registers.gpr[rax], registers.gpr[rax]);
    EXPECT_EQ(outcome.registers.gpr[rcx], registers.gpr[rcx]);

    stack_word(guest_rsp()) = target + 0x20000;
    outcome = run(GUEST("ret 0x20"));
    EXPECT_EQ(outcome.exit, exit_no_target);
    EXPECT_EQ(outcome.target, target + 0x20000);
    EXPECT_EQ(outcome.registers.gpr[rsp], registers.gpr[rsp] + 0x28);

    std::memcpy(data + page + 0x40, &target, sizeof target);
    registers.gpr[rcx] = 8;
    outcome = run(GUEST("call [rbx+rcx*8]"));
    EXPECT_EQ(outcome.registers.gpr[rbp], 0x1234u);
    EXPECT_EQ(outcome.registers.gpr[rcx], 8u);
    outcome = run(GUEST("jmp [rsp+8]"));
    EXPECT_EQ(outcome.exit, exit_no_target);

    // A stack that is not there: as before the call.
    registers.gpr[rsp] = base + 0x9000000 + fold;
    outcome = run(GUEST("call [rbx+rcx*8]"));
    EXPECT_EQ(outcome.exit, exit_fault);
    EXPECT_EQ(outcome.address, registers.gpr[rsp] - 8);
    const Registers got = machine.recover(outcome, translation, machine.code_at(0x10000));
    for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(got.gpr[i], registers.gpr[i]) << i;
}

TEST_F(TranslationSupervisor, ConditionsAndLoops)
{
    registers.flags = 0x202 | 0x40;
    auto outcome = run(GUEST("jz .+0x1000"));
    EXPECT_EQ(exit_of(outcome).target, kernel_rip + 0x1000);
    outcome = run(GUEST("jnz .+0x1000"));
    EXPECT_EQ(exit_of(outcome).target, kernel_rip + 6);
    registers.gpr[rcx] = 1;
    outcome = run(GUEST("loop .-6"));
    EXPECT_EQ(exit_of(outcome).target, kernel_rip + 2);
    EXPECT_EQ(outcome.registers.gpr[rcx], 0u);
    registers.gpr[rcx] = 0;
    outcome = run(GUEST("loopne .-6"));
    EXPECT_EQ(exit_of(outcome).target, kernel_rip + 2);
    outcome = run(GUEST("loope .-6"));
    EXPECT_EQ(exit_of(outcome).target, kernel_rip - 6);
    outcome = run(GUEST("jrcxz .-6"));
    EXPECT_EQ(exit_of(outcome).target, kernel_rip - 6);
    EXPECT_EQ(outcome.registers.flags & status_flags, 0x40u);
}

TEST_F(TranslationSupervisor, InterruptFlag)
{
    ExecContext& context = machine.context();
    registers.flags = 0x202 | 0x8d5;
    context.system_flags = 0x202 | 1u << 18;
    auto outcome = run(GUEST("cli; pushfq"));
    EXPECT_EQ(context.system_flags, 2u | 1u << 18);
    EXPECT_EQ(stack_word(guest_rsp() - 8), 0x2u | 0x8d5 | 1u << 18);
    EXPECT_EQ(outcome.registers.gpr[rax], registers.gpr[rax]);
    EXPECT_EQ(outcome.registers.gpr[rcx], registers.gpr[rcx]);
    EXPECT_EQ(outcome.registers.flags & status_flags, 0x8d5u);

    outcome = run(GUEST("sti; mov ebp,1; pushfq"));
    EXPECT_EQ(exit_of(outcome).kind, ExitKind::direct);
    EXPECT_EQ(context.system_flags, 0x202u | 1u << 18);
    EXPECT_EQ(stack_word(guest_rsp() - 8), 0x202u | 0x8d5 | 1u << 18);
    context.pending = 1;
    context.system_flags = 2;
    outcome = run(GUEST("sti; mov ebp,1; mov ebp,2"));
    EXPECT_EQ(exit_of(outcome).kind, ExitKind::interpret);
    EXPECT_EQ(exit_of(outcome).target, kernel_rip);
    EXPECT_EQ(context.system_flags, 2u);
    EXPECT_EQ(outcome.registers.gpr[rcx], registers.gpr[rcx]);
    EXPECT_EQ(outcome.registers.flags & status_flags, 0x8d5u);
    // CLI in the shadow of STI.
    context.pending = 0;
    outcome = run(GUEST("sti; cli; mov ebp,2"));
    EXPECT_EQ(exit_of(outcome).kind, ExitKind::direct);
    EXPECT_EQ(context.system_flags, 2u);
}

TEST_F(TranslationSupervisor, SwapgsChangesTheBaseInPlace)
{
    ExecContext& context = machine.context();
    const std::uint64_t before = context.fs_base;
    context.other_fs_base = 0x123456789000;
    auto outcome = run(GUEST("swapgs; mov ebp,2"));
    EXPECT_EQ(exit_of(outcome).kind, ExitKind::direct);
    EXPECT_EQ(context.fs_base, 0x123456789000u);
    EXPECT_EQ(context.other_fs_base, before);
    EXPECT_EQ(outcome.registers.gpr[rax], registers.gpr[rax]);
    EXPECT_EQ(outcome.registers.gpr[rcx], registers.gpr[rcx]);
    EXPECT_EQ(outcome.registers.flags & status_flags, registers.flags & status_flags);
    context.fs_base = before;

    context.other_fs_base = 0;  // the host cannot take it
    outcome = run(GUEST("swapgs; mov ebp,2"));
    EXPECT_EQ(exit_of(outcome).kind, ExitKind::swapgs);
    EXPECT_EQ(exit_of(outcome).target, kernel_rip);
    EXPECT_EQ(outcome.registers.gpr[rcx], registers.gpr[rcx]);
    EXPECT_EQ(context.fs_base, before);
}

TEST_F(TranslationSupervisor, PageFaultAddress)
{
    machine.context().cr2 = 0xffff'8880'1234'5678;
    EXPECT_EQ(run(GUEST("mov r12,cr2")).registers.gpr[12], 0xffff'8880'1234'5678u);
}

TEST_F(TranslationSupervisor, TimeStampHasTheGuestsOffset)
{
    machine.context().tsc_offset = 0 - __builtin_ia32_rdtsc();
    const auto outcome = run(GUEST("rdtsc"));
    EXPECT_LT(outcome.registers.gpr[rax] | outcome.registers.gpr[rdx] << 32, 1ull << 40);
    EXPECT_LT(outcome.registers.gpr[rdx], 1ull << 8);
    EXPECT_EQ(outcome.registers.flags & status_flags, registers.flags & status_flags);
}

}  // namespace doppel::engine::translate::test
