// What the executor tells of itself: counters and the flight recorder.
#include <fmt/format.h>

#include "engine/translate/layout.h"
#include "engine/translate/worker/executor.h"

namespace doppel::engine::translate {

namespace {

constexpr const char* site_names[] = {"direct", "interpret", "syscall", "sysret",
                                      "iret",   "swapgs",    "vectors", "device", "indirect", "stac"};
static_assert(std::size(site_names) == exit_kinds);

void add_window(base::CounterList& list, const std::string& name, const Window::Counters& counters)
{
    list.add(name + ".fills", counters.fills);
    list.add(name + ".pages", counters.pages);
    list.add(name + ".upgrades", counters.upgrades);
    list.add(name + ".flushes", counters.flushes);
    list.add(name + ".page_flushes", counters.page_flushes);
    list.add(name + ".revalidated", counters.revalidated);
    list.add(name + ".dropped", counters.dropped);
    list.add(name + ".overflows", counters.overflows);
}

void add_cache(base::CounterList& list, const std::string& name, const CodeCache::Counters& counters)
{
    list.add(name + ".blocks", counters.blocks);
    list.add(name + ".guest_instructions", counters.guest_instructions);
    list.add(name + ".host_bytes", counters.host_bytes);
    list.add(name + ".cold_bytes", counters.cold_bytes);
    list.add(name + ".links", counters.links);
    list.add(name + ".entries", counters.entries);
    list.add(name + ".moved_blocks", counters.moved_blocks);
    list.add(name + ".dropped_blocks", counters.dropped_blocks);
    list.add(name + ".dropped_pages", counters.dropped_pages);
    list.add(name + ".emptied_regions", counters.emptied_regions);
}

}  // namespace

void Executor::record(std::uint8_t what, std::uint64_t detail)
{
    recorder_[recorded_++ % records] = {detail, what, mode_.user};
}

std::string Executor::flight_recorder() const
{
    std::string text;
    const unsigned first = recorded_ > records ? recorded_ - records : 0;
    for (unsigned i = first; i < recorded_; ++i) {
        const Record& entry = recorder_[i % records];
        const char* what = "?";
        switch (entry.what) {
        case 0x10: what = "no target"; break;
        case 0x11: what = "host trap"; break;
        case 0x12: what = "page fault"; break;
        case 0x13: what = "kick"; break;
        default: what = entry.what < std::size(site_names) ? site_names[entry.what] : "?"; break;
        }
        text += fmt::format("{} {} {:#x}\n", entry.user ? "user" : "supervisor", what, entry.detail);
    }
    return text;
}

void Executor::counters(base::CounterList& list) const
{
    if (lock_step_ != nullptr) lock_step_->counters(list);
    list.add("translate.entries_supervisor", counts_.entries_supervisor);
    list.add("translate.entries_user", counts_.entries_user);
    for (unsigned kind = 0; kind < std::size(site_names); ++kind) {
        list.add(std::string{"translate.exit_"} + site_names[kind], site_counts_[kind]);
    }
    list.add("translate.exit_no_target", counts_.missing_targets);
    list.add("translate.exit_fault", counts_.faults);
    list.add("translate.guest_page_faults", counts_.page_faults_guest);
    list.add("translate.device_faults", counts_.device_faults);
    list.add("translate.device_sites", devices_.learned_in_all());
    list.add("translate.device_sites_forgotten", devices_.forgotten());
    list.add("translate.odd_faults", counts_.odd_faults);
    list.add("translate.code_writes", counts_.code_writes);
    list.add("translate.exit_kick", counts_.kicks);
    list.add("translate.single_steps", counts_.steps);
    list.add("translate.interpreted_single", counts_.interpreted);
    list.add("translate.interpreted_runs", counts_.interpreted_runs);
    list.add("translate.lost", counts_.lost);
    list.add("translate.crossings", counts_.crossings);
    list.add("translate.brief_stays", counts_.brief_stays);
    list.add("translate.stays_not_brief", counts_.stays_not_brief);
    list.add("translate.fpu_saves", counts_.fpu_saves);
    list.add("translate.fpu_loads", counts_.fpu_loads);
    list.add("translate.spaces", spaces_.all().size());
    list.add("translate.space_evictions", spaces_.evictions());
    const auto opcodes = interpreter_.stepped();
    for (unsigned opcode = 0; opcode < opcodes.size(); ++opcode) {
        if (opcodes[opcode] == 0) continue;
        list.add(fmt::format("translate.interpreted_{}{:02x}", opcode < 256 ? "" : "0f_", opcode & 0xff),
                 opcodes[opcode]);
    }
    add_cache(list, "supervisor_code", supervisor_cache_.counters());
    add_cache(list, "user_code", user_cache_.counters());
    add_window(list, "supervisor_window", supervisor_window_.counters());
    add_window(list, "window32", window32_.counters());
    Window::Counters user;
    for (const auto& space : spaces_.all()) {
        const auto& one = space->window().counters();
        user.fills += one.fills;
        user.pages += one.pages;
        user.upgrades += one.upgrades;
        user.flushes += one.flushes;
        user.page_flushes += one.page_flushes;
        user.revalidated += one.revalidated;
        user.dropped += one.dropped;
        user.overflows += one.overflows;
    }
    add_window(list, "user_windows", user);
}

}  // namespace doppel::engine::translate
