#include "engine/translate/space/window.h"

#include <gtest/gtest.h>

#include "window_fakes.h"

namespace doppel::engine::translate::test {
namespace {

using Fill = Window::Fill;

class WindowTest : public testing::Test {
protected:
    static constexpr std::uint64_t fold = 0x10000000;

    static WindowConfig default_config()
    {
        WindowConfig config;
        config.user = true;
        config.fold = fold;
        config.begin = fold + page;
        config.end = 0x7000000000;
        config.holes = {{fold + 64 * MIB, fold + 65 * MIB}};
        return config;
    }
    void make(const WindowConfig& config) { window_.emplace(config, guest, host); }
    Window& window()
    {
        if (!window_) make(default_config());
        return *window_;
    }
    // Guest-linear addresses here and below.
    Fill read(std::uint64_t linear) { return window().fill(linear + fold, false); }
    Fill write(std::uint64_t linear) { return window().fill(linear + fold, true); }
    bool readable(std::uint64_t linear) const { return host.readable(linear + fold); }
    bool writable(std::uint64_t linear) const { return host.writable(linear + fold); }
    std::uint64_t ram_at(std::uint64_t linear) const { return host.at(linear + fold)->ram; }

    FakeGuest guest;
    FakeHost host;

private:
    std::optional<Window> window_;
};

TEST_F(WindowTest, CleanPageIsReadOnlyUntilItIsWritten)
{
    guest.ptes[0x5000] = {.gpa = 0x9000};
    EXPECT_EQ(read(0x5123), Fill::mapped);
    EXPECT_TRUE(guest.ptes[0x5000].accessed);
    EXPECT_FALSE(guest.ptes[0x5000].dirty);
    EXPECT_EQ(ram_at(0x5000), 0x9000u);
    EXPECT_FALSE(writable(0x5000));

    EXPECT_EQ(write(0x5123), Fill::mapped);
    EXPECT_TRUE(guest.ptes[0x5000].dirty);
    EXPECT_TRUE(writable(0x5000));
    EXPECT_EQ(window().counters().upgrades, 1u);
    EXPECT_EQ(window().mappings(), 1u);
}

TEST_F(WindowTest, TellsTheGuestsFault)
{
    guest.ptes[0x5000] = {.gpa = 0x9000, .writable = false};
    EXPECT_EQ(write(0x5123), Fill::fault);
    EXPECT_EQ(window().fault(), x86::make_page_fault(
        x86::page_fault::P | x86::page_fault::W | x86::page_fault::U, 0x5123));
    EXPECT_EQ(read(0x6000), Fill::fault);
    EXPECT_EQ(window().fault(), x86::make_page_fault(x86::page_fault::U, 0x6000));
    EXPECT_EQ(host.maps, 0u);
}

TEST_F(WindowTest, WhatCannotBeShown)
{
    guest.slots = {{0, MIB, 0}, {4 * GIB - 64 * KIB, 64 * KIB, MIB, true}};
    guest.ptes[0x5000] = {.gpa = 0xfee00000};
    guest.ptes[0x6000] = {.gpa = 4 * GIB - page};
    guest.ptes[0] = {.gpa = 0};
    guest.ptes[64 * MIB] = {.gpa = 0};
    EXPECT_EQ(read(0x5000), Fill::device);
    EXPECT_EQ(read(0x6000), Fill::mapped);
    EXPECT_EQ(write(0x6000), Fill::unmappable);
    EXPECT_FALSE(writable(0x6000));
    EXPECT_EQ(read(0), Fill::unmappable) << "below the window";
    EXPECT_EQ(read(64 * MIB), Fill::unmappable) << "in the hole";
    EXPECT_EQ(window().fill(0x7000000000, false), Fill::unmappable) << "above the window";
}

TEST_F(WindowTest, NonCanonicalAddress)
{
    auto config = default_config();
    config.fold = 0x7fffffe00000;
    config.begin = 0x1000;
    config.end = 0x800000000000;
    make(config);
    EXPECT_EQ(window().fill(0x7fffffe01000, false), Fill::fault);
    EXPECT_EQ(window().fault().address, 0x1000u);
    EXPECT_EQ(window().fill(0x7fffffdff000, false), Fill::fault);
    EXPECT_EQ(window().fault().address, 0xfffffffffffff000u);
    EXPECT_EQ(window().linear(0x7fffffdff123), 0xfffffffffffff123u);

    config.fold = 0x1000;
    config.begin = 0;
    make(config);
    EXPECT_EQ(window().fill(0x7fffffffffff, false), Fill::fault);
    config.fold = 0x100000000;
    make(config);
    EXPECT_EQ(window().fill(0xffffffff, false), Fill::fault);
    config.fold = 0 - 0x1000ull;
    make(config);
    EXPECT_EQ(window().fill(0x7fffffffffff, false), Fill::unmappable);
}

TEST_F(WindowTest, CodePagesAreReadOnly)
{
    guest.ptes[0x5000] = {.gpa = 0x9000, .dirty = true};
    guest.code.insert(0x9000);
    EXPECT_EQ(read(0x5000), Fill::mapped);
    EXPECT_FALSE(writable(0x5000));
    EXPECT_EQ(write(0x5000), Fill::code);
    guest.code.clear();
    EXPECT_EQ(write(0x5000), Fill::mapped);
    EXPECT_TRUE(writable(0x5000));

    guest.code.insert(0x9000);
    window().protect(0x9123);
    EXPECT_FALSE(writable(0x5000));
    EXPECT_EQ(host.protects, 1u);
    window().protect(0x9000);
    EXPECT_EQ(host.protects, 1u);
    EXPECT_EQ(write(0x5000), Fill::code);
    guest.code.clear();
    EXPECT_EQ(write(0x5000), Fill::mapped);
    EXPECT_TRUE(writable(0x5000));
    EXPECT_EQ(host.protects, 2u);
}

TEST_F(WindowTest, ProtectFindsEveryView)
{
    for (std::uint64_t i = 0; i < 5; ++i) {
        guest.ptes[0x100000 * (i + 1)] = {.gpa = 0x9000, .accessed = true, .dirty = true};
        EXPECT_EQ(write(0x100000 * (i + 1)), Fill::mapped);
    }
    guest.ptes[256 * MIB] = {.gpa = 0, .size = 2 * MIB};
    EXPECT_EQ(write(256 * MIB), Fill::mapped);
    guest.code.insert(0x9000);
    window().protect(0x9000);
    for (std::uint64_t i = 0; i < 5; ++i) EXPECT_FALSE(writable(0x100000 * (i + 1)));
    EXPECT_FALSE(writable(256 * MIB + 0x9000));
    EXPECT_TRUE(writable(256 * MIB + 0xa000));
}

class DirectMap : public WindowTest {
protected:
    static constexpr std::uint64_t base = 4 * GIB;

    void SetUp() override
    {
        guest.slots = {{0, 512 * MIB, 0}, {4 * GIB, 256 * MIB, 512 * MIB}};
        for (std::uint64_t at = 0; at < 512 * MIB; at += 2 * MIB) leaf(at);
        for (std::uint64_t at = 4 * GIB; at < 4 * GIB + 256 * MIB; at += 2 * MIB) leaf(at);
    }
    void leaf(std::uint64_t gpa)
    {
        guest.ptes[base + gpa] = {.gpa = gpa, .size = 2 * MIB, .global = true, .accessed = true,
                                  .dirty = true};
    }
};

TEST_F(DirectMap, IsOneMappingPerSlot)
{
    guest.code = {0x5000, 0x6000, 0x9000, 512 * MIB + 0x3000};
    EXPECT_EQ(read(base + 100 * MIB + 0x123), Fill::mapped);
    EXPECT_EQ(host.maps, 1u);
    EXPECT_EQ(host.pages.size(), 512 * MIB / page);
    EXPECT_EQ(host.protects, 2u);
    EXPECT_FALSE(writable(base + 0x6000));
    EXPECT_TRUE(writable(base + 0x7000));
    EXPECT_EQ(window().mappings(), 7u);
    EXPECT_EQ(write(base + 4 * GIB + 3 * MIB), Fill::mapped);
    EXPECT_EQ(host.maps, 2u);
    EXPECT_EQ(ram_at(base + 4 * GIB + 3 * MIB), 515 * MIB);
    EXPECT_FALSE(writable(base + 4 * GIB + 0x3000));

    guest.probes = 0;
    window().flush(true);
    EXPECT_EQ(guest.probes, 0u) << "global";
    window().flush(false);
    EXPECT_EQ(guest.probes, 256u + 128u) << "one for each leaf";
    EXPECT_EQ(host.unmaps, 0u);
}

TEST_F(DirectMap, OnlyTheChangedLeafGoes)
{
    EXPECT_EQ(read(base), Fill::mapped);
    guest.ptes[base + 10 * MIB].writable = false;
    window().flush_page(base + 12 * MIB);
    EXPECT_TRUE(writable(base + 10 * MIB));
    window().flush_page(base + 11 * MIB);
    EXPECT_FALSE(readable(base + 10 * MIB));
    EXPECT_FALSE(readable(base + 12 * MIB - page));
    EXPECT_TRUE(writable(base + 12 * MIB));
    EXPECT_TRUE(writable(base + 10 * MIB - page));
    EXPECT_EQ(window().mappings(), 2u);

    // Only the gap is mapped again, and joins what is around it when it is the same.
    EXPECT_EQ(read(base + 10 * MIB), Fill::mapped);
    EXPECT_FALSE(writable(base + 10 * MIB));
    EXPECT_EQ(window().mappings(), 3u);
    guest.ptes[base + 10 * MIB].writable = true;
    EXPECT_EQ(write(base + 10 * MIB), Fill::mapped);
    EXPECT_EQ(window().mappings(), 1u);
}

TEST_F(DirectMap, CleanLeavesBecomeWritableOneByOne)
{
    for (auto& [linear, pte] : guest.ptes) pte.dirty = false;
    EXPECT_EQ(read(base), Fill::mapped);
    EXPECT_EQ(host.maps, 1u);
    EXPECT_EQ(write(base + 6 * MIB), Fill::mapped);
    EXPECT_EQ(host.maps, 2u);
    EXPECT_TRUE(writable(base + 8 * MIB - page));
    EXPECT_FALSE(writable(base + 8 * MIB));
    EXPECT_TRUE(readable(base + 8 * MIB));
    EXPECT_EQ(window().mappings(), 3u);
    EXPECT_EQ(write(base + 8 * MIB), Fill::mapped);
    EXPECT_EQ(window().mappings(), 3u);
}

TEST_F(DirectMap, LeafOverTheEndOfASlot)
{
    guest.slots = {{0, 640 * KIB, 0}, {MIB, 63 * MIB, MIB}};
    guest.ptes.clear();
    guest.ptes[base] = {.gpa = 0, .size = GIB, .global = true, .accessed = true, .dirty = true};
    EXPECT_EQ(read(base + 0x5000), Fill::mapped);
    EXPECT_EQ(host.pages.size(), 640 * KIB / page);
    EXPECT_EQ(read(base + 700 * KIB), Fill::device);
    EXPECT_EQ(read(base + 2 * MIB), Fill::mapped);
    EXPECT_EQ(ram_at(base + MIB), MIB);
    EXPECT_EQ(host.pages.size(), (640 * KIB + 63 * MIB) / page);

    // A flush of any byte of the leaf is one of all of it.
    guest.ptes[base].writable = false;
    window().flush_page(base + 700 * KIB);
    EXPECT_TRUE(host.pages.empty());
    EXPECT_EQ(window().mappings(), 0u);
}

TEST_F(DirectMap, TooMuchCodeForALargeRun)
{
    auto config = default_config();
    config.mappings_max = 40;
    make(config);
    for (std::uint64_t i = 0; i < 100; ++i) guest.code.insert(i * 2 * page);
    EXPECT_EQ(read(base + 0x7123), Fill::mapped);
    EXPECT_TRUE(writable(base + 0x7000));
    EXPECT_EQ(read(base + 0x8000), Fill::mapped);
    EXPECT_FALSE(writable(base + 0x8000));
    EXPECT_EQ(host.pages.size(), 2u);
    guest.ptes.clear();
    window().flush_page(base + MIB);
    EXPECT_TRUE(host.pages.empty());
}

TEST_F(WindowTest, NeighboursComeAlong)
{
    for (std::uint64_t i = 0; i < 64; ++i) {
        guest.ptes[MIB + i * page] = {.gpa = 2 * MIB + i * page, .accessed = true, .dirty = true};
    }
    guest.ptes[MIB + 30 * page].accessed = false;
    EXPECT_EQ(read(MIB + 32 * page), Fill::mapped);
    EXPECT_EQ(host.maps, 2u);
    EXPECT_EQ(host.pages.size(), 1 + 16 + 15u);
    EXPECT_FALSE(readable(MIB + 30 * page)) << "not accessed: it may not be remembered";
    EXPECT_TRUE(writable(MIB + 48 * page));
    EXPECT_FALSE(readable(MIB + 49 * page));

    // Those that are mapped are neither looked at nor mapped again.
    guest.probes = 0;
    EXPECT_EQ(read(MIB + 30 * page), Fill::mapped);
    EXPECT_EQ(guest.probes, 2u);
    EXPECT_EQ(host.pages.size(), 1 + 16 + 18u);
}

TEST_F(WindowTest, ScatteredNeighboursAreFew)
{
    for (std::uint64_t i = 0; i < 64; ++i) {
        guest.ptes[MIB + i * page] = {.gpa = 2 * MIB + (i * 37 % 64) * page, .accessed = true};
    }
    EXPECT_EQ(read(MIB + 32 * page), Fill::mapped);
    EXPECT_EQ(host.maps, 8u);
    EXPECT_TRUE(readable(MIB + 33 * page) && readable(MIB + 31 * page));
    EXPECT_EQ(ram_at(MIB + 33 * page), 2 * MIB + (33 * 37 % 64) * page);
}

TEST_F(WindowTest, FlushKeepsWhatIsStillTrue)
{
    for (std::uint64_t i = 0; i < 8; ++i) {
        guest.ptes[(i + 1) * MIB] = {.gpa = (i + 1) * MIB, .global = i == 7};
        EXPECT_EQ(write((i + 1) * MIB), Fill::mapped);
    }
    guest.ptes[1 * MIB].gpa = 100 * MIB;
    guest.ptes[2 * MIB].writable = false;
    guest.ptes[3 * MIB].dirty = false;
    guest.ptes[4 * MIB].accessed = false;
    guest.ptes[5 * MIB].user = false;
    guest.ptes.erase(6 * MIB);
    guest.ptes.erase(8 * MIB);
    window().flush(true);
    EXPECT_EQ(window().counters().revalidated, 1u);
    EXPECT_EQ(window().counters().dropped, 6u);
    EXPECT_EQ(host.unmaps, 1u) << "nothing lives between them";
    EXPECT_EQ(host.pages.size(), 2u);
    EXPECT_TRUE(writable(7 * MIB) && writable(8 * MIB));
    window().flush(false);
    EXPECT_EQ(host.pages.size(), 1u);
}

TEST_F(WindowTest, PageThatBecameLargeIsNotTheOldOne)
{
    for (std::uint64_t i = 0; i < 512; ++i) {
        guest.ptes[2 * MIB + i * page] = {.gpa = 2 * MIB + i * page, .accessed = true};
    }
    EXPECT_EQ(read(2 * MIB), Fill::mapped);
    guest.ptes.clear();
    guest.ptes[2 * MIB] = {.gpa = 2 * MIB, .size = 2 * MIB, .accessed = true};
    window().flush_page(2 * MIB);
    EXPECT_FALSE(readable(2 * MIB));
    EXPECT_TRUE(readable(2 * MIB + page)) << "not flushed";
    EXPECT_EQ(read(2 * MIB), Fill::mapped);
    EXPECT_EQ(host.pages.size(), 512u);
    EXPECT_EQ(window().mappings(), 1u);

    guest.ptes.clear();
    guest.ptes[3 * MIB] = {.gpa = 3 * MIB, .accessed = true};
    EXPECT_EQ(read(3 * MIB), Fill::mapped);
    EXPECT_EQ(host.pages.size(), 1u) << "the large leaf goes as a whole";
}

TEST_F(WindowTest, TooManyMappingsStartOver)
{
    auto config = default_config();
    config.mappings_max = 100;
    make(config);
    for (std::uint64_t i = 1; i <= 250; ++i) {
        guest.ptes[65 * MIB + i * MIB] = {.gpa = i * MIB};
        EXPECT_EQ(read(65 * MIB + i * MIB), Fill::mapped);
        EXPECT_LE(window().mappings(), 101u);
    }
    EXPECT_EQ(window().counters().overflows, 2u);
}

TEST_F(WindowTest, TheHostRefuses)
{
    guest.ptes[0x5000] = {.gpa = 0x5000};
    guest.ptes[MIB] = {.gpa = MIB};
    EXPECT_EQ(read(0x5000), Fill::mapped);
    host.refuse = 1;
    EXPECT_EQ(read(MIB), Fill::mapped) << "after everything else was dropped";
    EXPECT_FALSE(readable(0x5000));
    EXPECT_TRUE(readable(MIB));
    host.refuse = 100;
    EXPECT_EQ(read(0x5000), Fill::unmappable);
    host.refuse = 0;
    EXPECT_EQ(read(0x5000), Fill::mapped);

    // A mapping that cannot be made read-only goes.
    EXPECT_EQ(write(MIB), Fill::mapped);
    host.refuse = 1;
    guest.code.insert(MIB);
    window().protect(MIB);
    EXPECT_FALSE(readable(MIB));
    EXPECT_TRUE(readable(0x5000));
}

TEST_F(WindowTest, Clear)
{
    guest.ptes[0x5000] = {.gpa = 0x5000};
    EXPECT_EQ(read(0x5000), Fill::mapped);
    window().clear(true);
    EXPECT_TRUE(host.pages.empty());
    EXPECT_EQ(read(0x5000), Fill::mapped);
    host.unmaps = 0;
    window().clear(false);
    EXPECT_EQ(host.unmaps, 0u);
    EXPECT_EQ(window().mappings(), 0u);
}

}  // namespace
}  // namespace doppel::engine::translate::test
