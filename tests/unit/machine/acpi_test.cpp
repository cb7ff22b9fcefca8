#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/bytes.h"
#include "machine/acpi/aml.h"
#include "machine/acpi/tables.h"
#include "machine/layout.h"

namespace doppel::machine::acpi {
namespace {

unsigned sum(std::span<const std::byte> bytes)
{
    return std::accumulate(bytes.begin(), bytes.end(), 0u, [](unsigned s, std::byte b) {
               return s + std::to_integer<unsigned>(b);
           }) & 0xff;
}

aml::Bytes raw(std::initializer_list<unsigned> values)
{
    aml::Bytes out;
    for (const unsigned value : values) out.push_back(static_cast<std::byte>(value));
    return out;
}

TEST(Aml, EncodesIntegersShortest)
{
    EXPECT_EQ(aml::integer(0), raw({0}));
    EXPECT_EQ(aml::integer(1), raw({1}));
    EXPECT_EQ(aml::integer(0xff), raw({0x0a, 0xff}));
    EXPECT_EQ(aml::integer(0x100), raw({0x0b, 0, 1}));
    EXPECT_EQ(aml::integer(0x10000), raw({0x0c, 0, 0, 1, 0}));
    EXPECT_EQ(aml::integer(std::uint64_t{1} << 32), raw({0x0e, 0, 0, 0, 0, 1, 0, 0, 0}));
}

TEST(Aml, EncodesNames)
{
    EXPECT_EQ(aml::path("\\_SB"), raw({'\\', '_', 'S', 'B', '_'}));
    EXPECT_EQ(aml::path("A.B"), raw({0x2e, 'A', '_', '_', '_', 'B', '_', '_', '_'}));
    EXPECT_EQ(aml::path("A.B.CDEF").front(), std::byte{0x2f});
    EXPECT_EQ(aml::path("\\"), raw({'\\', 0}));
    EXPECT_EQ(aml::eisa_id("PNP0A03"), raw({0x0c, 0x41, 0xd0, 0x0a, 0x03}));
}

TEST(Aml, PackageLengthsGrow)
{
    // 1 + n bytes, PkgLength and 62 + 1 bytes of content: the first two-byte length.
    EXPECT_EQ(aml::buffer(aml::Bytes(10))[1], std::byte{13});
    const auto larger = aml::buffer(aml::Bytes(61));
    EXPECT_EQ(larger[1], std::byte{0x41});
    EXPECT_EQ(larger[2], std::byte{0x04});
    EXPECT_EQ(larger.size(), 66u);
    const auto large = aml::buffer(aml::Bytes(0x1000));
    EXPECT_EQ(std::to_integer<unsigned>(large[1]) >> 6, 2u);
}

TEST(AcpiTables, EveryChecksumIsZero)
{
    const auto set = make_tables({1, true, 0}, layout::acpi_start);
    EXPECT_EQ(sum(std::span{set.bytes}.first(20)), 0u);
    EXPECT_EQ(sum(std::span{set.bytes}.first(rsdp_size)), 0u);
    for (const auto& table : set.tables) {
        const auto bytes = std::span{set.bytes}.subspan(table.offset, table.size);
        EXPECT_EQ(base::load_le<std::uint32_t>(bytes.data() + 4), bytes.size()) << table.signature;
        EXPECT_EQ((set.start + table.offset) % 64, 0u);
        if (table.signature != "FACS") {
            EXPECT_EQ(sum(bytes), 0u) << table.signature;
        }
    }
}

TEST(AcpiTables, PointersLeadFromTheRsdpToTheDsdt)
{
    const auto set = make_tables({1, false, 0}, layout::acpi_start);
    const auto at = [&set](std::uint64_t gpa) { return set.bytes.data() + (gpa - set.start); };
    const auto xsdt = base::load_le<std::uint64_t>(set.bytes.data() + 24);
    EXPECT_EQ(base::load_le<std::uint32_t>(at(xsdt)), 0x54445358u);
    const auto fadt = base::load_le<std::uint64_t>(at(xsdt + 36));
    EXPECT_EQ(base::load_le<std::uint32_t>(at(fadt)), 0x50434146u);
    const auto dsdt = base::load_le<std::uint64_t>(at(fadt + 140));
    EXPECT_EQ(dsdt, base::load_le<std::uint32_t>(at(fadt + 40)));
    EXPECT_EQ(base::load_le<std::uint32_t>(at(dsdt)), 0x54445344u);
    // RESET_REG at 116, its value at 128.
    EXPECT_EQ(base::load_le<std::uint64_t>(at(fadt + 120)), 0xcf9u);
    EXPECT_EQ(base::load_le<std::uint8_t>(at(fadt + 128)), 6u);
}

TEST(AcpiTables, MadtListsEveryProcessor)
{
    EXPECT_EQ(make_madt({4, false, 0}).size() - make_madt({1, false, 0}).size(), 24u);
    EXPECT_EQ(make_madt({257, false, 0}).size() - make_madt({255, false, 0}).size(), 32u);
}

// Every term the writer knows, in one table of a test's own.
std::vector<std::byte> exercise_table()
{
    using namespace aml;
    const Bytes body = concat({
        operation_region("\\REGN", RegionSpace::system_io, 0x600, 0x10),
        field("\\REGN", FieldAccess::byte, {{"FLDA", 8}, {"", 72}, {"FLDB", 4}}),
        name("\\TEXT", string("text")),
        device("\\_SB.DEV0",
               {name("_HID", eisa_id("PNP0C02")),
                method("MTH0", 2,
                       {store(argument(0), local(0)),
                        if_true(equal(local(0), integer(5)),
                                {return_value(bit_and(local(0), integer(1), no_target()))}),
                        otherwise({return_value(bit_or(local(0), argument(1), no_target()))})})}),
    });
    return make_table("SSDT", 2, body);
}

TEST(AcpiTables, IaslAcceptsEveryTable)
{
    if (std::system("command -v iasl >/dev/null 2>&1") != 0) GTEST_SKIP() << "iasl is not installed";
    std::string folder = (std::filesystem::temp_directory_path() / "doppel-acpi-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    const auto accepts = [&folder](const std::string& table, std::span<const std::byte> bytes) {
        const std::string file = folder + "/" + table;
        std::ofstream{file + ".aml", std::ios::binary}.write(
            reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        const std::string decompile = "iasl -p " + file + " -d " + file + ".aml >" + file + ".log 2>&1";
        const std::string compile = "iasl -p " + file + ".again " + file + ".dsl >>" + file + ".log 2>&1";
        const bool good = std::system(decompile.c_str()) == 0 && std::system(compile.c_str()) == 0;
        std::ifstream log{file + ".log"};
        const std::string text{std::istreambuf_iterator<char>{log}, {}};
        EXPECT_TRUE(good) << table << ":\n" << text;
        for (const char* complaint : {"Warning", "Error", "invalid", "Invalid"}) {
            if (text.find(std::string{complaint} + "s, ") != std::string::npos &&
                text.find(std::string{"0 "} + complaint) != std::string::npos) {
                continue;
            }
            EXPECT_EQ(text.find(complaint), std::string::npos) << table << ":\n" << text;
        }
    };
    const auto set = make_tables({2, true, 5 * layout::GiB}, layout::acpi_start);
    for (const auto& table : set.tables) {
        accepts(table.signature, std::span{set.bytes}.subspan(table.offset, table.size));
    }
    accepts("SSDT", exercise_table());
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace doppel::machine::acpi
