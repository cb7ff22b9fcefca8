// What the executor knows of guest memory: page tables, code pages, and what the guest flushes.
#include <algorithm>

#include "engine/translate/layout.h"
#include "engine/translate/worker/executor.h"

namespace doppel::engine::translate {

// ---- GuestPages ------------------------------------------------------------------------------------

x86::WalkResult Executor::walk(std::uint64_t linear, x86::Access access, bool user) noexcept
{
    return interpreter_.walk(linear, access, user);
}

x86::WalkResult Executor::probe(std::uint64_t linear, x86::Access access, bool user) noexcept
{
    return interpreter_.probe(linear, access, user);
}

std::optional<RamPiece> Executor::ram(base::Gpa gpa) noexcept
{
    const memory::Slot* slot = memory_.find(gpa);
    if (slot == nullptr) return std::nullopt;
    const std::uint64_t inside = gpa - slot->start;
    return RamPiece{slot->offset + inside, slot->size - inside, slot->read_only};
}

bool Executor::holds_code(std::uint64_t ram_offset) noexcept
{
    return interpreter_.holds_code(ram_offset);
}

// ---- Observer: remembered until translated code is to run again ------------------------------------

void Executor::tlb_flushed(bool keep_global) noexcept
{
    flush_.any = true;
    (keep_global ? flush_.non_global : flush_.global) = true;
}

void Executor::page_flushed(std::uint64_t linear) noexcept
{
    flush_.any = true;
    if (flush_.pages.size() < flush_pages_max) {
        flush_.pages.push_back(linear);
    } else {
        flush_.global = true;
    }
}

// CR3 as address spaces know it. Its low twelve bits are no address there, but in legacy PAE mode,
// where several tables of four entries lie in a page: those are told apart by bits that no
// legacy CR3 has.
std::uint64_t Executor::page_tables(std::uint64_t cr3) const
{
    if (registers_.state->long_mode()) return cr3;
    constexpr std::uint64_t in_page = 0xfe0;
    return (cr3 & 0xfffff000) | (cr3 & in_page) << 32;
}

void Executor::address_space_changed(std::uint64_t cr3, bool keep) noexcept
{
    flush_.any = true;
    flush_.supervisor = true;
    const std::uint64_t tables = page_tables(cr3);
    for (const auto& space : spaces_.all()) {
        if (!space->is(tables)) continue;
        space->loaded(tables);
        space->stale = space->stale || !keep;
    }
}

void Executor::pcid_flushed(unsigned type, std::uint16_t pcid, std::uint64_t linear) noexcept
{
    if (type == 2 || type == 3) {
        tlb_flushed(type == 3);
        for (const auto& space : spaces_.all()) space->stale = true;
        return;
    }
    constexpr std::uint64_t pcid_mask = 0xfff;
    const bool current = (registers_.state->cr3 & pcid_mask) == pcid;
    if (type == 0 && current) {
        page_flushed(linear);
    }
    for (const auto& space : spaces_.all()) {
        if (space->pcid() != pcid) continue;
        if (type == 0 && space->is(page_tables())) continue;
        space->stale = true;
    }
    if (type == 1 && current) {
        flush_.any = true;
        flush_.supervisor = true;
    }
}

void Executor::code_written(std::uint64_t ram_offset) noexcept
{
    const std::uint64_t page = ram_offset & ~base::page_mask;
    drop_code(page);
    if (!siblings_.any()) return;
    // Told of after the instruction, which may have yet to write.
    to_tell_.push_back(page);
    interpreter_.request_attention();
}

void Executor::code_decoded(std::uint64_t ram_offset) noexcept
{
    const std::uint64_t page = ram_offset & ~base::page_mask;
    protect(page);
    if (!siblings_.any()) return;
    siblings_.announce(page);
    settle();
}

void Executor::on_write(base::Gpa start, std::uint64_t size) noexcept
{
    std::uint64_t done = 0;
    while (done < size) {
        const base::Gpa at = start + done;
        const std::uint64_t left = std::min(size - done, base::page_size - at.page_offset());
        if (const auto piece = ram(at)) {
            const std::uint64_t page = piece->offset & ~base::page_mask;
            if (supervisor_cache_.has_page(page) || user_cache_.has_page(page)) drop_code(page);
        }
        done += left;
    }
}

// ---- flushes -----------------------------------------------------------------------------------------

// Only what may be remembered: an A bit that the guest has cleared is to be set by a fetch.
Executor::CodeLookup Executor::code_lookup(bool user)
{
    return [this, user](std::uint64_t linear, CodePages::Page& now) {
        const x86::WalkResult found = interpreter_.probe(linear, x86::Access::execute, user);
        const auto* translation = std::get_if<x86::Translation>(&found);
        if (translation == nullptr || !translation->accessed) return false;
        const auto piece = ram(translation->gpa);
        if (!piece) return false;
        now = {piece->offset & ~base::page_mask, translation->global};
        return true;
    };
}

void Executor::drop_supervisor_code(const std::vector<CodePages::Changed>& changed)
{
    for (const auto& page : changed) {
        supervisor_cache_.drop_page_at(page.ram_page, page.linear_page);
        supervisor_cache_.hide_page(supervisor_space_, page.linear_page, page.ram_page);
        ++code_version_;
    }
}

void Executor::apply_flushes()
{
    ++flushes_;
    const std::uint64_t tables = page_tables();
    if (flush_.global || flush_.non_global || flush_.supervisor) {
        const bool keep_global = !flush_.global;
        supervisor_window_.flush(keep_global);
        window32_.flush(keep_global);
        drop_supervisor_code(supervisor_pages_.revalidate(keep_global, code_lookup(false)));
    }
    if (flush_.global || flush_.non_global) {
        for (const auto& space : spaces_.all()) {
            if (!flush_.global && !space->is(tables)) continue;
            space->stale = true;
            space->stale_global = space->stale_global || flush_.global;
        }
    }
    for (const std::uint64_t linear : flush_.pages) {
        if (upper_half(linear)) {
            supervisor_window_.flush_page(linear);
            drop_supervisor_code(supervisor_pages_.revalidate_page(linear, code_lookup(false)));
            continue;
        }
        if (linear < window32_size) {
            window32_.flush_page(linear);
            drop_supervisor_code(supervisor_pages_.revalidate_page(linear, code_lookup(false)));
        }
        for (const auto& space : spaces_.all()) {
            if (!space->is(tables) || space->stale) continue;
            space->window().flush_page(linear);
            for (const auto& page :
                 space->code_pages.revalidate_page(linear, code_lookup(space->user()))) {
                user_cache_.hide_page(space->code(), page.linear_page, page.ram_page);
            }
        }
    }
    flush_.pages.clear();
    flush_.any = flush_.global = flush_.non_global = flush_.supervisor = false;
}

void Executor::refresh(AddressSpace& space)
{
    ++flushes_;
    space.window().flush(!space.stale_global);
    for (const auto& page : space.code_pages.revalidate(false, code_lookup(space.user()))) {
        user_cache_.hide_page(space.code(), page.linear_page, page.ram_page);
    }
    space.stale = space.stale_global = false;
}

}  // namespace doppel::engine::translate
