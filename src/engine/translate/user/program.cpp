// The loop of a user process: wait for a turn, obey the command, run guest code, report.
#include "engine/translate/user/program.h"

#include <linux/futex.h>
#include <linux/mman.h>

#include <cstddef>

#include "engine/translate/link/user_link.h"
#include "engine/translate/user/parts.h"
#include "engine/translate/user/system_call.h"

namespace doppel::engine::translate::program
{
namespace
{

static_assert(PROGRAM_GPR == context_offset::gpr && PROGRAM_FLAGS == context_offset::flags);
static_assert(PROGRAM_FS_BASE == context_offset::fs_base);
static_assert(PROGRAM_GS_BASE == context_offset::gs_base);
static_assert(PROGRAM_ACTIONS == offsetof(UserCommand, actions));
static_assert(PROGRAM_KICKED == offsetof(UserCommand, kicked));
static_assert(PROGRAM_HOST_RIP == offsetof(UserCommand, host_rip));
static_assert(PROGRAM_NEW_CODE == user_new_code && PROGRAM_SINGLE_STEP == user_single_step);

// Whether to fill a mapping in at once. For one page it saves the guest's fault (a tenth of the
// fill's 1.7 us). For some writable pages it costs what one or two faults of theirs would;
// pages to be read come sixteen a fault anyway.
constexpr std::uint64_t populate_max = 65536;

bool worth_populating(const UserMapping& mapping)
{
    return mapping.length <= 4096 ||
           ((mapping.prot & PROT_WRITE) != 0 && mapping.length <= populate_max);
}

constexpr int einval = 22;

// The worker's, when it gave the turn at hand.
std::uint32_t worker_processor = 0;

// The processor that this one is on, from 1; 0: unknown. Linux keeps its number in the limit of a
// segment of its own, for the C library's getcpu().
std::uint32_t this_processor()
{
    constexpr std::uint32_t segment = 0x7b, number_mask = 0xfff;
    std::uint32_t limit = 0;
    bool valid = false;
    asm volatile("lsl %2, %0" : "+r"(limit), "=@ccz"(valid) : "r"(segment));
    return valid ? (limit & number_mask) + 1 : 0;
}

void report(std::uint32_t turn)
{
    const std::uint32_t processor = this_processor();
    if (report_area().processor != processor) report_area().processor = processor;
    // Sequentially consistent, before the look at worker_sleeping: the worker sets that
    // and looks at the turn again before it sleeps.
    __atomic_store_n(&report_area().turn, turn, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&command().worker_sleeping, __ATOMIC_SEQ_CST) != 0) {
        system_call(__NR_futex, address_of(&report_area().turn), FUTEX_WAKE, 1);
    }
}

std::uint32_t wait_for_turn_after(std::uint32_t last)
{
    const std::uint32_t* turn = &command().turn;
    for (std::uint32_t i = 0; i < __atomic_load_n(&command().spin, __ATOMIC_RELAXED); ++i) {
        const std::uint32_t now = __atomic_load_n(turn, __ATOMIC_ACQUIRE);
        if (now != last) return now;
        // Here the worker does not run before this one sleeps.
        if (worker_processor != 0 && this_processor() == worker_processor) break;
        __builtin_ia32_pause();
    }
    __atomic_store_n(&report_area().user_sleeping, 1, __ATOMIC_SEQ_CST);
    std::uint32_t now;
    while ((now = __atomic_load_n(turn, __ATOMIC_SEQ_CST)) == last) {
        system_call(__NR_futex, address_of(turn), FUTEX_WAIT, last);
    }
    __atomic_store_n(&report_area().user_sleeping, 0, __ATOMIC_RELAXED);
    return now;
}

// Moves to the processor that the worker asks for, or takes back what it may use.
void join(std::uint32_t processor)
{
    constexpr std::uint32_t most = 1024, bits = 64;
    static std::uint64_t allowed[most / bits];
    static std::uint32_t joined = 0;
    if (processor == joined || processor > most) return;
    if (joined == 0 &&
        system_call(__NR_sched_getaffinity, 0, sizeof allowed, address_of(allowed)) < 0) {
        return;
    }
    std::uint64_t one[most / bits] = {};
    if (processor != 0) one[(processor - 1) / bits] = std::uint64_t{1} << (processor - 1) % bits;
    system_call(__NR_sched_setaffinity, 0, sizeof allowed, address_of(processor != 0 ? one : allowed));
    joined = processor;
}

void unmap_window()
{
    system_call(__NR_munmap, 0, user_image);
    system_call(__NR_munmap, user_engine_end, user_window_end - user_engine_end);
}

// In the guest's part of the address space, and nothing but data.
bool acceptable(const UserMapping& mapping)
{
    constexpr std::uint32_t prot_known = PROT_READ | PROT_WRITE | user_protect_only;
    const std::uint64_t end = mapping.address + mapping.length;
    if (end <= mapping.address || end > user_window_end) return false;
    if (mapping.address < user_engine_end && end > user_image) return false;
    return (mapping.prot & ~prot_known) == 0;
}

struct Place {
    std::uint64_t fd;
    std::uint64_t offset;
};

// What to map for an offset of guest memory.
Place place_of(std::uint64_t offset)
{
    Place place{user_ram_fd, offset};
    for (std::uint32_t i = 0; i < memory_files_max && command().files.offsets[i] <= offset; ++i) {
        place = {user_file_fd + i, offset - command().files.offsets[i]};
    }
    return place;
}

// 0 or an errno.
int change(const UserMapping& mapping)
{
    if (!acceptable(mapping)) return einval;
    long result;
    if (mapping.prot == 0) {
        result = system_call(__NR_munmap, mapping.address, mapping.length);
    } else if ((mapping.prot & user_protect_only) != 0) {
        result = system_call(__NR_mprotect, mapping.address, mapping.length,
                             mapping.prot & ~user_protect_only);
    } else {
        const Place place = place_of(mapping.offset);
        const unsigned populate = worth_populating(mapping) ? MAP_POPULATE : 0u;
        result = system_call(__NR_mmap, mapping.address, mapping.length, mapping.prot,
                             MAP_SHARED | MAP_FIXED | populate, place.fd, place.offset);
    }
    return result < 0 && result > -4096 ? static_cast<int>(-result) : 0;
}

int change_mappings()
{
    const std::uint32_t count = command().mapping_count;
    if (count > user_mappings_max) return einval;
    for (std::uint32_t i = 0; i < count; ++i) {
        if (const int error = change(command().mappings[i]); error != 0) return error;
    }
    return 0;
}

void save_fpu()
{
    const std::uint64_t mask = command().xsave_mask;
    asm volatile("xsave64 %0"
                 : "+m"(report_area().xsave)
                 : "a"(static_cast<std::uint32_t>(mask)),
                   "d"(static_cast<std::uint32_t>(mask >> 32)));
}

void load_fpu()
{
    const std::uint64_t mask = command().xsave_mask;
    asm volatile("xrstor64 %0"
                 :
                 : "m"(command().xsave), "a"(static_cast<std::uint32_t>(mask)),
                   "d"(static_cast<std::uint32_t>(mask >> 32)));
}

// What is read now and written when guest code is left, in one transfer of each line.
void prefetch_context()
{
    constexpr std::uint64_t line = 64, lines = 4;
    const auto* at = reinterpret_cast<const char*>(&context());
    for (std::uint64_t i = 0; i < lines; ++i) asm volatile("prefetchw %0" : : "m"(at[i * line]));
}

// Whether guest code is to be entered.
bool obey()
{
    prefetch_context();
    const std::uint32_t actions = command().actions;
    worker_processor = command().processor;
    join(command().joined);
    if ((actions & user_save_fpu) != 0) save_fpu();
    if ((actions & user_exit) != 0) leave(0);
    if ((actions & user_unmap_all) != 0) unmap_window();
    const int error = change_mappings();
    // Read first: the worker is watching this cache line, and a write would cost it.
    if (report_area().mapping_error != error) report_area().mapping_error = error;
    if (error != 0) context().exit = exit_cancelled;
    if ((actions & user_load_fpu) != 0) load_fpu();
    return error == 0 && (actions & user_run) != 0;
}

}  // namespace

void serve(std::uint32_t turn)
{
    for (;;) {
        report(turn);
        turn = wait_for_turn_after(turn);
        if (!obey()) continue;
        report_area().begun = turn;
        enter_guest(turn);
    }
}

void crash(std::uint64_t vector)
{
    // No report: the worker believes a death, not a word that guest code can write.
    report_area().crashed = static_cast<std::uint32_t>(vector + 1);
    leave(1);
}

// The worker changes nothing in a command before it has the report: its turn is still the one
// that led into guest code.
void left_guest()
{
    if (report_area().mapping_error != 0) report_area().mapping_error = 0;  // guest code wrote it
    if ((command().actions & user_save_fpu_after) != 0) save_fpu();
    serve(command().turn);
}

void cancelled()
{
    context().exit = exit_cancelled;
    if ((command().actions & user_save_fpu_after) != 0) save_fpu();
    serve(command().turn);
}

}  // namespace doppel::engine::translate::program
