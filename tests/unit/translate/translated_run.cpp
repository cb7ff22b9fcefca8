#include "translated_run.h"

#include <gtest/gtest.h>
#include <immintrin.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>

#include "engine/translate/block/recover.h"
#include "engine/translate/emit/code.h"
#include "engine/translate/layout.h"
#include "translated_code.h"

// enter: saves the C++ side's registers in the context's engine_rsp and loads the guest's.
// leave: the reverse; RAX is saved already. Both follow the offsets of exec_context.h.
asm(R"(
.macro TRANSLATED_RUN name, context
.globl translated_enter_\name, translated_leave_\name, translated_left_\name
translated_enter_\name:
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    push %rdi
    mov %rsi, %rdi
    movabs $\context, %rax
    mov %rsp, 0x110(%rax)
    rdfsbase %rcx
    mov %rcx, 0x118(%rax)
    mov 0xe8(%rax), %rcx
    test %rcx, %rcx
    jz 1f
    wrfsbase %rcx
1:  mov 0xf0(%rax), %rcx
    test %rcx, %rcx
    jz 2f
    wrgsbase %rcx
2:  push 0x80(%rax)
    popfq
    mov 0x08(%rax), %rcx; mov 0x10(%rax), %rdx; mov 0x18(%rax), %rbx
    mov 0x20(%rax), %rsp; mov 0x28(%rax), %rbp; mov 0x30(%rax), %rsi
    mov 0x40(%rax), %r8;  mov 0x48(%rax), %r9;  mov 0x50(%rax), %r10
    mov 0x58(%rax), %r11; mov 0x60(%rax), %r12; mov 0x68(%rax), %r13
    mov 0x70(%rax), %r14; mov 0x78(%rax), %r15
    jmp *%rdi
translated_leave_\name:
    movabs $\context, %rax
    mov %rcx, 0x08(%rax); mov %rdx, 0x10(%rax); mov %rbx, 0x18(%rax)
    mov %rsp, 0x20(%rax); mov %rbp, 0x28(%rax); mov %rsi, 0x30(%rax)
    mov %rdi, 0x38(%rax)
    mov %r8,  0x40(%rax); mov %r9,  0x48(%rax); mov %r10, 0x50(%rax)
    mov %r11, 0x58(%rax); mov %r12, 0x60(%rax); mov %r13, 0x68(%rax)
    mov %r14, 0x70(%rax); mov %r15, 0x78(%rax)
    mov 0x110(%rax), %rsp
    pushfq
    pop 0x80(%rax)
translated_left_\name:
    movabs $\context, %rax
    mov 0x110(%rax), %rsp
    mov 0x118(%rax), %rcx
    wrfsbase %rcx
    pop %rdi
    push $0x202
    popfq
    mov (%rdi), %eax
    mov 4(%rdi), %edx
    xsave 64(%rdi)
    fninit
    ldmxcsr 8(%rdi)
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret
.endm
TRANSLATED_RUN user, 0x070001000000
TRANSLATED_RUN supervisor, 0x10000000
)");
// vectors: 64 bytes that begin with XSAVE's mask and MXCSR, then its area. loader: code that
// loads RDI and RAX and goes to the guest's.
extern "C" void translated_enter_user(void* vectors, std::uint64_t loader);
extern "C" void translated_leave_user();
extern "C" void translated_left_user();
extern "C" void translated_enter_supervisor(void* vectors, std::uint64_t loader);
extern "C" void translated_leave_supervisor();
extern "C" void translated_left_supervisor();

namespace doppel::engine::translate::test {

namespace {

constexpr std::size_t code_size = 1u << 20;
constexpr std::uint32_t loader_offset = 0x100;  // loads RDI, RAX and goes to host_rip
constexpr std::uint32_t native_end_offset = 0x200;
constexpr std::uint32_t miss_offset = 0x300;
constexpr std::uint64_t vector_components = 0xe7;

struct alignas(64) Vectors {
    std::uint64_t mask;
    std::uint32_t mxcsr;
    std::uint8_t padding[52];
    std::uint8_t area[8192];
};
Vectors vectors;
Machine* running = nullptr;
bool running_user = false;

void on_fault(int, siginfo_t* info, void* raw)
{
    auto* frame = static_cast<ucontext_t*>(raw);
    if (running == nullptr) {
        signal(info->si_signo, SIG_DFL);
        return;
    }
    const auto& from = frame->uc_mcontext.gregs;
    constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI,
                               REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13,
                               REG_R14, REG_R15};
    ExecContext& context = running->context();
    for (int i = 0; i < 16; ++i) context.gpr[i] = static_cast<std::uint64_t>(from[order[i]]);
    context.flags = static_cast<std::uint64_t>(from[REG_EFL]);
    context.host_rip = static_cast<std::uint64_t>(from[REG_RIP]);
    context.trap = static_cast<std::uint64_t>(from[REG_TRAPNO]);
    context.error = static_cast<std::uint64_t>(from[REG_ERR]);
    context.address = static_cast<std::uint64_t>(from[REG_CR2]);
    context.exit = exit_fault;
    const auto left = running_user ? &translated_left_user : &translated_left_supervisor;
    frame->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(left);
    frame->uc_mcontext.gregs[REG_EFL] &= ~greg_t{0x40500};  // DF, TF, AC
}

void catch_faults()
{
    static std::uint8_t stack[65536];
    stack_t alternate{};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
        sigaction(number, &action, nullptr);
    }
}

// mov rax, imm64; jmp rax
void put_jump(std::uint8_t* at, std::uint64_t target)
{
    const std::uint8_t code[] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0};
    std::memcpy(at, code, sizeof code);
    std::memcpy(at + 2, &target, sizeof target);
}

// 48 op modrm rel32: a move between a register and the context.
std::uint8_t* put_context_move(std::uint8_t* at, std::uint64_t host, std::uint8_t opcode,
                               std::uint8_t modrm, std::uint64_t context)
{
    const std::uint8_t code[] = {0x48, opcode, modrm};
    std::memcpy(at, code, sizeof code);
    const auto displacement = static_cast<std::uint32_t>(context - (host + 7));
    std::memcpy(at + 3, &displacement, sizeof displacement);
    return at + 7;
}

}  // namespace

Machine::Machine(bool user) : user_(user), code_(user ? user_code : supervisor_code)
{
    catch_faults();
    const std::uint64_t context = user ? user_context : supervisor_context;
    context_ = reinterpret_cast<ExecContext*>(map(context, 4096));
    std::uint8_t* code = map(code_, code_size);
    map(user ? user_targets : supervisor_targets, target_table_size);
    if (user) map(user_links, (first_cell + 1000) * 8);

    // Common exit: mov [gpr[RAX]], rax, then away.
    const auto leave = user ? &translated_leave_user : &translated_leave_supervisor;
    put_jump(put_context_move(code, code_, 0x89, 0x05, context), reinterpret_cast<std::uint64_t>(leave));
    // Loader: mov rdi, [gpr[RDI]]; mov rax, [gpr[RAX]]; jmp [host_rip].
    std::uint8_t* loader = code + loader_offset;
    const std::uint64_t at = code_ + loader_offset;
    put_context_move(loader, at, 0x8b, 0x3d, context + 7 * 8);
    put_context_move(loader + 7, at + 7, 0x8b, 0x05, context);
    loader[14] = 0xff;
    loader[15] = 0x25;
    const auto displacement =
        static_cast<std::uint32_t>(context + context_offset::host_rip - (at + 20));
    std::memcpy(loader + 16, &displacement, sizeof displacement);
    // End of native code: mov dword [exit], exit_native_end; jmp common exit.
    Code end{{code + native_end_offset, code_ + native_end_offset, 64}, user};
    end.store_dword(context_offset::exit, exit_native_end);
    end.jump(code_);
    emit_miss({code + miss_offset, code_ + miss_offset, 256}, user, code_);
    auto* targets = reinterpret_cast<std::uint64_t*>(user ? user_targets : supervisor_targets);
    std::fill_n(targets, target_count, code_ + miss_offset);
    targets[second_keys / 8] = second_unused(0);
}

Machine::~Machine()
{
    for (const auto& [address, length] : mapped_) munmap(reinterpret_cast<void*>(address), length);
}

std::uint8_t* Machine::map(std::uint64_t address, std::size_t length)
{
    void* const at = reinterpret_cast<void*>(address);
    void* const got = mmap(at, length, PROT_READ | PROT_WRITE | PROT_EXEC,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    EXPECT_EQ(got, at);
    mapped_.emplace_back(address, length);
    return static_cast<std::uint8_t*>(got);
}

std::uint8_t* Machine::code_bytes(std::uint32_t offset) const
{
    return reinterpret_cast<std::uint8_t*>(code_ + offset);
}

void Machine::set_target(std::uint64_t rip, std::uint64_t host)
{
    auto* targets = reinterpret_cast<std::uint64_t*>(user_ ? user_targets : supervisor_targets);
    targets[first_index(rip)] = host;
}

void Machine::set_second_target(std::uint64_t rip, std::uint64_t host)
{
    auto* targets = reinterpret_cast<std::uint64_t*>(user_ ? user_targets : supervisor_targets);
    const unsigned index = second_index(rip);
    targets[second_keys / 8 + index] = host != 0 ? 0 - rip : second_unused(index);
    targets[second_hosts / 8 + index] = host;
}

std::uint64_t Machine::place(std::span<const std::uint8_t> guest, std::uint64_t rip, const Mode& mode,
                             Translation& translation, std::uint32_t offset)
{
    EXPECT_TRUE(translate({rip, guest, guest.size(), mode}, host_policy(), {code_bytes(offset), code_ + offset, 16384},
                          {first_site, first_cell}, code_, translation));
    for (const Exit& exit : translation.exits) {
        if (exit.cell == Exit::no_cell) continue;
        *reinterpret_cast<std::uint64_t*>(link_address(first_cell + exit.cell)) = code_ + offset + exit.stub;
    }
    return code_ + offset;
}

Outcome Machine::run(const Registers& registers, std::uint64_t host)
{
    std::copy_n(registers.gpr, 16, context_->gpr);
    context_->flags = registers.flags;
    context_->host_rip = host;
    running = this;
    running_user = user_;
    alignas(64) static std::uint8_t initial[8192];
    static const bool prepared = [] {
        for (std::size_t i = 0; i < sizeof initial; ++i) {
            initial[i] = static_cast<std::uint8_t>((i * 131) ^ (i >> 3));
        }
        // MXCSR, FCW and the header are what they must be.
        std::memset(initial, 0, 32);
        initial[0] = 0x7f;
        initial[1] = 0x03;
        const std::uint32_t mxcsr = 0x1f80;
        std::memcpy(initial + 24, &mxcsr, sizeof mxcsr);
        std::memset(initial + 512, 0, 64);
        const std::uint64_t present = vector_components;
        std::memcpy(initial + 512, &present, sizeof present);
        return true;
    }();
    static_cast<void>(prepared);
    std::memset(vectors.area, 0, sizeof vectors.area);
    vectors.mask = vector_components;
    vectors.mxcsr = 0x1f80;
    const auto enter = user_ ? &translated_enter_user : &translated_enter_supervisor;
    std::uint64_t loader = code_ + loader_offset;
    std::uint32_t low = vector_components, high = 0;
    asm volatile("xrstor (%[initial])\n"
                 "mov %[vectors], %%rdi\n"
                 "call *%[enter]\n"
                 : "+a"(low), "+d"(high), "+S"(loader)
                 : [initial] "b"(initial), [vectors] "r"(&vectors), [enter] "r"(enter)
                 : "rdi", "rcx", "r8", "r9", "r10", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2",
                   "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                   "xmm12", "xmm13", "xmm14", "xmm15");
    running = nullptr;

    Outcome outcome;
    std::copy_n(context_->gpr, 16, outcome.registers.gpr);
    outcome.registers.flags = context_->flags & 0xcd5;
    outcome.exit = context_->exit;
    outcome.registers.rip = context_->host_rip;
    outcome.trap = context_->trap;
    outcome.address = context_->address;
    outcome.target = context_->target;
    std::memset(vectors.area + 6, 0, 18);  // x87 opcode and addresses
    outcome.vectors.assign(vectors.area, vectors.area + 2688);
    return outcome;
}

void Machine::end_native(std::uint64_t rip) const
{
    // jmp [rip + 0]; the address
    auto* end = reinterpret_cast<std::uint8_t*>(rip);
    const std::uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};
    const std::uint64_t target = code_ + native_end_offset;
    std::memcpy(end, jump, sizeof jump);
    std::memcpy(end + sizeof jump, &target, sizeof target);
}

Registers Machine::recover(const Outcome& outcome, const Translation& translation,
                           std::uint64_t host) const
{
    Registers registers = outcome.registers;
    const auto offset = static_cast<std::uint32_t>(outcome.registers.rip - host);
    ExecContext recovered = *context_;
    std::copy_n(registers.gpr, 16, recovered.gpr);
    recovered.flags = registers.flags;
    translate::recover(translation.displaced, offset, recovered);
    std::copy_n(recovered.gpr, 16, registers.gpr);
    registers.flags = recovered.flags;
    registers.rip = 0;
    for (const Point& point : translation.points) {
        if (point.host <= offset) registers.rip = point.guest;
    }
    return registers;
}

}  // namespace doppel::engine::translate::test
