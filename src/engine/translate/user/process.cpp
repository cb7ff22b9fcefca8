// A forked process before it serves: its areas, its handlers, its fence.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <csignal>
#include <cstddef>

#include "engine/translate/user/parts.h"
#include "engine/translate/user/system_call.h"

namespace doppel::engine::translate::program {
namespace {

void map(std::uint64_t address, std::uint64_t size, int prot, std::uint64_t offset)
{
    const long result =
        system_call(__NR_mmap, address, size, static_cast<std::uint64_t>(prot),
                    MAP_SHARED | MAP_FIXED, user_arena_fd, offset);
    if (result != static_cast<long>(address)) leave(3);
}

void map_areas(unsigned slot)
{
    const std::uint64_t area = user_arena_slots + slot * slot_size;
    map(user_context, user_area_size, PROT_READ | PROT_WRITE, area + slot_context);
    map(user_command, slot_targets - slot_command, PROT_READ, area + slot_command);
    map(user_targets, target_table_size, PROT_READ, area + slot_targets);
    map(user_links, link_table_size, PROT_READ, area + slot_links);
    map(user_code, user_code_size, PROT_READ | PROT_EXEC, user_arena_code);
    system_call(__NR_close, user_arena_fd);
}

constexpr sock_filter load(unsigned offset)
{
    return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset);
}
constexpr sock_filter jump_equal(unsigned value, unsigned char yes, unsigned char no)
{
    return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no);
}
constexpr sock_filter give(unsigned action) { return BPF_STMT(BPF_RET | BPF_K, action); }
constexpr unsigned argument(unsigned number)
{
    return offsetof(seccomp_data, args) + 8 * number;
}

// What is left to a process: to map guest memory as data, to unmap, to change rights, futexes, to
// choose its own processor, to return from signals and to end. Everything else kills it.
void install_filter()
{
    // Arguments are compared by their lower halves: the kernel takes prot, flags and the
    // descriptor of mmap and prot of mprotect no further, or refuses what lies above.
    constexpr unsigned rights = PROT_READ | PROT_WRITE, populate = MAP_POPULATE;
    static constexpr sock_filter program[] = {
        /*  0 */ load(offsetof(seccomp_data, arch)),
        /*  1 */ jump_equal(AUDIT_ARCH_X86_64, 0, 21),
        /*  2 */ load(offsetof(seccomp_data, nr)),
        /*  3 */ jump_equal(__NR_futex, 20, 0),
        /*  4 */ jump_equal(__NR_munmap, 19, 0),
        /*  5 */ jump_equal(__NR_rt_sigreturn, 18, 0),
        /*  6 */ jump_equal(__NR_exit_group, 17, 0),
        /*  7 */ jump_equal(__NR_mprotect, 11, 0),
        /*  8 */ jump_equal(__NR_sched_getaffinity, 2, 0),
        /*  9 */ jump_equal(__NR_sched_setaffinity, 1, 0),
        /* 10 */ jump_equal(__NR_mmap, 2, 12),
        /* 11 */ load(argument(0)),
        /* 12 */ jump_equal(0, 11, 10),
        /* 13 */ load(argument(4)),
        /* 14 */ BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, user_ram_fd, 0, 8),
        /* 15 */ BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, user_arena_fd, 7, 0),
        /* 16 */ load(argument(3)),
        /* 17 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~populate),
        /* 18 */ jump_equal(MAP_SHARED | MAP_FIXED, 0, 4),
        /* 19 */ load(argument(2)),
        /* 20 */ BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, ~rights, 2, 0),
        /* 21 */ load(argument(2) + 4),
        /* 22 */ jump_equal(0, 1, 0),
        /* 23 */ give(SECCOMP_RET_KILL_PROCESS),
        /* 24 */ give(SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{sizeof program / sizeof program[0], const_cast<sock_filter*>(program)};
    if (system_call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1) != 0) leave(4);
    // SPEC_ALLOW: older kernels otherwise turn off speculation in a process with a filter.
    if (system_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                    address_of(&filter)) != 0) {
        leave(4);
    }
}

}  // namespace

void run_process(unsigned slot, std::int32_t parent)
{
    system_call(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
    if (system_call(__NR_getppid) != parent) leave(0);
    map_areas(slot);
    install_handlers();
    install_filter();
    serve(command().turn);
}

}  // namespace doppel::engine::translate::program
