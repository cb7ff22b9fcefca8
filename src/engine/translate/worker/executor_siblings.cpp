// What vCPUs in other workers have to know of each other's code: see link/commons.h.
//
//   this vCPU writes to a page          its window does not let it, or the interpreter reports it: the
//   that another one has code of        interpreter writes, and before the next instruction the others
//                                       have dropped their code
//   another one has code of a page      no window and no TLB entry lets this vCPU write there unseen
//                                       from the moment on that it has taken the note
#include <algorithm>

#include "engine/translate/worker/executor.h"

namespace doppel::engine::translate {

void Executor::settle()
{
    if (!siblings_.any()) return;
    if ((attention_.load(std::memory_order_relaxed) & summoned) != 0) {
        attention_.fetch_and(~summoned);
        siblings_.heed_summons();
    }
    while (!to_tell_.empty()) tell_siblings();
    while (siblings_.pending()) take_notes();
}

void Executor::tell_siblings()
{
    telling_.swap(to_tell_);
    siblings_.tell(telling_);
    for (const std::uint64_t page : telling_) {
        // If one of them has code of it again, it has told of that, or waits until it is taken.
        if (!siblings_.others_hold(page)) interpreter_.unwatch_writes(page);
    }
    telling_.clear();
}

void Executor::take_notes()
{
    siblings_.take(notes_);
    if (notes_.lost) find_lost_notes();
    // Notes of both kinds about one page may be in any order: what counts is who has code now.
    std::erase_if(notes_.watched, [this](std::uint64_t page) { return !siblings_.others_hold(page); });
    protect_all(notes_.watched);
    for (const std::uint64_t page : notes_.written) {
        interpreter_.code_changed(page, base::page_size);
        if (supervisor_cache_.has_page(page) || user_cache_.has_page(page)) drop_code(page);
        interpreter_.unwatch_code(page);
        if (!siblings_.others_hold(page)) interpreter_.unwatch_writes(page);
        settled_drops_ = true;
    }
    siblings_.taken(notes_);
}

// The windows show none of the pages writable from now on.
void Executor::protect_all(const std::vector<std::uint64_t>& ram_pages)
{
    // Each page is looked for in each window.
    constexpr std::ptrdiff_t many = 512;
    if (ram_pages.empty()) return;
    const auto unprotected = [this](std::uint64_t page) { return !interpreter_.holds_code(page); };
    if (std::count_if(ram_pages.begin(), ram_pages.end(), unprotected) > many) {
        show_nothing();
    } else {
        for (const std::uint64_t page : ram_pages) {
            if (unprotected(page)) protect(page);
        }
    }
    interpreter_.watch_writes(ram_pages);
}

void Executor::show_nothing()
{
    supervisor_window_.clear(true);
    for (const auto& space : spaces_.all()) {
        space->process().unmap_all();
        space->window().clear(false);
    }
}

void Executor::find_lost_notes()
{
    for (std::uint64_t at = 0; at < siblings_.pages(); ++at) {
        const std::uint64_t page = at << base::page_shift;
        if (siblings_.others_hold(page)) notes_.watched.push_back(page);
        if (interpreter_.holds_code(page) && siblings_.lost_write(page)) {
            notes_.written.push_back(page);
        }
    }
}

bool Executor::in_dropped_code()
{
    if (!settled_drops_ && !stepping_) return false;
    const Block* block = cache().block_at(host_rip_);
    settled_drops_ = false;
    return block != nullptr && block->dropped;
}

}  // namespace doppel::engine::translate
