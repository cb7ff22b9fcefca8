#include "backends/block/copy_image.h"

#include <algorithm>
#include <cstring>

namespace doppel::backends {

namespace {

constexpr std::uint64_t piece_size = 2 << 20;

class Copier {
public:
    Copier(Image& from, Image& to, const CopyOptions& options)
        : from_(from), to_(to), options_(options), bytes_(std::max(piece_size, options.block))
    {
        if (options.compare_with_target) present_.resize(bytes_.size());
    }

    CopyResult run()
    {
        const std::uint64_t size = from_.size();
        for (std::uint64_t at = 0; at < size && result_.error == 0;) {
            result_.offset = at;
            Extent extent = from_.extent(at, size - at, result_.error);
            if (failed_reading()) break;
            // Whole blocks, so that nothing is stored in two pieces.
            if (at + extent.length < size) extent.length -= (at + extent.length) % options_.block;
            if (extent.zero && extent.length >= options_.block) {
                copy_zeroes(at, extent.length);
            } else {
                extent.length = std::min({std::max(extent.length, options_.block),
                                          std::uint64_t{bytes_.size()}, size - at});
                copy_data(at, extent.length);
            }
            at += extent.length;
            if (options_.progress) options_.progress(at);
        }
        if (result_.error == 0) result_.error = to_.flush();
        return result_;
    }

private:
    bool failed_reading()
    {
        result_.reading = result_.error != 0;
        return result_.reading;
    }

    void copy_zeroes(std::uint64_t at, std::uint64_t length)
    {
        if (options_.target_is_zero) return;
        // Zero there already? Then its backing file says so without help.
        for (std::uint64_t done = 0; done < length;) {
            int error = 0;
            const Extent there = to_.extent(at + done, length - done, error);
            if (error == 0 && !there.zero) error = to_.write_zeroes(at + done, there.length, true);
            result_.error = error;
            if (error != 0) return;
            done += there.length;
        }
    }

    void copy_data(std::uint64_t at, std::uint64_t length)
    {
        const auto bytes = std::span{bytes_}.first(length);
        result_.error = from_.read_at(at, bytes);
        if (failed_reading()) return;
        if (options_.compare_with_target) {
            result_.error = to_.read_at(at, std::span{present_}.first(length));
            if (result_.error != 0) return;
        }
        // Runs of blocks that have to be stored.
        std::uint64_t run = 0;
        for (std::uint64_t i = 0; i < length && result_.error == 0;) {
            const std::uint64_t count = std::min(options_.block, length - i);
            const bool store = !same(i, bytes.subspan(i, count));
            if (store && options_.write_compressed) {
                write_compressed(at + i, bytes.subspan(i, count));
                run = i + count;
            } else if (!store) {
                write(at + run, bytes.subspan(run, i - run));
                run = i + count;
            }
            i += count;
        }
        if (result_.error == 0) write(at + run, bytes.subspan(run, length - run));
    }

    bool same(std::uint64_t at, std::span<const std::byte> bytes) const
    {
        if (options_.compare_with_target) {
            return std::memcmp(&present_[at], bytes.data(), bytes.size()) == 0;
        }
        return options_.target_is_zero && all_zero(bytes);
    }

    void write(std::uint64_t at, std::span<const std::byte> bytes)
    {
        if (bytes.empty()) return;
        result_.error = to_.write_at(at, bytes);
        result_.copied += bytes.size();
    }

    void write_compressed(std::uint64_t at, std::span<const std::byte> bytes)
    {
        std::vector<std::byte> whole(options_.block);  // the disk's last one may be shorter
        std::copy(bytes.begin(), bytes.end(), whole.begin());
        result_.error = options_.write_compressed(at, whole);
        result_.copied += bytes.size();
    }

    Image& from_;
    Image& to_;
    const CopyOptions& options_;
    std::vector<std::byte> bytes_;
    std::vector<std::byte> present_;
    CopyResult result_;
};

}  // namespace

bool all_zero(std::span<const std::byte> bytes)
{
    return bytes.empty() || (bytes[0] == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

CopyResult copy_image(Image& from, Image& to, const CopyOptions& options)
{
    return Copier{from, to, options}.run();
}

}  // namespace doppel::backends
