#include "devices/virtio/block/block.h"

#include <algorithm>
#include <bit>
#include <cstddef>

#include "base/bytes.h"

namespace doppel::devices::virtio {

namespace {

constexpr std::uint64_t sector_size = 512;
constexpr std::uint16_t queue_size = 256;
constexpr std::size_t serial_size = 20;
// Of a discard: 1 GiB, so that one request does not keep the others waiting.
constexpr std::uint32_t most_range_sectors = 1 << 21;

BlockStatus status_of(backends::Status status)
{
    switch (status) {
    case backends::Status::ok: return BlockStatus::VIRTIO_BLK_S_OK;
    case backends::Status::unsupported: return BlockStatus::VIRTIO_BLK_S_UNSUPP;
    default: return BlockStatus::VIRTIO_BLK_S_IOERR;
    }
}

}  // namespace

// A request on its way; the backend uses its buffers until it is done.
struct Block::Work {
    Chain chain;
    unsigned queue = 0;
    std::vector<iovec> buffers;
    backends::Request request;
};

Block::Block(std::unique_ptr<backends::BlockBackend> backend, const Options& options)
    : backend_(std::move(backend)), options_(options)
{
    ASSERT(options.queues >= 1 && options.queues <= most_queues);
    queue_sizes_.fill(queue_size);
    identity_ = {DeviceId::block, "block", 0x010000, std::span{queue_sizes_}.first(options.queues)};

    const backends::BlockProperties& disk = backend_->properties();
    config_.capacity = disk.size / sector_size;
    config_.seg_max = queue_size - 2;  // header and status take one descriptor each
    config_.blk_size = disk.logical_block_size;
    const std::uint32_t ratio =
        std::max<std::uint32_t>(disk.physical_block_size / disk.logical_block_size, 1);
    config_.physical_block_exp = static_cast<std::uint8_t>(std::bit_width(ratio) - 1);
    config_.min_io_size = static_cast<std::uint16_t>(std::min<std::uint32_t>(ratio, 0xffff));
    config_.opt_io_size = disk.optimal_io_size / disk.logical_block_size;
    config_.writeback = disk.write_cache ? 1 : 0;
    config_.num_queues = static_cast<std::uint16_t>(options.queues);
    config_.max_discard_sectors = config_.max_write_zeroes_sectors = most_range_sectors;
    config_.max_discard_seg = config_.max_write_zeroes_seg = 1;
    config_.discard_sector_alignment = static_cast<std::uint32_t>(
        std::max<std::uint64_t>(disk.discard_granularity, disk.logical_block_size) / sector_size);
    config_.write_zeroes_may_unmap = disk.discard ? 1 : 0;

    if (auto timer = base::LoopTimer::create(backend_->loop(), [this] { signal_all(); })) {
        late_ = std::move(timer).value();
    }
    backend_->on_batch_done([this] { signal_due(); });
}

Block::~Block() = default;

Features Block::features() const
{
    const backends::BlockProperties& disk = backend_->properties();
    Features features = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_TOPOLOGY;
    if (options_.queues > 1) features |= VIRTIO_BLK_F_MQ;
    if (disk.read_only) return features | VIRTIO_BLK_F_RO;
    if (disk.write_cache) features |= VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_CONFIG_WCE;
    if (disk.discard) features |= VIRTIO_BLK_F_DISCARD;
    if (disk.write_zeroes) features |= VIRTIO_BLK_F_WRITE_ZEROES;
    return features;
}

std::span<const std::byte> Block::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

void Block::write_config(std::size_t offset, std::span<const std::byte> data) noexcept
{
    constexpr std::size_t at = offsetof(BlockConfig, writeback);
    if (offset > at || offset + data.size() <= at || !backend_->properties().write_cache) return;
    const auto value = std::to_integer<std::uint8_t>(data[at - offset]);
    if (value <= 1) config_.writeback = value;
}

// Section 5.2.5: a driver that cannot flush must not need to.
bool Block::write_through() const
{
    const Features features = active_->features();
    if ((features & VIRTIO_BLK_F_CONFIG_WCE) != 0) return config_.writeback == 0;
    return (features & VIRTIO_BLK_F_FLUSH) == 0;
}

void Block::deactivate() noexcept
{
    drain();
    active_ = nullptr;
    config_.writeback = backend_->properties().write_cache ? 1 : 0;
}

std::unique_ptr<Block::Work> Block::take_work()
{
    if (free_.empty()) return std::make_unique<Work>();
    auto work = std::move(free_.back());
    free_.pop_back();
    return work;
}

void Block::process(unsigned index) noexcept
{
    Queue& queue = *active_->queue(index);
    unsigned chains = 0;
    while (chains < chains_at_once) {
        auto work = take_work();
        work->queue = index;
        if (!queue.pop(work->chain)) {
            free_.push_back(std::move(work));
            break;
        }
        ++chains;
        start(std::move(work));
    }
    if (!batch_.empty()) backend_->submit(batch_);
    batch_.clear();
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

void Block::start(std::unique_ptr<Work> work)
{
    if (work->chain.writable_size() == 0) {
        Queue& queue = *active_->queue(work->queue);
        queue.push(work->chain, 0);
        queue.broken("a request has no room for its status");
        return;
    }
    const BlockStatus status = prepare(*work);
    if (status != BlockStatus::pending) return finish(std::move(work), status);
    moderation_[work->queue].started();
    work->request.done = [this, raw = work.get()](backends::Status done) {
        moderation_[raw->queue].done(raw->request.length);
        finish(std::unique_ptr<Work>{raw}, status_of(done));
    };
    batch_.push_back(std::move(work->request));
    static_cast<void>(work.release());  // to the callback, which comes exactly once
}

BlockStatus Block::prepare(Work& work)
{
    BlockHeader header{};
    if (!ChainReader{work.chain}.read_value(header)) return BlockStatus::VIRTIO_BLK_S_IOERR;
    work.request = {};
    work.buffers.clear();
    switch (static_cast<BlockType>(header.type)) {
    case BlockType::VIRTIO_BLK_T_IN:
        work.request.kind = backends::Request::Kind::read;
        return prepare_transfer(work, header.sector);
    case BlockType::VIRTIO_BLK_T_OUT:
        work.request.kind = backends::Request::Kind::write;
        return prepare_transfer(work, header.sector);
    case BlockType::VIRTIO_BLK_T_FLUSH:
        work.request.kind = backends::Request::Kind::flush;
        return BlockStatus::pending;
    case BlockType::VIRTIO_BLK_T_DISCARD:
        work.request.kind = backends::Request::Kind::discard;
        return prepare_range(work);
    case BlockType::VIRTIO_BLK_T_WRITE_ZEROES:
        work.request.kind = backends::Request::Kind::write_zeroes;
        return prepare_range(work);
    case BlockType::VIRTIO_BLK_T_GET_ID: return give_identity(work);
    default: return BlockStatus::VIRTIO_BLK_S_UNSUPP;
    }
}

BlockStatus Block::prepare_transfer(Work& work, std::uint64_t sector)
{
    const bool reads = work.request.kind == backends::Request::Kind::read;
    // Reads fill all but the status byte; writes take what is behind the header.
    std::size_t skip = reads ? 0 : sizeof(BlockHeader);
    std::size_t left = reads ? work.chain.writable_size() - 1
                             : work.chain.readable_size() - sizeof(BlockHeader);
    if (left == 0 || left % sector_size != 0 || sector > ~std::uint64_t{0} / sector_size) {
        return BlockStatus::VIRTIO_BLK_S_IOERR;
    }
    work.request.offset = sector * sector_size;
    work.request.length = left;
    for (const DmaSpan& span : reads ? work.chain.writable() : work.chain.readable()) {
        const std::size_t skipped = std::min(skip, span.bytes.size());
        const std::size_t part = std::min(span.bytes.size() - skipped, left);
        if (part != 0) work.buffers.push_back({span.bytes.data() + skipped, part});
        skip -= skipped;
        left -= part;
    }
    work.request.buffers = work.buffers;
    work.request.fua = !reads && write_through();
    return BlockStatus::pending;
}

BlockStatus Block::prepare_range(Work& work)
{
    BlockHeader header{};
    BlockRange range{};
    ChainReader reader{work.chain};
    if (!reader.read_value(header) || !reader.read_value(range) ||
        work.chain.readable_size() != sizeof header + sizeof range ||
        range.sectors > most_range_sectors || range.sector > ~std::uint64_t{0} / sector_size) {
        return BlockStatus::VIRTIO_BLK_S_IOERR;
    }
    // Section 5.2.6.2: the unmap bit is not for discards, others are for nobody.
    const bool zeroes = work.request.kind == backends::Request::Kind::write_zeroes;
    if (range.flags > (zeroes ? 1u : 0u)) return BlockStatus::VIRTIO_BLK_S_UNSUPP;
    work.request.offset = range.sector * sector_size;
    work.request.length = range.sectors * sector_size;
    work.request.may_unmap = range.flags != 0;
    work.request.fua = zeroes && write_through();
    return BlockStatus::pending;
}

BlockStatus Block::give_identity(Work& work)
{
    std::array<std::byte, serial_size> serial{};
    if (work.chain.writable_size() < serial.size() + 1) return BlockStatus::VIRTIO_BLK_S_IOERR;
    const auto text = std::as_bytes(std::span{options_.serial});
    std::copy_n(text.begin(), std::min(text.size(), serial.size()), serial.begin());
    ChainWriter{active_->dma(), work.chain}.write(serial);
    return BlockStatus::VIRTIO_BLK_S_OK;
}

void Block::finish(std::unique_ptr<Work> work, BlockStatus status)
{
    const Dma& dma = active_->dma();
    const bool reads = !work->buffers.empty() &&
                       work->request.kind == backends::Request::Kind::read;
    if (reads) {
        for (const DmaSpan& span : work->chain.writable()) dma.written(span.at, span.bytes.size());
    }
    const std::size_t status_at = work->chain.writable_size() - 1;
    ChainWriter writer{dma, work->chain, status_at};
    writer.write(std::as_bytes(std::span{&status, 1}));
    const bool filled = status == BlockStatus::VIRTIO_BLK_S_OK;
    active_->queue(work->queue)->push(work->chain, filled ? work->chain.writable_size() : 1);
    free_.push_back(std::move(work));
}

void Block::signal_due()
{
    bool wait = false;
    for (unsigned i = 0; i < options_.queues; ++i) {
        if (!moderation_[i].waiting()) continue;
        if (late_ != nullptr && !moderation_[i].due()) {
            wait = true;
            continue;
        }
        moderation_[i].interrupted();
        active_->queue(i)->signal();
    }
    if (!wait || late_set_) return;
    late_set_ = true;
    late_->set(base::monotonic_ns() + Moderation::most_wait_ns);
}

void Block::signal_all()
{
    late_set_ = false;
    for (unsigned i = 0; i < options_.queues; ++i) {
        if (!moderation_[i].waiting()) continue;
        moderation_[i].interrupted();
        active_->queue(i)->signal();
    }
}

void Block::drain() noexcept
{
    backend_->drain();
    if (late_ != nullptr) late_->cancel();
    signal_all();
}

void Block::save(base::StateWriter& writer, std::string_view section) const
{
    writer.section(section, 1, config_.writeback);
}

base::Result<void> Block::load(const base::StateReader& reader, std::string_view section)
{
    const auto writeback = TRY(reader.section_as<std::uint8_t>(section, 1));
    if (writeback > (backend_->properties().write_cache ? 1 : 0)) {
        return base::io_error("Saved state of '" + std::string{section} + "' is impossible");
    }
    config_.writeback = writeback;
    return {};
}

void Block::counters(base::CounterList& list, std::string_view prefix) const
{
    backend_->counters(list, prefix);
}

}  // namespace doppel::devices::virtio
