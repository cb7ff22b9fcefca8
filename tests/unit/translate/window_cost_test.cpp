// What the window itself costs, with a guest and a host that cost nothing. Prints; run with
// --gtest_also_run_disabled_tests.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>

#include "engine/translate/space/window.h"

namespace doppel::engine::translate {
namespace {

constexpr std::uint64_t page = 4096;

// 4 KiB pages, each two pages away from its neighbour in RAM; `spread` pages apart, so that
// neighbours are looked at or not there.
class CheapGuest final : public GuestPages {
public:
    explicit CheapGuest(std::uint64_t spread) : spread_(spread) {}
    x86::WalkResult walk(std::uint64_t linear, x86::Access, bool) noexcept override
    {
        if ((linear / page) % spread_ != 0) return x86::make_page_fault(0, linear);
        x86::Translation translation;
        translation.gpa = base::Gpa{(linear / page * 2 * page) + linear % page};
        translation.page_size = page;
        translation.user = translation.writable = translation.dirty = translation.accessed = true;
        return translation;
    }
    x86::WalkResult probe(std::uint64_t linear, x86::Access access, bool user) noexcept override
    {
        return walk(linear, access, user);
    }
    std::optional<RamPiece> ram(base::Gpa gpa) noexcept override
    {
        return RamPiece{gpa.value, (std::uint64_t{1} << 40) - gpa.value, false};
    }
    bool holds_code(std::uint64_t) noexcept override { return false; }

private:
    std::uint64_t spread_;
};

class CheapHost final : public HostMapper {
public:
    bool map(std::uint64_t, std::uint64_t, std::uint64_t, bool) noexcept override { return true; }
    bool unmap(std::uint64_t, std::uint64_t) noexcept override { return true; }
    bool protect(std::uint64_t, std::uint64_t, bool) noexcept override { return true; }
};

template <typename Work>
double nanoseconds(Work&& work, unsigned count)
{
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    return spent.count() / count;
}

void measure(const char* name, std::uint64_t spread, unsigned fills)
{
    CheapGuest guest{spread};
    CheapHost host;
    WindowConfig config;
    config.begin = page;
    config.end = std::uint64_t{1} << 46;
    Window window{config, guest, host};
    for (unsigned i = 1; i <= fills; ++i) window.fill(i * 64 * page, false);
    window.clear(true);  // the heap is warm now
    const double fill = nanoseconds([&] {
        for (unsigned i = 1; i <= fills; ++i) window.fill(i * 64 * page, (i & 1) != 0);
    }, fills);
    const auto entries = static_cast<unsigned>(window.mappings());
    const double flush = nanoseconds([&] {
        for (int i = 0; i < 20; ++i) window.flush(true);
    }, 20 * entries);
    const double flush_page = nanoseconds([&] {
        for (unsigned i = 1; i <= fills; ++i) window.flush_page(i * 64 * page);
    }, fills);
    const double protect = nanoseconds([&] {
        for (unsigned i = 1; i <= fills; ++i) window.protect(i * 128 * page);
    }, fills);
    const double lift = nanoseconds([&] {
        for (unsigned i = 1; i <= fills; ++i) window.fill(i * 64 * page, true);
    }, fills);
    std::printf("%-22s %6u entries: fill %.0f ns, flush %.1f ns an entry, flush_page %.0f ns, "
                "protect %.0f ns, lift %.0f ns\n",
                name, entries, fill, flush, flush_page, protect, lift);
}

TEST(WindowCost, DISABLED_Print)
{
    measure("alone", 64, 5000);
    measure("scattered neighbours", 1, 625);
}

}  // namespace
}  // namespace doppel::engine::translate
