// The versioned, self-describing, checksummed stream in which every stateful part
// saves itself. Snapshot, fork and migration are all made of it.
//
//   stream  := magic "DOPPELST" u32 version, section*, end section
//   section := u32 name length, name, u32 version, u64 payload length, payload,
//              u64 FNV-1a of name, version and payload
//
// Writers never fail (memory); readers check every length as if the stream were hostile.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace doppel::base {

class StateWriter {
public:
    StateWriter();

    // A section is one part's plain State struct; versions rise when its shape changes.
    void section(std::string_view name, std::uint32_t version, std::span<const std::byte> payload);

    template <typename State>
    void section(std::string_view name, std::uint32_t version, const State& state)
    {
        static_assert(std::is_trivially_copyable_v<State>);
        section(name, version, std::as_bytes(std::span{&state, 1}));
    }

    [[nodiscard]] std::vector<std::byte> finish();

private:
    ByteWriter out_;
};

class StateReader {
public:
    static Result<StateReader> open(std::span<const std::byte> stream);

    // The payload of the named section, or an error that names it.
    [[nodiscard]] Result<std::span<const std::byte>> section(std::string_view name,
                                                             std::uint32_t version) const;

    template <typename State>
    [[nodiscard]] Result<State> section_as(std::string_view name, std::uint32_t version) const
    {
        static_assert(std::is_trivially_copyable_v<State>);
        const auto payload = TRY(section(name, version));
        if (payload.size() != sizeof(State)) {
            return io_error("Saved state of '" + std::string{name} + "' has the wrong size");
        }
        return load_le<State>(payload.data());
    }

private:
    struct Section {
        std::string name;
        std::uint32_t version;
        std::span<const std::byte> payload;
    };
    std::vector<Section> sections_;
};

}  // namespace doppel::base
