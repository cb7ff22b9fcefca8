// The peer's side of --net stream: any bytes, in pieces of any size.
#include "backends/net/stream_decoder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

using namespace doppel::backends;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    static StreamDecoder decoder;
    decoder.reset();
    auto rest = std::as_bytes(std::span{data, size});
    std::size_t given = 0;
    while (!rest.empty() && !decoder.broken()) {
        const auto room = decoder.room();
        if (room.empty()) std::abort();
        const std::size_t wanted = 1 + std::to_integer<std::size_t>(rest[0]) * 37;
        const std::size_t part = std::min({wanted, rest.size(), room.size()});
        std::copy_n(rest.begin(), part, room.begin());
        decoder.added(part);
        rest = rest.subspan(part);
        bool again = true;
        while (const auto bytes = decoder.next()) {
            if (bytes->empty() || bytes->size() > most_frame_bytes) std::abort();
            if (std::exchange(again, !again)) {
                decoder.put_back(*bytes);
                continue;
            }
            given += StreamDecoder::length_bytes + bytes->size();
            // Whatever a header says that lies in the frame itself.
            OffloadHeader header{};
            std::memcpy(&header, bytes->data(), std::min(sizeof header, bytes->size()));
            Frame frame{header, *bytes};
            if (settle(frame, {true, true, true, true})) finish_checksum(frame);
        }
    }
    if (given > size) std::abort();
    return 0;
}
