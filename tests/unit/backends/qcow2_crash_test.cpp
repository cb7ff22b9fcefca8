// What a crash leaves of a qcow2 image: everything that was flushed, and tables that agree.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "backends/block/image_backend.h"
#include "backends/block/open_image.h"
#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/qcow2_image.h"
#include "block_fixture.h"
#include "memory_file.h"

namespace doppel::backends {
namespace {

using qcow2::Qcow2Image;

constexpr std::uint64_t block = 512;

// A disk of numbered blocks. Every write puts a number that only grows into whole blocks; what is
// zeroed or discarded counts as a write of nothing.
class NumberedDisk {
public:
    explicit NumberedDisk(std::uint64_t size) : written_(size / block), flushed_(size / block) {}

    static std::vector<std::byte> bytes(std::uint64_t first, std::uint64_t count, std::uint64_t number)
    {
        std::vector<std::byte> all(count * block);
        for (std::uint64_t i = 0; i < count; ++i) {
            for (std::uint64_t at = 0; at < block; at += 16) {
                base::store_le(&all[i * block + at], number);
                base::store_le(&all[i * block + at + 8], number * 31 + first + i);
            }
        }
        return all;
    }

    // One random request; the state after it is in written_.
    void change(Image& image, std::mt19937& random)
    {
        const std::uint64_t first = random() % written_.size();
        const std::uint64_t longest = random() % 6 == 0 ? 600 : 20;
        const std::uint64_t count = std::min<std::uint64_t>(1 + random() % longest,
                                                            written_.size() - first);
        switch (random() % 10) {
            case 0:
                ASSERT_EQ(image.write_zeroes(first * block, count * block, true), 0);
                note(first, count, Change{++number_, true, false});
                break;
            case 1:
                ASSERT_EQ(image.discard(first * block, count * block), 0);
                note(first, count, Change{++number_, true, true});
                break;
            default:
                ++number_;
                ASSERT_EQ(image.write_at(first * block, bytes(first, count, number_)), 0);
                note(first, count, Change{number_, false, false});
        }
    }
    void flushed()
    {
        // What is before the last change cannot come back.
        for (auto& changes : written_) {
            if (changes.size() > 1) changes.erase(changes.begin(), changes.end() - 1);
        }
    }
    // As it was, for a crash that is looked at later.
    [[nodiscard]] NumberedDisk copy() const { return *this; }

    // Each block is what some change since the last flush left, or what was there then.
    void expect(Image& image) const
    {
        for (std::uint64_t i = 0; i < written_.size(); ++i) {
            std::vector<std::byte> found(block);
            ASSERT_EQ(image.read_at(i * block, found), 0) << "block " << i;
            const bool zero = std::all_of(found.begin(), found.end(),
                                          [](std::byte b) { return b == std::byte{0}; });
            const auto number = base::load_le<std::uint64_t>(found.data());
            bool known = zero && written_[i].empty();
            for (const Change& change : written_[i]) {
                if (change.zero ? zero : number == change.number) known = true;
            }
            // Nothing flushed yet: the untouched disk is fine, too.
            if (zero && (written_[i].empty() || never_flushed(i))) known = true;
            // A discard without flush, or with: the old data or zeroes.
            if (!written_[i].empty() && written_[i].front().discarded) known = true;
            ASSERT_TRUE(known) << "block " << i << " has " << number;
            if (!zero) ASSERT_EQ(found, bytes(i, 1, number)) << "block " << i << " is torn";
        }
    }
    void note_flush_of_all()
    {
        for (std::size_t i = 0; i < flushed_.size(); ++i) flushed_[i] = !written_[i].empty();
        flushed();
    }

private:
    struct Change {
        std::uint64_t number = 0;
        bool zero = false;
        bool discarded = false;
    };
    void note(std::uint64_t first, std::uint64_t count, Change change)
    {
        for (std::uint64_t i = first; i < first + count; ++i) written_[i].push_back(change);
    }
    [[nodiscard]] bool never_flushed(std::uint64_t i) const { return !flushed_[i]; }

    std::vector<std::vector<Change>> written_;
    std::vector<char> flushed_;
    std::uint64_t number_ = 0;
};

struct Shape {
    std::string name;
    std::uint32_t cluster_bits = 9;
    std::uint32_t version = 3;
};

// Of each history of changes; more of them in `make check-slow`.
std::size_t power_failures()
{
    const char* text = std::getenv("DOPPEL_POWER_FAILURES");
    return text != nullptr ? static_cast<std::size_t>(std::atoi(text)) : 50;
}

class Qcow2Crash : public testing::TestWithParam<Shape> {
protected:
    static constexpr std::uint64_t disk_size = 1 << 20;

    static std::unique_ptr<Qcow2Image> open(std::unique_ptr<MemoryFile> file)
    {
        auto opened = Qcow2Image::open(std::move(file), {});
        EXPECT_TRUE(opened) << opened.error().text();
        return opened ? std::move(*opened) : nullptr;
    }

    // Runs random changes and flushes, and keeps for each flush what had to survive from there on.
    void run(unsigned seed)
    {
        qcow2::CreateOptions options;
        options.size = disk_size;
        options.cluster_bits = GetParam().cluster_bits;
        options.version = GetParam().version;
        auto file = std::make_unique<MemoryFile>();
        ASSERT_TRUE(qcow2::create_image(*file, options));
        file->remember();
        file_ = file.get();
        image_ = open(std::move(file));
        ASSERT_TRUE(image_);
        random_.seed(seed);
        NumberedDisk disk{disk_size};
        states_.clear();
        for (int i = 0; i < 80; ++i) {
            disk.change(*image_, random_);
            if (random_() % 6 == 0) {
                ASSERT_EQ(image_->flush(), 0);
                disk.note_flush_of_all();
            }
            // A crash after this event and before the next state's finds this state or newer.
            states_.emplace_back(file_->history().size(), disk.copy());
        }
    }

    // The first state that covers everything that had happened by then.
    const NumberedDisk* state_for(std::size_t events) const
    {
        // A crash inside change i: flushed up to state i-1, and changes up to i may be there.
        const std::size_t count = states_.size();
        for (std::size_t i = 0; i < count; ++i) {
            if (states_[i].first >= events) return i == 0 ? nullptr : &states_[i - 1].second;
        }
        return nullptr;
    }

    void expect_consistent(std::vector<std::byte> bytes, const NumberedDisk* state,
                           std::size_t events)
    {
        SCOPED_TRACE("after event " + std::to_string(events));
        auto file = std::make_unique<MemoryFile>(std::move(bytes));
        auto header = Qcow2Image::read_header(*file);
        ASSERT_TRUE(header) << header.error().text();
        const auto report = qcow2::check_image(*file, *header);
        ASSERT_TRUE(report) << report.error().text();
        ASSERT_EQ(report->corruptions, 0u) << report->messages.front();
        auto image = open(std::move(file));
        ASSERT_TRUE(image);
        if (state != nullptr) state->expect(*image);
    }

    MemoryFile* file_ = nullptr;
    std::unique_ptr<Qcow2Image> image_;
    std::mt19937 random_;
    std::vector<std::pair<std::size_t, NumberedDisk>> states_;
};

TEST_P(Qcow2Crash, TablesAgreeAfterAKillAtAnyWrite)
{
    run(1);
    if (HasFatalFailure()) return;
    for (std::size_t events = 0; events <= file_->history().size(); ++events) {
        expect_consistent(file_->after_kill(events), nullptr, events);
        if (HasFatalFailure()) return;
    }
}

TEST_P(Qcow2Crash, TablesAgreeAfterAPowerFailure)
{
    for (unsigned seed = 1; seed <= 3; ++seed) {
        run(seed);
        if (HasFatalFailure()) return;
        // In order, so that what leads up to each is done once.
        std::vector<std::size_t> instants(power_failures());
        for (std::size_t& at : instants) at = random_() % (file_->history().size() + 1);
        std::sort(instants.begin(), instants.end());
        for (const std::size_t events : instants) {
            expect_consistent(file_->after_power_failure(events, random_), nullptr, events);
            if (HasFatalFailure()) return;
        }
    }
}

// At the end of each step: what was flushed is there, whatever else was lost.
TEST_P(Qcow2Crash, WhatWasFlushedIsThere)
{
    for (unsigned seed = 10; seed <= 11; ++seed) {
        run(seed);
        if (HasFatalFailure()) return;
        for (const auto& [events, state] : states_) {
            expect_consistent(file_->after_kill(events), &state, events);
            if (HasFatalFailure()) return;
        }
        for (const auto& [events, state] : states_) {
            expect_consistent(file_->after_power_failure(events, random_), &state, events);
            if (HasFatalFailure()) return;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Qcow2Crash,
                         testing::Values(Shape{"clusters_512", 9, 3}, Shape{"clusters_4k", 12, 3},
                                         Shape{"clusters_64k", 16, 3},
                                         Shape{"version_2", 12, 2}),
                         [](const auto& info) { return info.param.name; });

// A real process on a real file, killed at a random instant, again and again on the same image.
class KilledWriter : public testing::TestWithParam<std::string> {
protected:
    static constexpr std::uint64_t disk_size = 16 << 20;
    static constexpr std::uint64_t blocks = disk_size / 4096;

    static std::uint64_t block_of(std::uint64_t number)
    {
        std::uint64_t x = number * 0x9e3779b97f4a7c15;
        return (x ^ (x >> 29)) % blocks;
    }

    // Every sector says which write it is of: a write that was not flushed may be there in part.
    static std::vector<std::byte> bytes_of(std::uint64_t number)
    {
        auto bytes = pattern(4096, number);
        for (std::size_t at = 0; at < bytes.size(); at += block) base::store_le(&bytes[at], number);
        return bytes;
    }

    // In the child: numbered blocks, eight at once, then a flush, and word of it.
    [[noreturn]] static void write_for_ever(const BlockOptions& options, std::uint64_t number,
                                            int told)
    {
        auto loop = std::move(base::EventLoop::create()).value();
        auto opened = open_block(options, *loop);
        if (!opened) ::_exit(3);
        auto& backend = **opened;
        while (true) {
            std::array<std::vector<std::byte>, 8> bytes;
            std::array<iovec, 8> buffers;
            std::array<Request, 8> requests;
            bool good = true;
            for (std::size_t i = 0; i < bytes.size(); ++i, ++number) {
                bytes[i] = bytes_of(number);
                buffers[i] = {bytes[i].data(), bytes[i].size()};
                requests[i].kind = Request::Kind::write;
                requests[i].offset = block_of(number) * 4096;
                requests[i].length = 4096;
                requests[i].buffers = {&buffers[i], 1};
                requests[i].done = [&](Status status) { good = good && status == Status::ok; };
            }
            backend.submit(requests);
            backend.drain();
            Request flush{.kind = Request::Kind::flush, .buffers = {}, .done = {}};
            flush.done = [&](Status status) { good = good && status == Status::ok; };
            backend.submit(std::move(flush));
            backend.drain();
            if (!good) ::_exit(4);
            if (::write(told, &number, sizeof number) != sizeof number) ::_exit(5);
        }
    }

    void expect_all(const BlockOptions& options, const std::vector<std::uint64_t>& least,
                    std::uint64_t possible)
    {
        auto opened = open_image(options);
        ASSERT_TRUE(opened) << opened.error().text();
        for (std::uint64_t i = 0; i < blocks; ++i) {
            std::vector<std::byte> found(4096);
            ASSERT_EQ(opened->image->read_at(i * 4096, found), 0);
            for (std::size_t at = 0; at < found.size(); at += block) {
                const auto number = base::load_le<std::uint64_t>(&found[at]);
                // Two with the same block in one batch may come in either order.
                ASSERT_GE(number + 8, least[i]) << "block " << i;
                ASSERT_LT(number, possible) << "block " << i;
                if (number == 0) {
                    ASSERT_EQ(least[i], 0u) << "block " << i;
                    continue;
                }
                ASSERT_EQ(block_of(number), i);
                auto& seen = right_[i * 8 + at / block];
                if (seen == number) continue;  // looked at after an earlier kill
                seen = number;
                ASSERT_EQ(std::memcmp(&found[at], &bytes_of(number)[at], block), 0) << "block " << i;
            }
        }
    }

    std::vector<std::uint64_t> right_ = std::vector<std::uint64_t>(blocks * 8);
};

TEST_P(KilledWriter, LosesNothingThatWasFlushed)
{
    const ScratchFolder folder;
    BlockOptions options;
    options.path = folder.file("disk");
    const bool is_qcow2 = GetParam() != "raw";
    options.format = is_qcow2 ? ImageFormat::qcow2 : ImageFormat::raw;
    qcow2::CreateOptions image;
    image.size = disk_size;
    if (GetParam() == "qcow2_small_clusters") image.cluster_bits = 9;
    const char* kills_text = std::getenv("DOPPEL_KILLS");
    const int kills = kills_text != nullptr ? std::atoi(kills_text) : 12;
    std::mt19937 random{42};
    std::uint64_t flushed = 1;
    std::vector<std::uint64_t> least(blocks);  // the last number flushed into each block
    for (int i = 0; i < kills; ++i) {
        if (i % 40 == 0) {  // an empty image now and then, where most is allocated
            std::filesystem::remove(options.path);
            if (is_qcow2) make_qcow2(options.path, image);
            else make_raw(options.path, disk_size);
            flushed = 1;
            least.assign(blocks, 0);
            right_.assign(right_.size(), 0);
        }
        const std::uint64_t first = flushed;
        int told[2];
        ASSERT_EQ(::pipe(told), 0);
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            ::close(told[0]);
            write_for_ever(options, flushed, told[1]);
        }
        ::close(told[1]);
        std::this_thread::sleep_for(std::chrono::microseconds{2000 + random() % 40000});
        ::kill(child, SIGKILL);
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended with " << WEXITSTATUS(status);
        std::uint64_t number = 0;
        while (::read(told[0], &number, sizeof number) == sizeof number) flushed = number;
        ::close(told[0]);
        if (is_qcow2) {
            const auto file = HostFile::open(options.path, {.read_only = true});
            ASSERT_TRUE(file) << file.error().text();
            const auto header = Qcow2Image::read_header(**file);
            ASSERT_TRUE(header);
            const auto report = qcow2::check_image(**file, *header);
            ASSERT_TRUE(report) << report.error().text();
            ASSERT_EQ(report->corruptions, 0u) << report->messages.front();
        }
        for (std::uint64_t n = first; n < flushed; ++n) least[block_of(n)] = n;
        expect_all(options, least, flushed + 8);
        if (HasFatalFailure()) return;
        flushed += 8;  // numbers that may be there already are not used again
    }
}

INSTANTIATE_TEST_SUITE_P(Disks, KilledWriter,
                         testing::Values("raw", "qcow2", "qcow2_small_clusters"),
                         [](const auto& info) { return info.param; });

TEST(Qcow2, AHostWithoutRoomLosesNothing)
{
    qcow2::CreateOptions options;
    options.size = 4 << 20;
    auto made = std::make_unique<MemoryFile>();
    ASSERT_TRUE(qcow2::create_image(*made, options));
    MemoryFile* file = made.get();
    auto image = std::move(Qcow2Image::open(std::move(made), {})).value();
    const auto bytes = pattern(200000, 3);
    ASSERT_EQ(image->write_at(0, bytes), 0);
    ASSERT_EQ(image->flush(), 0);
    for (int room = 0; room < 12; ++room) {
        file->fail_writes_after(room);
        const int wrote = image->write_at(1 << 20, std::span{bytes}.first(100000));
        const int flushed = image->flush();
        if (room == 0) EXPECT_EQ(wrote, ENOSPC);
        EXPECT_EQ(status_of(wrote) == Status::ok || wrote == ENOSPC, true);
        EXPECT_EQ(flushed == 0 || flushed == ENOSPC, true);
        file->fail_writes_after(-1);
        ASSERT_EQ(image->write_at(2 << 20, std::span{bytes}.first(70000)), 0);
        ASSERT_EQ(image->flush(), 0);
        const auto report = qcow2::check_image(*file, image->header());
        ASSERT_TRUE(report) << report.error().text();
        ASSERT_EQ(report->corruptions, 0u) << report->messages.front();
        std::vector<std::byte> found(bytes.size());
        ASSERT_EQ(image->read_at(0, found), 0);
        ASSERT_EQ(found, bytes);
    }
}

}  // namespace
}  // namespace doppel::backends
