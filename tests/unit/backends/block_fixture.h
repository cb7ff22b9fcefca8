// What the tests of disks share: scratch files, and backends driven from the test's thread.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backends/block/block.h"
#include "backends/block/host_file.h"
#include "backends/block/qcow2/create.h"

namespace doppel::backends {

inline std::vector<std::byte> pattern(std::size_t length, std::uint64_t seed)
{
    std::vector<std::byte> bytes(length);
    std::uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
    for (auto& byte : bytes) {
        state = state * 6364136223846793005 + 1442695040888963407;
        byte = static_cast<std::byte>(state >> 56);
    }
    return bytes;
}

class ScratchFolder {
public:
    ScratchFolder()
    {
        std::string name = (std::filesystem::temp_directory_path() / "doppel-XXXXXX").string();
        path_ = ::mkdtemp(name.data());
    }
    ScratchFolder(const ScratchFolder&) = delete;
    ScratchFolder& operator=(const ScratchFolder&) = delete;
    ~ScratchFolder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

inline void make_raw(const std::string& path, std::uint64_t size)
{
    auto file = HostFile::create(path);
    ASSERT_TRUE(file) << file.error().text();
    ASSERT_EQ((*file)->resize(size), 0);
}

inline void make_qcow2(const std::string& path, qcow2::CreateOptions options)
{
    auto file = HostFile::create(path);
    ASSERT_TRUE(file) << file.error().text();
    const auto made = qcow2::create_image(**file, options);
    ASSERT_TRUE(made) << made.error().text();
}

// One backend and the loop it needs. Requests are done one at a time, by drain().
class Disk {
public:
    explicit Disk(const BlockOptions& options)
    {
        loop = std::move(base::EventLoop::create()).value();
        auto opened = open_block(options, *loop);
        if (opened) backend = std::move(*opened);
        else error = opened.error().text();
    }

    Status run(Request request)
    {
        Status result = Status::invalid;
        bool done = false;
        request.done = [&](Status status) { result = status; done = true; };
        backend->submit(std::move(request));
        EXPECT_FALSE(done) << "done from within submit()";
        backend->drain();
        EXPECT_TRUE(done);
        return result;
    }
    Status read(std::uint64_t offset, std::span<std::byte> bytes)
    {
        const iovec buffer{bytes.data(), bytes.size()};
        return run({.kind = Request::Kind::read, .offset = offset, .length = bytes.size(),
                    .buffers = {&buffer, 1}, .done = {}});
    }
    Status write(std::uint64_t offset, std::span<const std::byte> bytes, bool fua = false)
    {
        const iovec buffer{const_cast<std::byte*>(bytes.data()), bytes.size()};
        return run({.kind = Request::Kind::write, .fua = fua, .offset = offset,
                    .length = bytes.size(), .buffers = {&buffer, 1}, .done = {}});
    }
    Status flush() { return run({.kind = Request::Kind::flush, .buffers = {}, .done = {}}); }
    Status discard(std::uint64_t offset, std::uint64_t length)
    {
        return run({.kind = Request::Kind::discard, .offset = offset, .length = length,
                    .buffers = {}, .done = {}});
    }
    Status zero(std::uint64_t offset, std::uint64_t length, bool may_unmap = true)
    {
        return run({.kind = Request::Kind::write_zeroes, .may_unmap = may_unmap, .offset = offset,
                    .length = length, .buffers = {}, .done = {}});
    }

    std::unique_ptr<base::EventLoop> loop;
    std::unique_ptr<BlockBackend> backend;
    std::string error;
};

}  // namespace doppel::backends
