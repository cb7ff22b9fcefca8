#include "user_process_fixture.h"

namespace doppel::engine::translate
{
namespace
{

TEST_F(UserProcessTest, RegistersGoThereAndComeBack)
{
    // Each register but RSP one up by lea, which leaves the flags alone.
    Assembler program = code();
    for (unsigned reg = 0; reg < 16; ++reg) {
        if (reg == x86::RSP || reg == 12) continue;
        const unsigned rex = 0x48 | (reg >= 8 ? 5u : 0u);
        program.bytes({rex, 0x8d, 0x40 | (reg & 7) << 3 | (reg & 7), 1});
    }
    program.bytes({0x4d, 0x8d, 0x64, 0x24, 1});     // lea r12, [r12 + 1]
    program.bytes({0x48, 0x8d, 0x64, 0x24, 0x08});  // lea rsp, [rsp + 8]
    program.leave(site);
    for (unsigned reg = 0; reg < 16; ++reg) context().gpr[reg] = 0x1111111100000000ull * reg + reg;
    context().gpr[x86::RSP] = 0x7ffdeadbeef0;
    for (const std::uint64_t flags : {0ull, 0xcd5ull, 0x400ull, 0x41ull}) {
        const ExecContext before = context();
        context().flags = flags;
        context().fs_base = 0x7f0012345000;
        context().gs_base = 0xffff800000000000;
        ASSERT_EQ(run(), site);
        for (unsigned reg = 0; reg < 16; ++reg) {
            EXPECT_EQ(context().gpr[reg], before.gpr[reg] + (reg == x86::RSP ? 8 : 1)) << reg;
        }
        EXPECT_EQ(context().flags & 0xcd5, flags);
        EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
        EXPECT_EQ(context().fs_base, 0x7f0012345000u);
        EXPECT_EQ(context().gs_base, 0xffff800000000000u);
    }
}

TEST_F(UserProcessTest, SerialisingEntryHasTheSameRegisters)
{
    code().bytes({0x48, 0xff, 0xc0}).leave(site);  // inc rax
    for (unsigned reg = 0; reg < 16; ++reg) context().gpr[reg] = 0x0101010101010101ull * (reg + 1);
    const ExecContext before = context();
    context().flags = x86::rflags::CF;
    ASSERT_EQ(run(user_new_code), site);
    EXPECT_EQ(context().gpr[0], before.gpr[0] + 1);
    for (unsigned reg = 1; reg < 16; ++reg) EXPECT_EQ(context().gpr[reg], before.gpr[reg]) << reg;
    EXPECT_EQ(context().flags & x86::rflags::CF, x86::rflags::CF);
}

TEST_F(UserProcessTest, BasesSetByGuestCodeAreReported)
{
    code().bytes({0xf3, 0x48, 0x0f, 0xae, 0xd0}).leave(site);  // wrfsbase rax
    context().gpr[x86::RAX] = 0x123456789000;
    context().fs_base = 0x1000;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().fs_base, 0x123456789000u);
    context().fs_base = 0;
    context().gpr[x86::RAX] = 0;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().fs_base, 0u);
}

TEST_F(UserProcessTest, FpuStateIsLoadedAndSaved)
{
    x86::XsaveArea state{}, saved{};
    const std::uint16_t fcw = 0x37f;
    const std::uint32_t mxcsr = 0x1f80;
    const std::uint64_t present = 7;  // x87, SSE, AVX
    std::memcpy(&state.bytes[0], &fcw, sizeof fcw);
    std::memcpy(&state.bytes[24], &mxcsr, sizeof mxcsr);
    std::memcpy(&state.bytes[512], &present, sizeof present);
    for (unsigned i = 0; i < 256; ++i) {
        state.bytes[160 + i] = static_cast<std::uint8_t>(i + 3);
        state.bytes[x86::xsave_offset_avx + i] = static_cast<std::uint8_t>(i + 17);
    }
    code().bytes({0x66, 0x0f, 0xfe, 0xc1}).leave(site);  // paddd xmm0, xmm1
    process_->load_fpu(state);
    ASSERT_EQ(run(), site);
    // Signals and other turns in between leave it alone.
    context().flags = 0;
    ASSERT_EQ(process_->enter(user_single_step, user_code), exit_fault);
    ASSERT_TRUE(process_->save_fpu(saved));
    std::uint32_t expected[4], add[4], result[4];
    std::memcpy(expected, &state.bytes[160], sizeof expected);
    std::memcpy(add, &state.bytes[176], sizeof add);
    std::memcpy(result, &saved.bytes[160], sizeof result);
    for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(result[i], expected[i] + 2 * add[i]);
    EXPECT_TRUE(std::equal(&state.bytes[176], &state.bytes[416], &saved.bytes[176]));
    EXPECT_TRUE(std::equal(&state.bytes[576], &state.bytes[832], &saved.bytes[576]));
    process_->load_fpu(saved);
    x86::XsaveArea again{};
    ASSERT_TRUE(process_->save_fpu(again));  // not loaded yet: the same
    EXPECT_EQ(again, saved);
}

// Once it was wanted, the state is saved as guest code is left: what is fetched is of the last run, and
// takes no turn.
TEST_F(UserProcessTest, FpuStateIsSavedAhead)
{
    x86::XsaveArea state{}, saved{};
    const std::uint64_t present = 2;  // SSE
    const std::uint32_t mxcsr = 0x1f80, one = 1;
    std::memcpy(&state.bytes[24], &mxcsr, sizeof mxcsr);
    std::memcpy(&state.bytes[512], &present, sizeof present);
    std::memcpy(&state.bytes[176], &one, sizeof one);
    code().bytes({0x66, 0x0f, 0xfe, 0xc1}).leave(site);  // paddd xmm0, xmm1
    process_->load_fpu(state);
    ASSERT_EQ(run(), site);
    ASSERT_TRUE(process_->save_fpu(saved));
    for (std::uint32_t runs = 2; runs < 40; ++runs) {
        process_->load_fpu(saved);
        ASSERT_EQ(run(), site);
        const std::uint64_t turns = process_->counters().turns;
        ASSERT_TRUE(process_->save_fpu(saved));
        EXPECT_EQ(process_->counters().turns, turns);
        std::uint32_t sum = 0;
        std::memcpy(&sum, &saved.bytes[160], sizeof sum);
        ASSERT_EQ(sum, runs);
    }
    // Not for ever: that is one more turn again.
    for (unsigned runs = 0; runs < 40; ++runs) ASSERT_EQ(run(), site);
    const std::uint64_t turns = process_->counters().turns;
    ASSERT_TRUE(process_->save_fpu(saved));
    EXPECT_EQ(process_->counters().turns, turns + 1);
    std::uint32_t sum = 0;
    std::memcpy(&sum, &saved.bytes[160], sizeof sum);
    EXPECT_EQ(sum, 79u);
}

// What was saved ahead is not taken for what was loaded since, by a run that was refused.
TEST_F(UserProcessTest, FpuStateOfARefusedRunIsWhatWasLoaded)
{
    const auto state_of = [](std::uint32_t low) {
        x86::XsaveArea state{};
        const std::uint64_t present = 2;  // SSE
        const std::uint32_t mxcsr = 0x1f80;
        std::memcpy(&state.bytes[24], &mxcsr, sizeof mxcsr);
        std::memcpy(&state.bytes[512], &present, sizeof present);
        std::memcpy(&state.bytes[160], &low, sizeof low);
        return state;
    };
    const auto low_of_saved = [this] {
        x86::XsaveArea saved{};
        EXPECT_TRUE(process_->save_fpu(saved));
        std::uint32_t low = 0;
        std::memcpy(&low, &saved.bytes[160], sizeof low);
        return low;
    };
    code().leave(site);
    process_->load_fpu(state_of(1));
    ASSERT_EQ(run(), site);
    ASSERT_EQ(low_of_saved(), 1u);
    ASSERT_EQ(run(), site);  // saves ahead
    process_->load_fpu(state_of(2));
    process_->map(mapping(user_code, page, 0, PROT_READ));
    ASSERT_EQ(run(), exit_cancelled);
    ASSERT_NE(process_->mapping_error(), 0);
    EXPECT_EQ(low_of_saved(), 2u);

    // Loaded by the turn that carries out a full queue, of which the next run hears.
    process_->unmap_all();
    ASSERT_EQ(run(), site);
    process_->load_fpu(state_of(3));
    process_->map(mapping(user_code, page, 0, PROT_READ));
    ASSERT_TRUE(process_->flush());
    ASSERT_EQ(run(), exit_cancelled);
    EXPECT_EQ(low_of_saved(), 3u);
}

TEST_F(UserProcessTest, FaultIsReportedFilledAndGoneOnWith)
{
    Assembler program = code();
    program.bytes({0x48, 0xff, 0xc3});  // inc rbx
    const std::uint64_t load = program.host();
    program.bytes({0x48, 0x8b, 0x07});  // mov rax, [rdi]
    const std::uint64_t store = program.host();
    program.bytes({0x48, 0x89, 0x47, 0x08});  // mov [rdi + 8], rax
    program.leave(site);
    ram<std::uint64_t>(3 * page + 0x10) = 0x1122334455667788;
    context().gpr[x86::RDI] = guest + 0x10;
    context().gpr[x86::RBX] = 0;
    context().gpr[x86::RSP] = user_program_data + 0x800;  // a stack pointer into the program's memory
    ASSERT_EQ(run(), exit_fault);
    EXPECT_EQ(context().trap, page_fault);
    EXPECT_EQ(context().error, error_user);
    EXPECT_EQ(context().address, guest + 0x10);
    EXPECT_EQ(context().host_rip, load);
    EXPECT_EQ(context().gpr[x86::RBX], 1u);

    process_->map(mapping(guest, page, 3 * page, PROT_READ));
    ASSERT_EQ(process_->enter(0, context().host_rip), exit_fault);
    EXPECT_EQ(context().error, error_user | error_write | 1);
    EXPECT_EQ(context().address, guest + 0x18);
    EXPECT_EQ(context().host_rip, store);
    EXPECT_EQ(context().gpr[x86::RBX], 1u);

    process_->map(mapping(guest, page, 0, PROT_READ | PROT_WRITE | user_protect_only));
    ASSERT_EQ(process_->enter(0, context().host_rip), site);
    EXPECT_EQ(ram<std::uint64_t>(3 * page + 0x18), 0x1122334455667788u);
    EXPECT_EQ(context().gpr[x86::RSP], user_program_data + 0x800);
}

TEST_F(UserProcessTest, OtherExceptionsAreReported)
{
    // A non-canonical address: #GP has no address.
    code().bytes({0x48, 0x8b, 0x07}).leave(site);
    context().gpr[x86::RDI] = 0x8000000000000000;
    ASSERT_EQ(run(), exit_fault);
    EXPECT_EQ(context().trap, 13u);
    EXPECT_EQ(context().address, 0u);
    // A division by zero, an undefined instruction, a page beyond the end of RAM.
    code(0x100).bytes({0x31, 0xc9, 0xf7, 0xf1});
    ASSERT_EQ(process_->enter(user_new_code, user_code + 0x100), exit_fault);
    EXPECT_EQ(context().trap, 0u);
    EXPECT_EQ(context().host_rip, user_code + 0x102);
    code(0x200).bytes({0x0f, 0x0b});
    ASSERT_EQ(process_->enter(user_new_code, user_code + 0x200), exit_fault);
    EXPECT_EQ(context().trap, 6u);
    process_->map(mapping(guest, page, ram_size));
    context().gpr[x86::RDI] = guest;
    ASSERT_EQ(run(), exit_fault);
    EXPECT_EQ(context().trap, page_fault);
    EXPECT_EQ(context().address, guest);
}

TEST_F(UserProcessTest, SingleStep)
{
    Assembler program = code();
    program.bytes({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3});  // inc rax; inc rbx
    const std::uint64_t last = program.host() + 10;
    program.leave(site);
    context().gpr[x86::RAX] = context().gpr[x86::RBX] = 5;
    ASSERT_EQ(run(user_single_step), exit_fault);
    EXPECT_EQ(context().trap, debug_exception);
    EXPECT_EQ(context().host_rip, user_code + 3);
    EXPECT_EQ(context().gpr[x86::RAX], 6u);
    EXPECT_EQ(context().gpr[x86::RBX], 5u);
    EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
    ASSERT_EQ(process_->enter(user_single_step, user_code + 3), exit_fault);
    EXPECT_EQ(context().host_rip, user_code + 6);
    // The step that goes to the common exit is an ordinary exit.
    context().exit = 99;
    ASSERT_EQ(process_->enter(user_single_step, last), 99u);
    EXPECT_EQ(context().gpr[x86::RBX], 6u);
    EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
    ASSERT_EQ(run(), site);
    // A step that faults.
    code(0x100).bytes({0x48, 0x8b, 0x07});
    context().gpr[x86::RDI] = guest;
    ASSERT_EQ(process_->enter(user_new_code | user_single_step, user_code + 0x100), exit_fault);
    EXPECT_EQ(context().trap, page_fault);
    EXPECT_EQ(context().flags & x86::rflags::TF, 0u);
}

TEST_F(UserProcessTest, UnmapAllAndManyMappings)
{
    code().bytes({0x48, 0x8b, 0x07}).leave(site);
    constexpr unsigned count = 3 * user_mappings_max + 5;
    for (unsigned i = 0; i < count; ++i) {
        ram<std::uint64_t>(i * page) = i;
        process_->map(mapping(guest + 2 * i * page, page, i * page));
    }
    for (const unsigned i : {0u, 300u, count - 1}) {
        context().gpr[x86::RDI] = guest + 2 * i * page;
        ASSERT_EQ(run(), site);
        EXPECT_EQ(context().gpr[x86::RAX], i);
    }
    EXPECT_GE(foreign_mappings(process_->pid()).size(), count);
    process_->map(mapping(guest, page, 0, 0));
    ASSERT_TRUE(process_->flush());
    context().gpr[x86::RDI] = guest;
    EXPECT_EQ(run(), exit_fault);
    process_->map(mapping(guest, page, 0));
    process_->unmap_all();
    process_->map(mapping(guest + page, page, 9 * page));
    ASSERT_EQ(run(), exit_fault);
    context().gpr[x86::RDI] = guest + page;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 9u);
    EXPECT_EQ(foreign_mappings(process_->pid()).size(), 1u);
    // Next to nothing at both ends of the window.
    process_->map(mapping(0x10000, page, 5 * page));
    process_->map(mapping(user_window_end - page, page, 6 * page));
    context().gpr[x86::RDI] = 0x10000;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 5u);
    context().gpr[x86::RDI] = user_window_end - page;
    ASSERT_EQ(run(), site);
    EXPECT_EQ(context().gpr[x86::RAX], 6u);
    process_->unmap_all();
    ASSERT_TRUE(process_->flush());
    EXPECT_EQ(foreign_mappings(process_->pid()), std::vector<std::string>{});
}

TEST_F(UserProcessTest, RefusedMappingCancels)
{
    code().leave(site);
    for (const UserMapping& bad :
         {mapping(user_context, page, 0), mapping(user_image - page, 2 * page, 0),
          mapping(guest, page, 0, PROT_READ | PROT_EXEC), mapping(guest, 0, 0),
          mapping(user_window_end, page, 0), mapping(guest, ~0xfffull, 0),
          mapping(guest + 1, page, 0)}) {
        process_->map(bad);
        ASSERT_EQ(run(), exit_cancelled);
        EXPECT_EQ(process_->mapping_error(), EINVAL);
    }
    // The same when a full queue was carried out early.
    for (unsigned i = 0; i <= user_mappings_max; ++i) process_->map(mapping(user_context, page, 0));
    ASSERT_EQ(run(), exit_cancelled);
    EXPECT_EQ(process_->mapping_error(), EINVAL);
    process_->unmap_all();
    ASSERT_EQ(run(), site);
    EXPECT_EQ(process_->mapping_error(), 0);
}

}  // namespace
}  // namespace doppel::engine::translate
