// qcow2 images of strangers: opening, reading, writing and repairing never crash, hang or take
// memory without bound, whatever the tables say.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "backends/block/qcow2/check.h"
#include "backends/block/qcow2/qcow2_image.h"

namespace {

using namespace doppel;
using backends::qcow2::Qcow2Image;

class BytesFile final : public backends::ByteFile {
public:
    static constexpr std::uint64_t largest = 8 << 20;

    explicit BytesFile(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
    const std::string& name() const override { return name_; }
    const backends::ByteFileProperties& properties() const override { return properties_; }
    std::uint64_t size() const override { return bytes_.size(); }
    int read(std::uint64_t offset, std::span<const iovec> buffers) override
    {
        const std::uint64_t length = backends::total_length(buffers);
        if (offset > bytes_.size() || length > bytes_.size() - offset) return EIO;
        backends::copy_out(buffers, std::span{bytes_}.subspan(offset, length));
        return 0;
    }
    int write(std::uint64_t offset, std::span<const iovec> buffers) override
    {
        const std::uint64_t length = backends::total_length(buffers);
        if (offset > largest || length > largest - offset) return ENOSPC;
        if (bytes_.size() < offset + length) bytes_.resize(offset + length);
        backends::copy_in(std::span{bytes_}.subspan(offset, length), buffers);
        return 0;
    }
    int flush() override { return 0; }
    int write_zeroes(std::uint64_t, std::uint64_t, bool) override { return 0; }
    int discard(std::uint64_t, std::uint64_t) override { return 0; }
    int resize(std::uint64_t size) override
    {
        if (size > largest) return ENOSPC;
        bytes_.resize(size);
        return 0;
    }
    backends::Extent extent(std::uint64_t, std::uint64_t most) override { return {most, false, true}; }

private:
    std::string name_ = "input";
    backends::ByteFileProperties properties_;
    std::vector<std::byte> bytes_;
};

void use(Qcow2Image& image, std::uint8_t choice)
{
    if (image.size() == 0) return;
    std::vector<std::byte> bytes(std::min<std::uint64_t>(image.size(), 16384));
    const std::uint64_t last = image.size() - bytes.size();
    for (const std::uint64_t at : {std::uint64_t{0}, last / 2 / 512 * 512, last}) {
        static_cast<void>(image.read_at(at, bytes));
        int error = 0;
        const auto extent = image.extent(at, image.size() - at, error);
        ASSERT(error != 0 || (extent.length > 0 && extent.length <= image.size() - at));
        if ((choice & 1) != 0) static_cast<void>(image.write_at(at, bytes));
        if ((choice & 2) != 0) static_cast<void>(image.write_zeroes(at, bytes.size(), true));
        if ((choice & 4) != 0) static_cast<void>(image.discard(at, bytes.size()));
        static_cast<void>(image.flush());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    if (size < 2) return 0;
    const std::uint8_t choice = data[0];
    // The magic is not worth guessing.
    std::vector<std::byte> bytes(std::max<std::size_t>(size - 1, 4));
    std::memcpy(bytes.data(), data + 1, size - 1);
    std::memcpy(bytes.data(), "QFI\xfb", 4);
    // Tables shall fit into small inputs: small clusters, and room behind the input.
    if ((choice & 128) != 0) bytes.resize(std::max<std::size_t>(bytes.size(), 65536));

    if ((choice & 64) != 0) {
        BytesFile file{bytes};
        auto header = Qcow2Image::read_header(file);
        if (header) {
            static_cast<void>(backends::qcow2::repair_image(
                file, *header,
                (choice & 1) != 0 ? backends::qcow2::Repair::all : backends::qcow2::Repair::leaks));
        }
    }
    Qcow2Image::Options options;
    options.check = (choice & 8) == 0;
    options.read_only = (choice & 16) != 0;
    auto opened = Qcow2Image::open(std::make_unique<BytesFile>(std::move(bytes)), std::move(options));
    if (opened) use(**opened, choice);
    return 0;
}
