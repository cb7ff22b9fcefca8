#include "base/state/state_stream.h"

namespace doppel::base {

namespace {

constexpr std::string_view magic = "DOPPELST";
constexpr std::uint32_t stream_version = 1;
constexpr std::uint32_t max_name = 256;

std::uint64_t checksum(std::span<const std::byte> bytes, std::uint64_t hash = 0xcbf29ce484222325)
{
    for (const std::byte byte : bytes) {
        hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
    }
    return hash;
}

std::uint64_t section_checksum(std::string_view name, std::uint32_t version,
                               std::span<const std::byte> payload)
{
    auto hash = checksum(std::as_bytes(std::span{name}));
    hash = checksum(std::as_bytes(std::span{&version, 1}), hash);
    return checksum(payload, hash);
}

}  // namespace

StateWriter::StateWriter()
{
    out_.write_text(magic);
    out_.write(stream_version);
}

void StateWriter::section(std::string_view name, std::uint32_t version,
                          std::span<const std::byte> payload)
{
    ASSERT(!name.empty() && name.size() <= max_name);
    out_.write(static_cast<std::uint32_t>(name.size()));
    out_.write_text(name);
    out_.write(version);
    out_.write(static_cast<std::uint64_t>(payload.size()));
    out_.write_bytes(payload);
    out_.write(section_checksum(name, version, payload));
}

std::vector<std::byte> StateWriter::finish()
{
    out_.write(std::uint32_t{0});
    return out_.take();
}

Result<StateReader> StateReader::open(std::span<const std::byte> stream)
{
    const Error truncated = io_error("Saved state is truncated");
    ByteReader in{stream};
    const auto start = in.read_bytes(magic.size());
    if (!start || std::memcmp(start->data(), magic.data(), magic.size()) != 0) {
        return io_error("Not a doppel state stream");
    }
    const auto version = in.read<std::uint32_t>();
    if (version != stream_version) return io_error("Saved state has an unknown version");
    StateReader reader;
    for (;;) {
        const auto name_size = in.read<std::uint32_t>();
        if (!name_size) return truncated;
        if (*name_size == 0) return reader;
        if (*name_size > max_name) return io_error("Saved state has an absurd section name");
        const auto name = in.read_bytes(*name_size);
        const auto section_version = in.read<std::uint32_t>();
        const auto size = in.read<std::uint64_t>();
        if (!name || !section_version || !size || *size > in.remaining()) return truncated;
        const auto payload = in.read_bytes(*size);
        const auto sum = in.read<std::uint64_t>();
        if (!payload || !sum) return truncated;
        std::string text(name->size(), '\0');
        std::memcpy(text.data(), name->data(), name->size());
        if (*sum != section_checksum(text, *section_version, *payload)) {
            return io_error("Saved state of '" + text + "' is damaged (checksum)");
        }
        reader.sections_.push_back({std::move(text), *section_version, *payload});
    }
}

Result<std::span<const std::byte>> StateReader::section(std::string_view name,
                                                        std::uint32_t version) const
{
    for (const auto& section : sections_) {
        if (section.name != name) continue;
        if (section.version != version) {
            return io_error("Saved state of '" + section.name + "' has an unknown version");
        }
        return section.payload;
    }
    return io_error("Saved state lacks '" + std::string{name} + "'");
}

}  // namespace doppel::base
