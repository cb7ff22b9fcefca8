// Translated blocks: found, made, linked and dropped.
#include "engine/translate/worker/executor.h"

#include <x86intrin.h>

#include <cstring>
#include <tuple>

#include "base/address.h"

namespace doppel::engine::translate {

namespace {

// Behind it comes the first: the interpreter's.
constexpr std::uint64_t last_page_of_code32 = 0xfffff000;

}  // namespace

Block* Executor::block_for(std::uint64_t rip, Mode mode, bool note, bool target)
{
    if (mode.code32 && rip >= last_page_of_code32) return nullptr;
    Lookup& cached = lookup(rip, mode);
    if (!note && !target && holds(cached, rip, mode)) return cached.block;
    std::uint64_t ram_offset = 0;
    if (interpreter_.fetch(rip, ram_offset) || ram_offset == interpret::Interpreter::no_memory) {
        return nullptr;
    }
    CodeCache& code = mode.user ? user_cache_ : supervisor_cache_;
    Block* block = code.find(ram_offset, rip, mode);
    if (block != nullptr && block->second_page != Block::no_page &&
        second_page_of(rip) != block->second_page) {
        return nullptr;
    }
    if (block == nullptr) {
        if (rewritten_often(ram_offset & ~base::page_mask)) return nullptr;
        block = move_here(code, rip, ram_offset, mode);
    }
    if (block == nullptr) {
        block = at(Place::translation,
                   [&] { return translate_block(code, rip, ram_offset, mode, target); });
        if (block == nullptr) return nullptr;
        link_within_page(code, *block);
    }
    if (note || (mode.user && !mode.alone)) {
        note_code(rip, ram_offset);
        if (block->second_page != Block::no_page) {
            note_code((rip | base::page_mask) + 1, block->second_page);
        }
    }
    cached = {rip, code_version_ + flushes_, mode.user ? space_ : nullptr, block, mode.key()};
    return block;
}

// From where another address space has the same code; nullptr: nowhere.
Block* Executor::move_here(CodeCache& code, std::uint64_t rip, std::uint64_t ram_offset, Mode mode)
{
    if (!mode.user || mode.alone) return nullptr;
    return at(Place::translation, [&]() -> Block* {
        const auto moved = code.move_page(ram_offset, rip & ~base::page_mask, mode);
        if (moved.empty()) return nullptr;
        ++code_version_;
        for (Block* block : moved) link_within_page(code, *block);
        return code.find(ram_offset, rip, mode);
    });
}

const Block* Executor::known_block(std::uint64_t rip, Mode mode)
{
    const Lookup& cached = lookup(rip, mode);
    return holds(cached, rip, mode) && cached.block->guest_count != 0 ? cached.block : nullptr;
}

// RAM page behind the page of `rip`; Block::no_page: no code can be fetched there.
std::uint64_t Executor::second_page_of(std::uint64_t rip)
{
    std::uint64_t ram_offset = 0;
    const std::uint64_t linear = (rip | base::page_mask) + 1;
    if (interpreter_.fetch(linear, ram_offset)) return Block::no_page;
    return ram_offset == interpret::Interpreter::no_memory ? Block::no_page : ram_offset;
}

Block* Executor::translate_block(CodeCache& code, std::uint64_t rip, std::uint64_t ram_offset,
                                 Mode mode, bool target)
{
    constexpr std::size_t tail = 14;  // of an instruction that begins in the page's last byte
    watch(ram_offset & ~base::page_mask);
    Source source;
    source.rip = rip;
    source.mode = mode;
    source.own_bytes = base::page_size - (ram_offset & base::page_mask);
    // SAFETY: the interpreter found both pages in RAM.
    const auto* own = reinterpret_cast<const std::uint8_t*>(memory_.ram() + ram_offset);
    source.bytes = {own, source.own_bytes};
    const std::uint64_t second = second_page_of(rip);
    std::array<std::uint8_t, base::page_size + tail> joined;
    if (second != Block::no_page) {
        std::memcpy(joined.data(), own, source.own_bytes);
        std::memcpy(joined.data() + source.own_bytes, memory_.ram() + second, tail);
        source.bytes = {joined.data(), source.own_bytes + tail};
    }
    source.devices = devices_.learned(ram_offset & ~base::page_mask);
    Block& block = code.add(source, ram_offset, second, target);
    ++code_version_;
    if (block.second_page == Block::no_page) return &block;
    watch(second);
    if (block.dropped) return nullptr;
    if (std::memcmp(joined.data() + source.own_bytes, memory_.ram() + second, tail) == 0) return &block;
    code.drop_page(second);  // written before anybody watched it
    return nullptr;
}

// Writes to the page are reported from now on, and no window shows it writable.
void Executor::watch(std::uint64_t ram_page)
{
    for (;;) {
        const bool protected_already = interpreter_.holds_code(ram_page);
        const bool announced = !siblings_.any() || siblings_.holds(ram_page);
        interpreter_.watch_code(ram_page);
        if (!protected_already) protect(ram_page);
        if (announced) return;
        siblings_.announce(ram_page);
        settle();
        if (siblings_.holds(ram_page)) return;  // else somebody has written to it
    }
}

// To what is there already: each such jump would leave once.
void Executor::link_within_page(CodeCache& code, Block& block)
{
    if (block.mode.alone) return;
    for (const Exit& exit : block.exits) {
        if (exit.kind != ExitKind::direct || exit.patch == 0 || exit.far) continue;
        if (((exit.target ^ block.rip) & ~base::page_mask) != 0) continue;
        const std::uint64_t ram_offset =
            (block.ram_offset & ~base::page_mask) | (exit.target & base::page_mask);
        Block* to = code.find(ram_offset, exit.target, exit.mode);
        if (to == nullptr) continue;
        if (to->second_page != Block::no_page && to->by_cell == 0) continue;
        code.link({&block, &exit}, *to, code_space());
    }
}

void Executor::note_code(std::uint64_t rip, std::uint64_t ram_offset)
{
    CodePages& pages = mode_.user ? space_->code_pages : supervisor_pages_;
    CodeCache& code = mode_.user ? user_cache_ : supervisor_cache_;
    const std::uint64_t linear_page = rip & ~base::page_mask;
    const std::uint64_t ram_page = ram_offset & ~base::page_mask;
    const std::uint64_t known = pages.ram_page(linear_page);
    if (known == ram_page && code.shows(code_space(), ram_page)) return;
    // Mapped otherwise now, although the guest has not flushed it.
    if (known != ram_page && known != CodePages::unknown) {
        code.hide_page(code_space(), linear_page, known);
        if (!mode_.user) code.drop_page_at(known, linear_page);
        ++code_version_;
    }
    const x86::WalkResult found =
        interpreter_.probe(rip, x86::Access::execute, mode_.user && !mode_.privileged);
    const auto* translation = std::get_if<x86::Translation>(&found);
    pages.note(rip, ram_offset, translation != nullptr && translation->global);
    code.show_page(code_space(), linear_page, ram_page, mode_,
                   [&pages](std::uint64_t page) { return pages.ram_page(page); });
}

bool Executor::rewritten_often(std::uint64_t ram_page)
{
    constexpr std::uint32_t often = 500;
    constexpr std::uint64_t recently = std::uint64_t{1} << 27;  // ticks: some 50 ms
    const auto at = drops_.find(ram_page);
    if (at == drops_.end()) return false;
    if (__rdtsc() - at->second.at > recently) {
        drops_.erase(at);
        return false;
    }
    return at->second.count >= often;
}

void Executor::drop_code(std::uint64_t ram_page)
{
    Drops& drops = drops_[ram_page];
    ++drops.count;
    drops.at = __rdtsc();
    supervisor_cache_.drop_page(ram_page);
    user_cache_.drop_page(ram_page);
    devices_.forget_page(ram_page);
    interpreter_.unwatch_code(ram_page);
    ++code_version_;
}

// ---- devices ---------------------------------------------------------------------------------------

void Executor::learn_device(Block& block)
{
    if (!devices_.faulted(block.ram_offset + (*registers_.rip - block.rip))) return;
    cache().drop(block);
    ++code_version_;
}

Executor::Next Executor::interpret_exit(ExitKind kind, Block& block)
{
    switch (kind) {
    case ExitKind::device: return interpret_device(block);
    case ExitKind::stac: return interpret_user_access();
    default: return interpret_one();
    }
}

Executor::Next Executor::interpret_device(Block& block)
{
    const std::uint64_t ram_offset = block.ram_offset + (*registers_.rip - block.rip);
    const auto [block_offset, block_rip, block_mode] =
        std::tuple{block.ram_offset, block.rip, block.mode};
    const std::uint64_t before = interpreter_.device_accesses();
    const Next next = interpret_one();
    if (devices_.interpreted(ram_offset, interpreter_.device_accesses() != before)) return next;
    // The instruction may have dropped it, or the whole page.
    CodeCache& code = block_mode.user ? user_cache_ : supervisor_cache_;
    if (Block* found = code.find(block_offset, block_rip, block_mode)) {
        code.drop(*found);
        ++code_version_;
    }
    return next;
}

void Executor::protect(std::uint64_t ram_page)
{
    supervisor_window_.protect(ram_page);
    window32_.protect(ram_page);
    for (const auto& space : spaces_.all()) space->window().protect(ram_page);
}

}  // namespace doppel::engine::translate
