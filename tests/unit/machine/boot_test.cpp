#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "images.h"
#include "machine/boot/placer.h"

namespace doppel::machine::test {
namespace {

using boot::plan_boot;
using boot::Protocol;
using testing::HasSubstr;

std::string refusal(const boot::BootRequest& r)
{
    const auto plan = plan_boot(r);
    if (plan) return "accepted";
    EXPECT_EQ(plan.error().kind(), base::ErrorKind::usage);
    EXPECT_EQ(plan.error().text().find('\n'), std::string::npos);
    return plan.error().text();
}

template <typename T>
T value_at(const boot::BootPlan& plan, std::uint64_t at)
{
    for (const auto& segment : plan.segments) {
        const auto bytes = segment.bytes();
        if (at >= segment.start && at - segment.start + sizeof(T) <= bytes.size()) {
            return base::load_le<T>(bytes.data() + (at - segment.start));
        }
    }
    ADD_FAILURE() << "nothing at " << at;
    return {};
}

TEST(MemoryMap, SplitsAroundTheHole)
{
    const auto map = make_memory_map(std::uint64_t{4} << 30);
    std::uint64_t usable = 0, last = 0;
    for (const auto& range : map) {
        EXPECT_GE(range.start, last);
        last = range.end();
        if (range.type == MemoryType::usable) usable += range.size;
    }
    EXPECT_EQ(map.back().start, layout::high_ram_start);
    EXPECT_EQ(map.back().size, (std::uint64_t{4} << 30) - layout::low_ram_end_max);
    EXPECT_EQ(usable, (std::uint64_t{4} << 30) - (layout::MiB - layout::ebda_start));
}

TEST(MemoryMap, OneMebibyteHasNoExtendedMemory)
{
    for (const auto& range : make_memory_map(layout::minimum_ram)) {
        EXPECT_FALSE(range.type == MemoryType::usable && range.start >= layout::MiB);
    }
}

TEST(Placer, RefusesOverlapHolesAndWrapping)
{
    boot::Placer placer{make_memory_map(16 << 20)};
    EXPECT_TRUE(placer.reserve(0x100000, 0x1000, "a"));
    EXPECT_FALSE(placer.reserve(0x100fff, 1, "b"));
    EXPECT_TRUE(placer.reserve(0x101000, 0x1000, "b"));
    EXPECT_FALSE(placer.reserve(0x9f000, 0x2000, "c"));
    EXPECT_FALSE(placer.reserve(16 << 20, 1, "c"));
    EXPECT_FALSE(placer.reserve(0x200000, ~std::uint64_t{0}, "c"));
    EXPECT_FALSE(placer.reserve(~std::uint64_t{0}, 2, "c"));
    EXPECT_TRUE(placer.reserve(~std::uint64_t{0}, 0, "nothing"));
}

TEST(Placer, PlacesHighAndLow)
{
    boot::Placer placer{make_memory_map(16 << 20)};
    EXPECT_EQ(placer.place_high(0x1800, 0x1000, ~std::uint64_t{0}, "a"), 0xffe000u);
    EXPECT_EQ(placer.place_high(0x1000, 0x1000, ~std::uint64_t{0}, "b"), 0xffd000u);
    EXPECT_EQ(placer.place_high(0x1000, 0x1000, 0x200000, "c"), 0x1ff000u);
    EXPECT_EQ(placer.place_low(0x1000, 0x200000, 0x100001, 16 << 20, "d"), 0x200000u);
    EXPECT_EQ(placer.place_low(32 << 20, 1, 0, ~std::uint64_t{0}, "e"), std::nullopt);
    EXPECT_EQ(placer.place_high(~std::uint64_t{0}, 1, ~std::uint64_t{0}, "e"), std::nullopt);
}

TEST(Bzimage, EntersLongModeAsTheProtocolSays)
{
    const Bytes kernel = bzimage();
    const Bytes initrd(5000, std::byte{0x5a});
    auto r = request(kernel);
    r.initrd = initrd;
    const auto plan = plan_boot(r);
    ASSERT_TRUE(plan) << plan.error().text();
    EXPECT_EQ(plan->protocol, Protocol::linux64);
    EXPECT_EQ(plan->cpu.rip, 0x1000200u);
    EXPECT_EQ(plan->cpu.gpr[x86::RSI], layout::low::boot_params);
    EXPECT_TRUE(plan->cpu.code64());
    EXPECT_EQ(plan->cpu.rflags & x86::rflags::IF, 0u);
    EXPECT_EQ(plan->cpu.segments[x86::CS].selector, 0x10);
    EXPECT_EQ(plan->cpu.segments[x86::DS].selector, 0x18);
    EXPECT_EQ(plan->cpu.cr4, x86::cr4::PAE);

    const std::uint64_t params = layout::low::boot_params;
    EXPECT_EQ(value_at<std::uint8_t>(*plan, params + 0x210), 0xff);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, params + 0x202), 0x53726448u);
    EXPECT_EQ(value_at<std::uint64_t>(*plan, params + 0x70), layout::acpi_start);
    EXPECT_EQ(value_at<std::uint8_t>(*plan, params + 0x1e8), r.memory_map.size());
    EXPECT_EQ(value_at<std::uint32_t>(*plan, params + 0x21c), 5000u);
    const auto at = value_at<std::uint32_t>(*plan, params + 0x218);
    EXPECT_EQ(at % 4096, 0u);
    ASSERT_NE(segment_at(*plan, at), nullptr);
    EXPECT_EQ(segment_at(*plan, at)->bytes().size(), 5000u);
    EXPECT_EQ(text_at(*plan, value_at<std::uint32_t>(*plan, params + 0x228)), "console=ttyS0");

    // The page tables map the entry point onto itself.
    EXPECT_EQ(value_at<std::uint64_t>(*plan, layout::low::page_tables + 0x2000 + 8 * 8), 0x1000083u);
    EXPECT_EQ(value_at<std::uint64_t>(*plan, layout::low::gdt + 0x10), 0x00af9b000000ffffu);
}

TEST(Bzimage, EntersProtectedModeOfKernelsWithoutA64BitEntry)
{
    Bytes kernel = bzimage();
    put<std::uint16_t>(kernel, 0x236, 0);
    const auto plan = plan_boot(request(kernel));
    ASSERT_TRUE(plan) << plan.error().text();
    EXPECT_EQ(plan->protocol, Protocol::linux32);
    EXPECT_EQ(plan->cpu.rip, 0x1000000u);
    EXPECT_EQ(plan->cpu.gpr[x86::RSI], layout::low::boot_params);
    for (const auto reg : {x86::RBP, x86::RDI, x86::RBX}) EXPECT_EQ(plan->cpu.gpr[reg], 0u);
    EXPECT_EQ(plan->cpu.cr0 & (x86::cr0::PE | x86::cr0::PG), x86::cr0::PE);
    EXPECT_EQ(plan->cpu.rflags & x86::rflags::IF, 0u);
    EXPECT_EQ(plan->cpu.segments[x86::CS].selector, 0x10);
    EXPECT_TRUE(plan->cpu.segments[x86::CS].db());
    EXPECT_EQ(plan->cpu.segments[x86::SS].selector, 0x18);
    EXPECT_EQ(value_at<std::uint64_t>(*plan, layout::low::gdt + 0x10), 0x00cf9b000000ffffu);
}

TEST(Bzimage, MovesWhenItMustAndMay)
{
    const Bytes kernel = bzimage();
    const auto plan = plan_boot(request(kernel, 8 << 20));
    ASSERT_TRUE(plan) << plan.error().text();
    EXPECT_EQ(plan->cpu.rip, 0x200200u);

    Bytes fixed = kernel;
    put<std::uint8_t>(fixed, 0x234, 0);
    EXPECT_THAT(refusal(request(fixed, 8 << 20)), HasSubstr("--memory"));
    EXPECT_THAT(refusal(request(kernel, 1 << 20)), HasSubstr("--memory"));
}

TEST(Bzimage, RefusesWhatItCannotBoot)
{
    const Bytes good = bzimage();
    const auto broken = [&good](std::size_t at, auto value) {
        Bytes image = good;
        put(image, at, value);
        return image;
    };
    EXPECT_THAT(refusal(request(broken(0x206, std::uint16_t{0x20b}))), HasSubstr("boot protocol 2.11"));
    EXPECT_THAT(refusal(request(broken(0x211, std::uint8_t{0}))), HasSubstr("zImage"));
    EXPECT_THAT(refusal(request(broken(0x1f4, 0x10000000u))), HasSubstr("truncated"));
    EXPECT_THAT(refusal(request(broken(0x1f1, std::uint8_t{0xff}))), HasSubstr("truncated"));
    EXPECT_THAT(refusal(request(broken(0x260, 0xffffffffu))), HasSubstr("--memory"));
    EXPECT_THAT(refusal(request(broken(0x258, ~std::uint64_t{0}))), HasSubstr("accepted"));
    for (std::size_t size = 0; size < good.size(); size += size < 0x300 ? 1 : 97) {
        const Bytes cut{good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)};
        EXPECT_THAT(refusal(request(cut)), HasSubstr("--kernel 'kernel.img'")) << size;
    }
}

TEST(Bzimage, RefusesLongCommandLinesAndInitrds)
{
    const Bytes kernel = bzimage();
    auto r = request(kernel);
    r.cmdline.assign(2048, 'x');
    EXPECT_THAT(refusal(r), HasSubstr("--cmdline"));
    r.cmdline = std::string{"a\0b", 3};
    EXPECT_THAT(refusal(r), HasSubstr("--cmdline"));
    r.cmdline.clear();
    const Bytes big(63 << 20);
    r.initrd = big;
    EXPECT_THAT(refusal(r), HasSubstr("--initrd 'initrd.img'"));
    EXPECT_THAT(refusal(r), HasSubstr("--memory"));
    const Bytes empty;
    r.initrd = empty;
    EXPECT_TRUE(plan_boot(r));
}

TEST(Pvh, EntersProtectedModeWithStartInfo)
{
    const Bytes kernel = elf64();
    const Bytes initrd(100);
    auto r = request(kernel);
    r.initrd = initrd;
    const auto plan = plan_boot(r);
    ASSERT_TRUE(plan) << plan.error().text();
    EXPECT_EQ(plan->protocol, Protocol::pvh);
    EXPECT_EQ(plan->cpu.rip, 0x100010u);
    EXPECT_EQ(plan->cpu.cr0, x86::cr0::PE | x86::cr0::ET);
    EXPECT_EQ(plan->cpu.efer, 0u);
    const std::uint64_t info = plan->cpu.gpr[x86::RBX];
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info), 0x336ec578u);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 4), 1u);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 12), 1u);
    const auto module = value_at<std::uint64_t>(*plan, info + 16);
    EXPECT_EQ(value_at<std::uint64_t>(*plan, module + 8), 100u);
    EXPECT_EQ(text_at(*plan, value_at<std::uint64_t>(*plan, info + 24)), "console=ttyS0");
    EXPECT_EQ(value_at<std::uint64_t>(*plan, info + 32), layout::acpi_start);
    const auto map = value_at<std::uint64_t>(*plan, info + 40);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 48), r.memory_map.size());
    EXPECT_EQ(value_at<std::uint64_t>(*plan, map + 8), layout::ebda_start);
}

TEST(Pvh, RefusesDamagedImages)
{
    const Bytes good = elf64();
    const auto broken = [&good](std::size_t at, auto value) {
        Bytes image = good;
        put(image, at, value);
        return refusal(request(image));
    };
    EXPECT_THAT(refusal(request(elf64(false))), HasSubstr("64-bit ELF without a PVH note"));
    EXPECT_THAT(broken(18, std::uint16_t{183}), HasSubstr("machine type 183"));
    EXPECT_THAT(broken(32, ~std::uint64_t{0}), HasSubstr("truncated"));
    EXPECT_THAT(broken(72, ~std::uint64_t{0} - 5), HasSubstr("truncated"));
    EXPECT_THAT(broken(88, ~std::uint64_t{0} - 5), HasSubstr("impossible"));
    EXPECT_THAT(broken(88, std::uint64_t{0x9f000}), HasSubstr("none of its segments"));
    EXPECT_THAT(broken(104, std::uint64_t{0x800}), HasSubstr("impossible"));
    EXPECT_THAT(broken(104, std::uint64_t{1} << 40), HasSubstr("not all RAM"));
    EXPECT_THAT(broken(56, std::uint16_t{0}), HasSubstr("program headers"));
    EXPECT_THAT(broken(0x210, 0xdeadbeefu), HasSubstr("entry point"));
    EXPECT_THAT(refusal(request(elf64(true, layout::low::boot_info - 0x1000))), HasSubstr("overlaps"));
    for (std::size_t size = 0; size < good.size(); size += 13) {
        const Bytes cut{good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)};
        EXPECT_THAT(refusal(request(cut)), HasSubstr("--kernel")) << size;
    }
}

TEST(Multiboot, LoadsElf32WithEverythingValidEvenWhenEmpty)
{
    const Bytes kernel = elf32();
    auto r = request(kernel);
    r.cmdline.clear();
    const auto plan = plan_boot(r);
    ASSERT_TRUE(plan) << plan.error().text();
    EXPECT_EQ(plan->protocol, Protocol::multiboot);
    EXPECT_EQ(plan->cpu.rip, 0x100020u);
    EXPECT_EQ(plan->cpu.gpr[x86::RAX], 0x2badb002u);
    const std::uint64_t info = plan->cpu.gpr[x86::RBX];
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info), 0x24du);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 4), 639u);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 8), 63u * 1024);
    EXPECT_EQ(text_at(*plan, value_at<std::uint32_t>(*plan, info + 16)), "kernel.img");
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 20), 0u);
    EXPECT_NE(value_at<std::uint32_t>(*plan, info + 24), 0u);
    EXPECT_EQ(text_at(*plan, value_at<std::uint32_t>(*plan, info + 64)), "doppel");
    const auto map = value_at<std::uint32_t>(*plan, info + 48);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 44), r.memory_map.size() * 24);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, map), 20u);
    EXPECT_EQ(value_at<std::uint64_t>(*plan, map + 12), layout::ebda_start);
}

TEST(Multiboot, GivesTheInitrdAsModule)
{
    const Bytes kernel = elf32();
    const Bytes initrd(100, std::byte{1});
    auto r = request(kernel);
    r.initrd = initrd;
    const auto plan = plan_boot(r);
    ASSERT_TRUE(plan) << plan.error().text();
    const std::uint64_t info = plan->cpu.gpr[x86::RBX];
    EXPECT_EQ(text_at(*plan, value_at<std::uint32_t>(*plan, info + 16)), "kernel.img console=ttyS0");
    EXPECT_EQ(value_at<std::uint32_t>(*plan, info + 20), 1u);
    const auto module = value_at<std::uint32_t>(*plan, info + 24);
    const auto start = value_at<std::uint32_t>(*plan, module);
    EXPECT_EQ(start, 0x103000u);
    EXPECT_EQ(value_at<std::uint32_t>(*plan, module + 4), start + 100);
    EXPECT_EQ(text_at(*plan, value_at<std::uint32_t>(*plan, module + 8)), "initrd.img");
    ASSERT_NE(segment_at(*plan, start), nullptr);
}

TEST(Multiboot, LoadsAoutKludge)
{
    const Bytes kernel = aout();
    const auto plan = plan_boot(request(kernel));
    ASSERT_TRUE(plan) << plan.error().text();
    EXPECT_EQ(plan->cpu.rip, 0x100080u);
    ASSERT_NE(segment_at(*plan, 0x100000), nullptr);
    EXPECT_EQ(segment_at(*plan, 0x100000)->bytes().size(), kernel.size());
}

TEST(Multiboot, RefusesWhatItCannotBoot)
{
    Bytes video = elf32();
    put_multiboot_header(video, 0x1000, 7);
    EXPECT_THAT(refusal(request(video)), HasSubstr("video mode"));
    Bytes unknown = elf32();
    put_multiboot_header(unknown, 0x1000, 0x103);
    EXPECT_THAT(refusal(request(unknown)), HasSubstr("0x100"));
    Bytes plain = elf32();
    put<std::uint32_t>(plain, 0x1008, 1);
    EXPECT_THAT(refusal(request(plain)), HasSubstr("32-bit ELF without"));
    const auto broken = [](std::size_t at, std::uint32_t value) {
        Bytes image = aout();
        put(image, at, value);
        return refusal(request(image));
    };
    EXPECT_THAT(broken(0x40 + 12, 0x10), HasSubstr("load address"));
    EXPECT_THAT(broken(0x40 + 16, 0), HasSubstr("load address"));
    EXPECT_THAT(broken(0x40 + 20, 0x1000), HasSubstr("load end"));
    EXPECT_THAT(broken(0x40 + 20, 0x110000), HasSubstr("truncated"));
    EXPECT_THAT(broken(0x40 + 24, 0x100001), HasSubstr("bss"));
    EXPECT_THAT(broken(0x40 + 24, 0xffffffff), HasSubstr("not all RAM"));
    EXPECT_THAT(broken(0x40 + 28, 0x90000), HasSubstr("entry point"));
}

TEST(Boot, NamesWhatItFound)
{
    EXPECT_THAT(refusal(request({})), HasSubstr("empty"));
    const Bytes text(10000, std::byte{'a'});
    EXPECT_THAT(refusal(request(text)), HasSubstr("neither a bzImage"));
}

TEST(Boot, LoadsAPlanIntoMemory)
{
    auto memory = memory::GuestMemory::create(64 << 20);
    ASSERT_TRUE(memory);
    ASSERT_TRUE((*memory)->add_slot(base::Gpa{0}, 64 << 20, 0));
    const Bytes kernel = bzimage();
    const auto plan = plan_boot(request(kernel));
    ASSERT_TRUE(plan);
    ASSERT_TRUE(boot::load(*plan, **memory));
    std::uint8_t opcode = 0;
    ASSERT_TRUE((*memory)->read_value(base::Gpa{plan->cpu.rip}, opcode));
    EXPECT_EQ(opcode, 0xf4);
}

}  // namespace
}  // namespace doppel::machine::test
