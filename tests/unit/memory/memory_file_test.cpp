// Files behind RAM: where they are, and what is kept away from them.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "memory/guest_memory.h"

namespace doppel::memory {
namespace {

constexpr std::uint64_t MiB = 1 << 20, unit = MemoryFile::alignment;

struct MemoryFileTest : testing::Test {
    std::string folder = "/tmp/doppel-memory-XXXXXX";
    MemoryFileTest() { EXPECT_NE(::mkdtemp(folder.data()), nullptr); }
    ~MemoryFileTest() override
    {
        for (const std::string& path : paths) ::unlink(path.c_str());
        ::rmdir(folder.c_str());
    }
    std::string path(const std::string& name)
    {
        paths.push_back(folder + "/" + name);
        return paths.back();
    }
    MemoryFile file(const std::string& name, std::uint64_t size)
    {
        auto made = open_memory_file(path(name), size, false);
        EXPECT_TRUE(made.has_value());
        return std::move(*made);
    }
    static std::byte first_byte(const std::string& path)
    {
        const base::Fd fd{::open(path.c_str(), O_RDONLY)};
        std::byte byte{};
        EXPECT_EQ(::pread(fd.get(), &byte, 1, 0), 1);
        return byte;
    }
    std::vector<std::string> paths;
};

TEST_F(MemoryFileTest, OpensWhatCanBeMemory)
{
    const std::string fresh = path("fresh"), odd = path("odd");
    EXPECT_FALSE(open_memory_file(fresh, std::nullopt, false)) << "not there";
    EXPECT_FALSE(open_memory_file(fresh, unit, true)) << "not made when it cannot be written";
    const auto made = open_memory_file(fresh, 2 * unit, false);
    ASSERT_TRUE(made);
    EXPECT_EQ(made->size, 2 * unit);
    EXPECT_TRUE(open_memory_file(fresh, 2 * unit, false)) << "once more";
    EXPECT_FALSE(open_memory_file(fresh, unit, false)) << "it has another size";
    EXPECT_TRUE(open_memory_file(fresh, std::nullopt, true)->read_only);
    EXPECT_FALSE(open_memory_file(odd, MiB, false));
    EXPECT_FALSE(open_memory_file(odd, 0, false));
    EXPECT_FALSE(open_memory_file(path("huge"), ~std::uint64_t{0} - unit + 1, false));
    EXPECT_FALSE(open_memory_file(folder, std::nullopt, true));
    EXPECT_FALSE(open_memory_file("/dev/zero", std::nullopt, false));
}

TEST_F(MemoryFileTest, FilesLieBehindRamWithGaps)
{
    std::vector<MemoryFile> files;
    files.push_back(file("a", unit));
    files.push_back(file("b", 3 * unit));
    const auto memory = std::move(GuestMemory::create(unit, std::move(files))).value();
    EXPECT_EQ(memory->ram_size(), unit);
    ASSERT_EQ(memory->files().size(), 2u);
    EXPECT_EQ(memory->files()[0].offset, 2 * unit);
    EXPECT_EQ(memory->files()[1].offset, 4 * unit);
    EXPECT_EQ(memory->end(), 7 * unit);
    EXPECT_EQ(memory->place(5).fd, memory->fd());
    EXPECT_EQ(memory->place(5).offset, 5u);
    EXPECT_EQ(memory->place(2 * unit).fd, memory->files()[0].file.fd.get());
    EXPECT_EQ(memory->place(7 * unit - 1).offset, 3 * unit - 1);

    ASSERT_TRUE(memory->add_slot(Gpa{0}, unit, 0));
    ASSERT_TRUE(memory->add_slot(Gpa{16 * unit}, unit, 2 * unit));
    ASSERT_TRUE(memory->write_value(Gpa{16 * unit}, std::uint8_t{0x5a}));
    EXPECT_EQ(first_byte(paths[0]), std::byte{0x5a});
    EXPECT_FALSE(memory->discard(Gpa{16 * unit}, base::page_size)) << "balloons take RAM only";
    ASSERT_TRUE(memory->write_value(Gpa{0}, std::uint8_t{1}));
    memory->clear();
    EXPECT_EQ(first_byte(paths[0]), std::byte{0x5a}) << "a reset leaves files as they are";
    EXPECT_EQ(*memory->host(Gpa{0}), std::byte{0});
}

TEST_F(MemoryFileTest, AttachedMemoryShowsTheSame)
{
    std::vector<MemoryFile> files, copies;
    files.push_back(file("a", unit));
    copies.push_back({base::Fd{::dup(files[0].fd.get())}, unit, false});
    const auto memory = std::move(GuestMemory::create(2 * unit, std::move(files))).value();
    const auto other = std::move(GuestMemory::attach(base::Fd{::dup(memory->fd())}, 2 * unit,
                                                     nullptr, std::move(copies))).value();
    EXPECT_EQ(other->end(), memory->end());
    memory->ram()[1] = std::byte{7};
    memory->ram()[memory->files()[0].offset] = std::byte{8};
    EXPECT_EQ(other->ram()[1], std::byte{7});
    EXPECT_EQ(other->ram()[other->files()[0].offset], std::byte{8});
}

TEST_F(MemoryFileTest, ReadOnlyFilesTakeNoWrites)
{
    static_cast<void>(file("a", unit));
    std::vector<MemoryFile> files;
    files.push_back(std::move(*open_memory_file(paths[0], std::nullopt, true)));
    const auto memory = std::move(GuestMemory::create(unit, std::move(files))).value();
    ASSERT_TRUE(memory->add_slot(Gpa{4 * unit}, unit, memory->files()[0].offset, true));
    EXPECT_FALSE(memory->write_value(Gpa{4 * unit}, std::uint8_t{1}));
    std::uint8_t value = 1;
    EXPECT_TRUE(memory->read_value(Gpa{4 * unit}, value));
    EXPECT_EQ(value, 0);
}

}  // namespace
}  // namespace doppel::memory
