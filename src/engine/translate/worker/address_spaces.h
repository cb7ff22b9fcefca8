// The guest's address spaces, by their page tables, and the user processes that show them.
//
// A bounded set: the least recently used one makes room when all processes are taken, and before
// that, from some number of spaces on, when it has been idle for a while. What a space's window
// shows stays when the guest goes to another space and comes back; what the guest flushed meanwhile
// is looked up again first.
//
// `identity` spaces are for supervisor code that runs at low addresses (a kernel's first steps
// on identity page tables): their window has supervisor rights.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/translate/cache/code_cache.h"
#include "engine/translate/space/guest_pages.h"
#include "engine/translate/space/user_process.h"
#include "engine/translate/space/window.h"
#include "engine/translate/worker/code_pages.h"

namespace doppel::engine::translate {

// Programs that have 64-bit and 32-bit code at once have a process for each: the two change places at
// system calls (Windows' WoW64, Wine), and a table of targets is of one.
enum class SpaceKind : std::uint8_t { identity, user, user32 };

class AddressSpace final : public HostMapper {
public:
    AddressSpace(std::uint64_t cr3, SpaceKind kind, UserProcess& process, CodeCache::Space code,
                 GuestPages& pages);

    // Of these page tables, with whatever PCID.
    [[nodiscard]] bool is(std::uint64_t cr3) const { return ((cr3_ ^ cr3) & ~pcid_mask) == 0; }
    [[nodiscard]] bool is(std::uint64_t cr3, SpaceKind kind) const
    {
        return is(cr3) && kind_ == kind;
    }
    // The guest loaded this CR3, which is(). What was cached with another PCID has not been flushed
    // when the guest flushed this one: it is looked up again. (Linux gives a process another PCID
    // each time that six others ran in between.)
    void loaded(std::uint64_t cr3)
    {
        stale = stale || cr3_ != cr3;
        cr3_ = cr3;
    }
    [[nodiscard]] std::uint16_t pcid() const { return static_cast<std::uint16_t>(cr3_ & pcid_mask); }
    // Becomes the space of another CR3: shows nothing of the old one.
    void reassign(std::uint64_t cr3, SpaceKind kind, GuestPages& pages);

    bool user() const { return kind_ != SpaceKind::identity; }
    UserProcess& process() { return *process_; }
    [[nodiscard]] CodeCache::Space code() const { return code_; }
    Window& window() { return *window_; }

    CodePages code_pages;
    // Flushed while another space was current: its page tables could not be read then.
    bool stale = false;
    bool stale_global = false;   // global translations, too
    Mode targets_mode;           // of the blocks that the process's table of targets leads to
    std::uint64_t last_use = 0;  // host TSC
    std::uint64_t code_version = 0;  // of the code cache, when the process last serialised

    // HostMapper
    bool map(std::uint64_t address, std::uint64_t length, std::uint64_t ram_offset,
             bool writable) noexcept override;
    bool unmap(std::uint64_t address, std::uint64_t length) noexcept override;
    bool protect(std::uint64_t address, std::uint64_t length, bool writable) noexcept override;

private:
    static constexpr std::uint64_t pcid_mask = 0xfff;

    void make_window(GuestPages& pages);

    std::uint64_t cr3_;
    SpaceKind kind_;
    UserProcess* process_;
    CodeCache::Space code_;
    std::unique_ptr<Window> window_;
};

class AddressSpaces {
public:
    // limit: user processes, all of which are started here.
    AddressSpaces(UserProcesses& processes, GuestPages& pages, CodeCache& cache, unsigned limit);

    // The space of this CR3, which is loaded; nullptr: the host could not give a process.
    AddressSpace* find(std::uint64_t cr3, SpaceKind kind);
    [[nodiscard]] const std::vector<std::unique_ptr<AddressSpace>>& all() const { return spaces_; }
    [[nodiscard]] std::uint64_t evictions() const { return evictions_; }

private:
    AddressSpace* make(std::uint64_t cr3, SpaceKind kind);

    GuestPages& pages_;
    CodeCache& cache_;
    std::vector<UserProcess*> unused_;
    std::vector<std::unique_ptr<AddressSpace>> spaces_;
    std::uint64_t evictions_ = 0;
};

}  // namespace doppel::engine::translate
