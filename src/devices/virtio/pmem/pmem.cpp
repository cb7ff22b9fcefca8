#include "devices/virtio/pmem/pmem.h"

namespace doppel::devices::virtio {

Pmem::Pmem(std::unique_ptr<backends::BlockBackend> file, const PmemConfig& place)
    : file_(std::move(file)), config_(place)
{
}

Pmem::~Pmem() = default;

const Identity& Pmem::identity() const
{
    static constexpr std::array<std::uint16_t, 1> queues{64};
    static constexpr Identity identity{DeviceId::persistent_memory, "pmem", 0x058000, queues};
    return identity;
}

std::span<const std::byte> Pmem::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

void Pmem::deactivate() noexcept
{
    file_->drain();
    active_ = nullptr;
}

void Pmem::process(unsigned index) noexcept
{
    Queue& queue = *active_->queue(index);
    unsigned chains = 0;
    for (; chains < chains_at_once; ++chains) {
        if (free_.empty()) free_.push_back(std::make_unique<Chain>());
        if (!queue.pop(*free_.back())) break;
        auto chain = std::move(free_.back());
        free_.pop_back();
        start(std::move(chain));
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

void Pmem::start(std::unique_ptr<Chain> chain)
{
    PmemRequest request{};
    if (!ChainReader{*chain}.read_value(request) ||
        request.type != VIRTIO_PMEM_REQ_TYPE_FLUSH) {
        return finish(std::move(chain), false);
    }
    backends::Request flush;
    flush.kind = backends::Request::Kind::flush;
    // The callback comes exactly once, and while the device is active.
    flush.done = [this, raw = chain.release()](backends::Status status) {
        finish(std::unique_ptr<Chain>{raw}, status == backends::Status::ok);
        active_->queue(0)->signal();
    };
    file_->submit(std::move(flush));
}

void Pmem::finish(std::unique_ptr<Chain> chain, bool good)
{
    Queue& queue = *active_->queue(0);
    const PmemResponse response{good ? 0 : ~std::uint32_t{0}};
    ChainWriter writer{active_->dma(), *chain};
    const bool answered = writer.write(std::as_bytes(std::span{&response, 1})) == sizeof response;
    queue.push(*chain, writer.written());
    if (!answered) queue.broken("a request has no room for its answer");
    free_.push_back(std::move(chain));
}

void Pmem::counters(base::CounterList& list, std::string_view prefix) const
{
    file_->counters(list, prefix);
}

}  // namespace doppel::devices::virtio
