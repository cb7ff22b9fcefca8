// The window's promise under random guests: what the host shows is what a TLB could hold. For the
// random test and the fuzz target.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <utility>

#include "window_fakes.h"

namespace doppel::engine::translate::test {

// An entry as it once was: until it is flushed, a processor might still use it.
struct Remembered {
    std::uint64_t linear = 0;
    Pte pte;

    [[nodiscard]] bool covers(std::uint64_t address) const { return address - linear < pte.size; }
};

class RandomGuest {
public:
    // random: any numbers. seed chooses the kind of window.
    RandomGuest(unsigned seed, std::function<std::uint64_t()> random) : random_(std::move(random))
    {
        guest_.slots = {{0, 5 * MIB + 64 * KIB, 0},
                        {6 * MIB, 6 * MIB, 5 * MIB + 64 * KIB},
                        {16 * MIB, 2 * MIB, 12 * MIB, true}};
        config_.user = seed % 2 == 0;
        config_.fold = seed % 3 == 0 ? 0 : 0x7fffffe00000;
        // The ends of the window and its hole lie inside of large pages.
        linear_ = (seed % 3 == 0 ? 0 : 0xffff900000000000) + 2 * MIB;
        config_.begin = host(linear_) + 16 * page;
        config_.end = host(linear_) + area - 16 * page;
        config_.holes = {{host(linear_) + 5 * MIB, host(linear_) + 5 * MIB + 8 * page}};
        config_.mappings_max = seed % 4 == 0 ? 20 : 1000;
        config_.neighbours = seed % 5;
        config_.run_max = seed % 7 == 0 ? 2 * MIB : GIB;
        fakes_refuse_ = seed % 4 >= 2;
        host_.whole_above = 2 * MIB + 64 * KIB;  // dropping everything cannot fail
        window_.emplace(config_, guest_, host_);
    }

    void run(int steps)
    {
        for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
            host_.refuse = fakes_refuse_ && chance(10) ? static_cast<unsigned>(below(4)) : 0;
            step();
            check();
        }
    }

private:
    static constexpr std::uint64_t area = 8 * MIB;

    std::uint64_t below(std::uint64_t end) { return random_() % end; }
    bool chance(unsigned one_in) { return below(one_in) == 0; }
    [[nodiscard]] std::uint64_t host(std::uint64_t linear) const { return linear + config_.fold; }
    std::uint64_t any_linear()
    {
        // Mostly in a few places, so that things meet.
        const std::uint64_t place = chance(4) ? below(area) : below(4) * 2 * MIB + below(24) * page;
        return linear_ + (place & ~(page - 1));
    }

    void step()
    {
        switch (below(18)) {
        case 0: case 1: return map_page();
        case 2: return map_large();
        case 3: case 4: return change();
        case 5: return unmap();
        case 6: return flush();
        case 7: return flush_page();
        case 8: return decode();
        case 9: return reshape();
        default: return access();
        }
    }

    void remember(std::uint64_t linear, const Pte& pte)
    {
        if (pte.accessed) past_.push_back({linear, pte});
    }

    void remove(std::uint64_t begin, std::uint64_t end)
    {
        for (auto at = guest_.ptes.begin(); at != guest_.ptes.end();) {
            if (at->first < end && at->first + at->second.size > begin) {
                remember(at->first, at->second);
                at = guest_.ptes.erase(at);
            } else {
                ++at;
            }
        }
    }

    Pte any_pte()
    {
        Pte pte;
        pte.writable = !chance(4);
        pte.user = !chance(6);
        pte.global = chance(3);
        pte.accessed = chance(2);
        pte.dirty = pte.accessed && chance(2);
        return pte;
    }
    void map_page()
    {
        const std::uint64_t first = any_linear();
        const std::uint64_t count = 1 + below(12);
        Pte pte = any_pte();
        std::uint64_t gpa = below(18 * MIB / page) * page;
        for (std::uint64_t i = 0; i < count && first + i * page < linear_ + area; ++i) {
            remove(first + i * page, first + (i + 1) * page);
            pte.gpa = gpa;
            guest_.ptes[first + i * page] = pte;
            gpa += chance(4) ? 2 * page : page;
        }
    }
    void map_large()
    {
        const std::uint64_t first = linear_ + below(area / (2 * MIB)) * 2 * MIB;
        Pte pte = any_pte();
        pte.size = 2 * MIB;
        std::uint64_t gpa = below(9) * 2 * MIB;
        const std::uint64_t count = 1 + below(3);
        for (std::uint64_t at = first; at < std::min(first + count * 2 * MIB, linear_ + area);
             at += 2 * MIB, gpa += 2 * MIB) {
            remove(at, at + 2 * MIB);
            pte.gpa = gpa;
            guest_.ptes[at] = pte;
        }
    }
    // The same translations by entries of another size.
    void reshape()
    {
        const std::uint64_t first = linear_ + below(area / (2 * MIB)) * 2 * MIB;
        const auto found = guest_.entry(first);
        if (found == guest_.ptes.end() || found->first != first) return;
        Pte pte = found->second;
        if (pte.gpa % (2 * MIB) != 0) return;
        const bool large = pte.size == page;
        remove(first, first + 2 * MIB);
        pte.size = large ? 2 * MIB : page;
        const std::uint64_t gpa = pte.gpa;
        for (std::uint64_t at = 0; at < 2 * MIB; at += pte.size) {
            pte.gpa = gpa + at;
            guest_.ptes[first + at] = pte;
        }
    }
    void change()
    {
        const auto found = guest_.entry(any_linear());
        if (found == guest_.ptes.end()) return;
        Pte& pte = found->second;
        remember(found->first, pte);
        switch (below(5)) {
        case 0: pte.accessed = pte.dirty = false; break;
        case 1: pte.dirty = false; break;
        case 2: pte.writable = !pte.writable; break;
        case 3: pte.global = !pte.global; break;
        default: pte.user = !pte.user; break;
        }
    }
    void unmap()
    {
        const std::uint64_t first = any_linear();
        remove(first, first + (1 + below(20)) * page);
    }

    void flush()
    {
        const bool keep_global = !chance(3);
        std::erase_if(past_, [&](const Remembered& old) { return !keep_global || !old.pte.global; });
        window_->flush(keep_global);
    }
    void flush_page()
    {
        const std::uint64_t linear = any_linear() + below(page);
        std::erase_if(past_, [&](const Remembered& old) { return old.covers(linear); });
        window_->flush_page(linear);
    }

    // Code appears somewhere, often where the guest has just been.
    void decode()
    {
        const auto piece = guest_.ram(base::Gpa{below(12 * MIB / page) * page});
        if (!piece) return;
        guest_.code.insert(piece->offset);
        window_->protect(piece->offset + below(page));
    }

    [[nodiscard]] bool in_window(std::uint64_t address) const
    {
        return address >= config_.begin && address < config_.end &&
               !(address >= config_.holes[0].begin && address < config_.holes[0].end);
    }

    void access()
    {
        const std::uint64_t linear = any_linear() + below(page);
        const std::uint64_t address = host(linear);
        const bool write = chance(2);
        const auto shown = host_.at(address);
        if (shown && (shown->writable || !write)) return;

        const unsigned refusals = host_.refuse;
        auto result = window_->fill(address, write);
        if (result == Window::Fill::code) {
            const auto now = guest_.entry(linear);
            ASSERT_NE(now, guest_.ptes.end());
            const auto piece = guest_.ram(base::Gpa{now->second.gpa + (linear - now->first)});
            ASSERT_EQ(guest_.code.erase(piece->offset & ~(page - 1)), 1u);
            result = window_->fill(address, write);
        }
        // A second refusal is one more than trying again can stand.
        if (result == Window::Fill::unmappable && refusals - host_.refuse >= 2) return;
        ASSERT_EQ(result, expected(linear, write)) << std::hex << linear;
        if (result != Window::Fill::mapped) return;
        const auto now = guest_.entry(linear);
        const auto mapped = host_.at(address);
        ASSERT_TRUE(mapped && (mapped->writable || !write));
        EXPECT_EQ(mapped->ram, ram_of(now->first, now->second, linear));
        EXPECT_TRUE(now->second.accessed && (!write || now->second.dirty));
    }
    Window::Fill expected(std::uint64_t linear, bool write)
    {
        if (!in_window(host(linear))) return Window::Fill::unmappable;
        const auto now = guest_.entry(linear);
        if (now == guest_.ptes.end() || (config_.user && !now->second.user) ||
            (write && !now->second.writable)) {
            return Window::Fill::fault;
        }
        const auto piece = guest_.ram(base::Gpa{now->second.gpa + (linear - now->first)});
        if (!piece) return Window::Fill::device;
        if (write && piece->read_only) return Window::Fill::unmappable;
        return Window::Fill::mapped;
    }
    std::uint64_t ram_of(std::uint64_t begin, const Pte& pte, std::uint64_t linear)
    {
        const auto piece = guest_.ram(base::Gpa{pte.gpa + ((linear & ~(page - 1)) - begin)});
        return piece ? piece->offset : ~0ull;
    }

    bool justifies(std::uint64_t begin, const Pte& pte, std::uint64_t linear,
                   const FakeHost::Page& shown)
    {
        return pte.accessed && (pte.user || !config_.user) &&
               ram_of(begin, pte, linear) == shown.ram &&
               (!shown.writable || (pte.writable && pte.dirty));
    }
    bool justified(std::uint64_t linear, const FakeHost::Page& shown)
    {
        const auto now = guest_.entry(linear);
        if (now != guest_.ptes.end() && justifies(now->first, now->second, linear, shown)) return true;
        for (const Remembered& old : past_) {
            if (old.covers(linear) && justifies(old.linear, old.pte, linear, shown)) return true;
        }
        return false;
    }

    void check()
    {
        for (const auto& [address, shown] : host_.pages) {
            ASSERT_TRUE(in_window(address)) << std::hex << address;
            ASSERT_TRUE(justified(address - config_.fold, shown)) << std::hex << address;
            ASSERT_FALSE(shown.writable && guest_.code.contains(shown.ram)) << std::hex << address;
            ASSERT_FALSE(shown.writable && shown.ram >= 12 * MIB) << "ROM";
        }
    }

    std::function<std::uint64_t()> random_;
    FakeGuest guest_;
    FakeHost host_;
    WindowConfig config_;
    std::uint64_t linear_ = 0;
    bool fakes_refuse_ = false;
    std::optional<Window> window_;
    std::vector<Remembered> past_;
};

}  // namespace doppel::engine::translate::test
