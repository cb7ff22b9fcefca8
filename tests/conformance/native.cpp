#include "native.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>

namespace doppel::conformance {

namespace {

using x86::CpuState;

constexpr int gpr_slots[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI,
                               REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13,
                               REG_R14, REG_R15};
constexpr std::uint64_t user_flags = x86::rflags::STATUS | x86::rflags::DF | x86::rflags::AC;

// The one run under way; handlers cannot be given arguments.
struct Run {
    const CpuState* start = nullptr;
    CpuState end;
    SeenFault fault;
    ucontext_t home{};  // registers of the caller at the trap
    bool active = false;
};
Run current;
std::uint8_t home_extended[16384];
std::size_t extended_size = 0;

std::uint8_t* extended(ucontext_t* context)
{
    return reinterpret_cast<std::uint8_t*>(context->uc_mcontext.fpregs);
}

// Software-reserved bytes of the frame's FXSAVE area (struct _fpx_sw_bytes): size of the
// extended state that follows.
std::size_t frame_size(const std::uint8_t* area)
{
    std::uint32_t size = 0;
    std::memcpy(&size, area + 464 + 16, sizeof size);
    return size < 576 ? 512 : size;
}

// The frame is in standard XSAVE format with the components of CpuState at the same places.
void load_extended(std::uint8_t* area, const CpuState& state)
{
    const std::size_t size = std::min(state.xsave.bytes.size(), frame_size(area));
    std::memcpy(area, state.xsave.bytes.data(), 464);
    std::memcpy(area + 512, state.xsave.bytes.data() + 512, size - 512);
    std::uint64_t present = 0;
    std::memcpy(&present, state.xsave.bytes.data() + 512, 8);
    present |= 3;
    std::memcpy(area + 512, &present, 8);
}

void save_extended(const std::uint8_t* area, CpuState& state)
{
    const std::size_t size = std::min(state.xsave.bytes.size(), frame_size(area));
    std::memcpy(state.xsave.bytes.data(), area, size);
    std::memset(state.xsave.bytes.data() + 464, 0, 48);
}

// CS and SS, as Linux has them in its GDT for 64-bit and 32-bit programs. 32-bit code needs DS and ES,
// too, which no signal frame has.
void set_code_segment(gregset_t& registers, bool code32)
{
    constexpr std::uint64_t user_cs = 0x33, user32_cs = 0x23, user_ds = 0x2b;
    auto value = static_cast<std::uint64_t>(registers[REG_CSGSFS]) & 0x0000'ffff'ffff'0000;
    value |= (code32 ? user32_cs : user_cs) | user_ds << 48;
    registers[REG_CSGSFS] = static_cast<long long>(value);
    if (code32) asm volatile("mov %0, %%ds; mov %0, %%es" : : "r"(static_cast<unsigned>(user_ds)));
}

void on_start(int, siginfo_t*, void* raw)
{
    auto* context = static_cast<ucontext_t*>(raw);
    current.home = *context;
    extended_size = std::min(frame_size(extended(context)) + 4, sizeof home_extended);
    std::memcpy(home_extended, extended(context), extended_size);
    auto& registers = context->uc_mcontext.gregs;
    for (std::size_t i = 0; i < 16; ++i) {
        registers[gpr_slots[i]] = static_cast<long long>(current.start->gpr[i]);
    }
    registers[REG_RIP] = static_cast<long long>(current.start->rip);
    set_code_segment(registers, !current.start->code64());
    registers[REG_EFL] = static_cast<long long>((current.start->rflags & user_flags) | 0x202);
    load_extended(extended(context), *current.start);
    current.active = true;
}

void on_end(int signal, siginfo_t* info, void* raw)
{
    auto* context = static_cast<ucontext_t*>(raw);
    if (!current.active) {
        // Not the code under test: a bug of the runner. Die as if unhandled.
        ::signal(signal, SIG_DFL);
        return;
    }
    current.active = false;
    auto& registers = context->uc_mcontext.gregs;
    for (std::size_t i = 0; i < 16; ++i) {
        current.end.gpr[i] = static_cast<std::uint64_t>(registers[gpr_slots[i]]);
    }
    current.end.rip = static_cast<std::uint64_t>(registers[REG_RIP]);
    current.end.rflags = static_cast<std::uint64_t>(registers[REG_EFL]);
    current.fault.vector = static_cast<std::uint8_t>(registers[REG_TRAPNO]);
    current.fault.error_code = static_cast<std::uint32_t>(registers[REG_ERR]);
    current.fault.cr2 = current.fault.vector == 14 ? reinterpret_cast<std::uint64_t>(info->si_addr) : 0;
    current.fault.rip = current.end.rip;
    save_extended(extended(context), current.end);
    const fpregset_t frame = context->uc_mcontext.fpregs;
    std::memcpy(registers, current.home.uc_mcontext.gregs, sizeof registers);
    context->uc_mcontext.fpregs = frame;
    std::memcpy(extended(context), home_extended, extended_size);
    context->uc_sigmask = current.home.uc_sigmask;
}

base::Result<void> map_at(std::uint64_t address, std::size_t size, int protection)
{
    void* got = ::mmap(reinterpret_cast<void*>(address), size, protection,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED) {
        return base::errno_error(base::ErrorKind::host, fmt::format("Cannot map {:#x}", address), errno);
    }
    return {};
}

base::Result<void> catch_signal(int signal, void (*handler)(int, siginfo_t*, void*))
{
    struct sigaction action {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    if (::sigaction(signal, &action, nullptr) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot catch signal", errno);
    }
    return {};
}

alignas(16) std::uint8_t signal_stack[256 * 1024];

}  // namespace

base::Result<std::unique_ptr<Native>> Native::create()
{
    std::unique_ptr<Native> native{new Native};
    TRY(map_at(layout::code, 0x2000, PROT_READ | PROT_WRITE | PROT_EXEC));
    TRY(map_at(layout::data, 0x2000, PROT_READ | PROT_WRITE));
    TRY(map_at(layout::read_only, 0x1000, PROT_READ));
    TRY(map_at(0x30000, 0x1000, PROT_READ | PROT_WRITE));
    // Present from the start, so that a write reports a protection violation.
    static_cast<void>(*reinterpret_cast<const volatile char*>(layout::read_only));
    stack_t stack{};
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof signal_stack;
    if (::sigaltstack(&stack, nullptr) != 0) {
        return base::errno_error(base::ErrorKind::host, "Cannot set the signal stack", errno);
    }
    TRY(catch_signal(SIGUSR1, on_start));
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) TRY(catch_signal(signal, on_end));
    return native;
}

Native::~Native()
{
    ::munmap(reinterpret_cast<void*>(layout::code), 0x2000);
    ::munmap(reinterpret_cast<void*>(layout::data), 0x4000);
    ::munmap(reinterpret_cast<void*>(0x30000ul), 0x1000);
}

Outcome Native::run(std::span<const std::uint8_t> code, const CpuState& state,
                    std::span<const MemoryValue> memory)
{
    Outcome outcome;
    std::memset(reinterpret_cast<void*>(layout::code), 0, 0x2000);
    std::memset(reinterpret_cast<void*>(layout::data), 0, 0x2000);
    std::memset(reinterpret_cast<void*>(0x30000ul), 0, 0x1000);
    for (const MemoryValue& value : memory) {
        std::byte probe;
        if (!read_memory(value.address, {&probe, 1}) || value.address >> 12 == layout::read_only >> 12) {
            outcome.problem = fmt::format("memory at {:#x} is not native", value.address);
            return outcome;
        }
        std::memcpy(reinterpret_cast<void*>(value.address), value.bytes.data(), value.bytes.size());
    }
    auto* to = reinterpret_cast<std::uint8_t*>(layout::code);
    std::memcpy(to, code.data(), code.size());
    const std::uint8_t end_code[] = {0xe6, 0xf4};
    std::memcpy(to + code.size(), end_code, sizeof end_code);

    current.start = &state;
    current.end = state;
    ::raise(SIGUSR1);  // comes back once the code has ended

    outcome.state = current.end;
    const std::uint64_t end = layout::code + code.size();
    if (!(current.fault.vector == 13 && current.fault.rip == end)) outcome.fault = current.fault;
    return outcome;
}

Outcome Native::run(const Case& c)
{
    CpuState start = initial_state(c.mode, c.paging);
    for (const RegisterValue& value : c.initial_registers) {
        if (!set_register(start, value.name, value.value)) {
            Outcome outcome;
            outcome.problem = fmt::format("unknown register {}", value.name);
            return outcome;
        }
    }
    return run(c.code, start, c.initial_memory);
}

bool Native::read_memory(std::uint64_t address, std::span<std::byte> to)
{
    const auto within = [&](std::uint64_t start, std::uint64_t size) {
        return address >= start && address + to.size() <= start + size;
    };
    if (!within(layout::code, 0x2000) && !within(layout::data, 0x2000) &&
        !within(layout::read_only, 0x1000) && !within(0x30000, 0x1000)) {
        return false;
    }
    std::memcpy(to.data(), reinterpret_cast<const void*>(address), to.size());
    return true;
}

}  // namespace doppel::conformance
