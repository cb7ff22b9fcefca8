#include "engine/translate/worker/address_spaces.h"

#include <sys/mman.h>
#include <x86intrin.h>

#include <algorithm>

#include "engine/translate/layout.h"

namespace doppel::engine::translate {

namespace {

constexpr std::uint64_t lowest_mappable = 0x10000;  // vm.mmap_min_addr
constexpr std::size_t usual = 16;                   // spaces, before one that is idle makes room
constexpr std::uint64_t idle_ticks = 500'000'000;   // about a fifth of a second

std::uint32_t rights(bool writable) { return writable ? PROT_READ | PROT_WRITE : PROT_READ; }

}  // namespace

AddressSpace::AddressSpace(std::uint64_t cr3, SpaceKind kind, UserProcess& process,
                           CodeCache::Space code, GuestPages& pages)
    : cr3_(cr3), kind_(kind), process_(&process), code_(code)
{
    make_window(pages);
}

void AddressSpace::make_window(GuestPages& pages)
{
    WindowConfig config;
    config.user = user();
    config.begin = lowest_mappable;
    config.end = user_window_end;
    config.holes = {{user_image, user_engine_end}};
    window_ = std::make_unique<Window>(config, pages, *this);
}

void AddressSpace::reassign(std::uint64_t cr3, SpaceKind kind, GuestPages& pages)
{
    cr3_ = cr3;
    kind_ = kind;
    code_pages.clear();
    stale = stale_global = false;
    process_->unmap_all();
    make_window(pages);
}

bool AddressSpace::map(std::uint64_t address, std::uint64_t length, std::uint64_t ram_offset,
                       bool writable) noexcept
{
    process_->map({address, length, ram_offset, rights(writable), 0});
    return true;
}

bool AddressSpace::unmap(std::uint64_t address, std::uint64_t length) noexcept
{
    process_->map({address, length, 0, 0, 0});
    return true;
}

bool AddressSpace::protect(std::uint64_t address, std::uint64_t length, bool writable) noexcept
{
    process_->map({address, length, 0, rights(writable) | user_protect_only, 0});
    return true;
}

AddressSpaces::AddressSpaces(UserProcesses& processes, GuestPages& pages, CodeCache& cache,
                             unsigned limit)
    : pages_(pages), cache_(cache)
{
    // All of them now: the sandbox has no way to make, or to signal, any others.
    for (unsigned i = 0; i < std::max(limit, 1u); ++i) {
        const auto process = processes.start();
        if (!process) break;
        unused_.push_back(*process);
    }
}

AddressSpace* AddressSpaces::find(std::uint64_t cr3, SpaceKind kind)
{
    const auto known = std::find_if(spaces_.begin(), spaces_.end(),
                                    [&](const auto& space) { return space->is(cr3, kind); });
    AddressSpace* space = known == spaces_.end() ? make(cr3, kind) : known->get();
    if (space == nullptr) return nullptr;
    space->loaded(cr3);
    space->last_use = __rdtsc();
    return space;
}

AddressSpace* AddressSpaces::make(std::uint64_t cr3, SpaceKind kind)
{
    const auto oldest = std::min_element(
        spaces_.begin(), spaces_.end(),
        [](const auto& a, const auto& b) { return a->last_use < b->last_use; });
    // Most address spaces of a guest are of programs that have ended: each process that is used
    // keeps a megabyte.
    const bool idle = spaces_.size() >= usual && __rdtsc() - (*oldest)->last_use > idle_ticks;
    if (!unused_.empty() && !idle) {
        // Until now it cost next to nothing.
        UserProcess& process = *unused_.back();
        unused_.pop_back();
        const CodeCache::Space code = cache_.add_space(process.targets(), process.links());
        spaces_.push_back(std::make_unique<AddressSpace>(cr3, kind, process, code, pages_));
        return spaces_.back().get();
    }
    if (oldest == spaces_.end()) return nullptr;
    ++evictions_;
    (*oldest)->reassign(cr3, kind, pages_);
    cache_.clear_space((*oldest)->code());
    return oldest->get();
}

}  // namespace doppel::engine::translate
