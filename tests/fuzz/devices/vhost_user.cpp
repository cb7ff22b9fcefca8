// The back end's side of vhost-user: what it sends over the socket, in pieces of any size, and what
// it writes into the ring that it shares with us. What must hold: messages within bounds, and from
// the ring each request at most once, with no more bytes than it has room for.
#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "backends/vhost_user/message_reader.h"
#include "device_harness.h"
#include "devices/virtio/vhost_user/shadow_ring.h"

namespace {

using namespace doppel;
using namespace doppel::fuzz;
using devices::virtio::Access;
using devices::virtio::Chain;
using devices::virtio::ShadowRing;

void messages(Input& input)
{
    backends::vhost_user::MessageReader reader;
    std::size_t given = 0, taken = 0;
    while (!input.empty() && !reader.broken()) {
        const auto room = reader.room();
        require(!room.empty());
        const std::size_t part = std::min<std::size_t>(room.size(), 1 + input.byte() % 64);
        for (std::size_t i = 0; i < part; ++i) room[i] = std::byte{input.byte()};
        reader.added(part);
        given += part;
        while (const auto message = reader.next()) {
            require(message->payload.size() == message->header.size);
            require(message->header.size <= backends::vhost_user::most_payload_bytes);
            taken += sizeof message->header + message->payload.size();
        }
    }
    require(taken <= given);
}

struct World {
    std::unique_ptr<memory::GuestMemory> memory =
        std::move(memory::GuestMemory::create(0x10000)).value();
    devices::virtio::Dma dma{*memory};
    alignas(4096) std::array<std::byte, ShadowRing::bytes> shared{};
    ShadowRing ring{shared};
    std::map<std::uint16_t, std::uint32_t> in_flight;  // room, by head
    World() { require(memory->add_slot(base::Gpa{0}, 0x10000, 0).has_value()); }

    void add(Input& input)
    {
        Chain chain;
        chain.begin();
        const unsigned readable = input.byte() % 20, writable = input.byte() % 8;
        for (unsigned i = 0; i < readable + writable; ++i) {
            const Access access = i < readable ? Access::read : Access::write;
            require(chain.add(dma, 0x100 * i, 16 + i, access) == nullptr);
        }
        if (!ring.has_room(chain)) return;
        const std::uint16_t head = ring.add(chain);
        require(in_flight.emplace(head, chain.writable_size()).second);
        static_cast<void>(ring.publish());
    }
    void scribble(Input& input)
    {
        // Mostly the used index and the first entries.
        const std::size_t limit = (input.byte() & 1) != 0 ? 64 : ShadowRing::bytes / 4;
        const std::size_t at = input.bytes(2) % limit;
        const std::size_t start = limit == 64 ? ShadowRing::used_at + at : at;
        shared[start] = std::byte{input.byte()};
    }
    void take()
    {
        while (const auto used = ring.take()) {
            const auto found = in_flight.find(used->head);
            require(found != in_flight.end() && used->written <= found->second);
            in_flight.erase(found);
        }
        require(ring.in_flight() == in_flight.size());
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    Input input{data, size};
    if ((input.byte() & 1) != 0) {
        messages(input);
        return 0;
    }
    World world;
    while (!input.empty() && world.ring.problem() == nullptr) {
        switch (input.byte() % 4) {
        case 0: world.add(input); break;
        case 1:
        case 2: world.scribble(input); break;
        default: world.take();
        }
    }
    return 0;
}
