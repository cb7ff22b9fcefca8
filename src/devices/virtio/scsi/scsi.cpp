#include "devices/virtio/scsi/scsi.h"

#include <algorithm>
#include <cstddef>

namespace doppel::devices::virtio {

namespace {

constexpr unsigned control_queue = 0, command_queue = 2;  // 1: events, of which there are none
constexpr std::uint16_t queue_size = 256;
constexpr std::uint32_t default_sense_size = 96, default_cdb_size = 32;
// The largest that SPC-4 has.
constexpr std::uint32_t most_sense_size = 252, most_cdb_size = 260;
// What a pattern is repeated in.
constexpr std::size_t pattern_size = 64 * 1024;
static_assert(scsi::most_same_bytes / pattern_size <= backends::BlockBackend::most_buffers);

// The unit's number; of a target that is there only 0 is.
unsigned unit_of(const ScsiLun& lun)
{
    constexpr std::uint8_t method = 0xc0, flat = 0x40;
    const bool simple = (lun[2] & method) == flat || lun[2] == 0;
    const bool single = std::all_of(lun.begin() + 4, lun.end(), [](auto b) { return b == 0; });
    return !simple || !single ? ~0u : (lun[2] & 0x3fu) << 8 | lun[3];
}

// Pieces of `spans` behind the first `skip` bytes, `size` of them.
void collect(std::span<const DmaSpan> spans, std::size_t skip, std::size_t size,
             std::vector<iovec>& to)
{
    for (const DmaSpan& span : spans) {
        const std::size_t skipped = std::min(skip, span.bytes.size());
        const std::size_t part = std::min(span.bytes.size() - skipped, size);
        if (part != 0) to.push_back({span.bytes.data() + skipped, part});
        skip -= skipped;
        size -= part;
    }
}

}  // namespace

// A command on its way; the backend uses its buffers until it is done.
struct Scsi::Work {
    Chain chain;
    Target* target = nullptr;
    std::size_t out_at = 0, in_at = 0;      // where data begin in the chain's two parts
    std::size_t out_size = 0, in_size = 0;  // how many there are
    std::size_t used = 0;                   // of them, in the end
    bool reads = false;                     // of those for the driver
    ScsiResult result = ScsiResult::VIRTIO_SCSI_S_OK;
    scsi::Sense sense;
    unsigned outstanding = 0;  // requests of the backend
    std::vector<iovec> buffers;
    std::vector<std::byte> bytes;  // a pattern
};

Scsi::Scsi(std::vector<Disk> disks)
{
    ASSERT(!disks.empty() && disks.size() <= most_disks);
    for (Disk& disk : disks) {
        const scsi::Unit unit{disk.backend->properties(), std::move(disk.serial)};
        targets_.push_back({std::move(disk.backend), unit, {}});
    }
    config_.num_queues = 1;
    config_.seg_max = queue_size - 2;  // request and response take one descriptor each
    config_.max_sectors = 0xffff;
    config_.cmd_per_lun = 128;
    config_.sense_size = default_sense_size;
    config_.cdb_size = default_cdb_size;
    config_.max_target = static_cast<std::uint16_t>(targets_.size() - 1);
}

Scsi::~Scsi() = default;

const Identity& Scsi::identity() const
{
    static constexpr std::array<std::uint16_t, 3> queues{64, 16, queue_size};
    static constexpr Identity identity{DeviceId::scsi_host, "scsi", 0x010000, queues};
    return identity;
}

std::span<const std::byte> Scsi::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

void Scsi::write_config(std::size_t offset, std::span<const std::byte> data) noexcept
{
    if (data.size() != sizeof(std::uint32_t)) return;
    const auto value = base::load_le<std::uint32_t>(data.data());
    if (offset == offsetof(ScsiConfig, sense_size) && value <= most_sense_size) {
        config_.sense_size = value;
    } else if (offset == offsetof(ScsiConfig, cdb_size) && value <= most_cdb_size) {
        config_.cdb_size = value;
    }
}

void Scsi::drain() noexcept
{
    for (Target& target : targets_) target.backend->drain();
}

void Scsi::deactivate() noexcept
{
    drain();
    active_ = nullptr;
    config_.sense_size = default_sense_size;
    config_.cdb_size = default_cdb_size;
    for (Target& target : targets_) target.attention = false;
}

void Scsi::process(unsigned queue) noexcept
{
    // Buffers for events stay where they are.
    if (queue == control_queue) take_tasks();
    if (queue == command_queue) take_commands();
}

Scsi::Target* Scsi::target_of(const ScsiLun& lun)
{
    return lun[0] == 1 && lun[1] < targets_.size() ? &targets_[lun[1]] : nullptr;
}

// ---- commands ----------------------------------------------------------------------------------

std::unique_ptr<Scsi::Work> Scsi::take_work()
{
    if (free_.empty()) return std::make_unique<Work>();
    auto work = std::move(free_.back());
    free_.pop_back();
    return work;
}

void Scsi::take_commands()
{
    Queue& queue = *active_->queue(command_queue);
    unsigned chains = 0;
    for (; chains < chains_at_once; ++chains) {
        auto work = take_work();
        if (!queue.pop(work->chain)) {
            free_.push_back(std::move(work));
            break;
        }
        start(std::move(work));
    }
    for (Target& target : targets_) {
        if (!target.batch.empty()) target.backend->submit(target.batch);
        target.batch.clear();
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(command_queue);
}

void Scsi::start(std::unique_ptr<Work> work)
{
    const std::size_t readable = work->chain.readable_size();
    const std::size_t writable = work->chain.writable_size();
    work->out_at = sizeof(ScsiRequest) + config_.cdb_size;
    work->in_at = sizeof(ScsiResponse) + config_.sense_size;
    if (readable < work->out_at || writable < work->in_at) {
        Queue& queue = *active_->queue(command_queue);
        queue.push(work->chain, 0);
        free_.push_back(std::move(work));
        return queue.broken("a command has no room for its CDB or its answer");
    }
    work->out_size = readable - work->out_at;
    work->in_size = writable - work->in_at;
    work->used = 0;
    work->reads = false;
    work->result = ScsiResult::VIRTIO_SCSI_S_OK;
    work->sense = scsi::no_sense;
    work->buffers.clear();

    ScsiRequest request{};
    scsi::Cdb cdb{};
    ChainReader reader{work->chain};
    static_cast<void>(reader.read_value(request));  // it is there
    reader.read(std::as_writable_bytes(std::span{cdb}).first(
        std::min<std::size_t>(cdb.size(), config_.cdb_size)));
    work->target = target_of(request.lun);
    if (work->target == nullptr) {
        work->result = ScsiResult::VIRTIO_SCSI_S_BAD_TARGET;
        return finish(std::move(work));
    }
    if (unit_of(request.lun) != 0) return execute(std::move(work), scsi::decode_missing(cdb));
    execute(std::move(work), cdb);
}

void Scsi::execute(std::unique_ptr<Work> work, const scsi::Cdb& cdb)
{
    // SAM-5 section 5.14: these work whatever has happened.
    const auto opcode = static_cast<scsi::Opcode>(cdb[0]);
    if (work->target->attention && opcode != scsi::Opcode::INQUIRY &&
        opcode != scsi::Opcode::REPORT_LUNS && opcode != scsi::Opcode::REQUEST_SENSE) {
        work->target->attention = false;
        return execute(std::move(work), scsi::Answer{scsi::reset_occurred});
    }
    const scsi::Command command = scsi::decode(work->target->unit, cdb);
    std::visit([&](const auto& what) { execute(std::move(work), what); }, command);
}

void Scsi::execute(std::unique_ptr<Work> work, const scsi::Answer& answer)
{
    if (answer.data.size() > work->in_size) return overrun(std::move(work));
    work->sense = answer.sense;
    work->reads = true;
    work->used = ChainWriter{active_->dma(), work->chain, work->in_at}.write(answer.data);
    finish(std::move(work));
}

void Scsi::execute(std::unique_ptr<Work> work, const scsi::Transfer& transfer)
{
    const bool writes = transfer.write;
    const std::size_t room = writes ? work->out_size : work->in_size;
    if (transfer.length > room) return overrun(std::move(work));
    collect(writes ? work->chain.readable() : work->chain.writable(),
            writes ? work->out_at : work->in_at, transfer.length, work->buffers);
    work->used = transfer.length;
    work->reads = !writes;
    backends::Request request;
    request.kind = writes ? backends::Request::Kind::write : backends::Request::Kind::read;
    request.offset = transfer.offset;
    request.length = transfer.length;
    request.fua = transfer.fua;
    request.buffers = work->buffers;
    std::vector<backends::Request> all;
    all.push_back(std::move(request));
    submit(std::move(work), std::move(all));
}

void Scsi::execute(std::unique_ptr<Work> work, const scsi::Flush&)
{
    std::vector<backends::Request> all(1);
    all[0].kind = backends::Request::Kind::flush;
    submit(std::move(work), std::move(all));
}

void Scsi::execute(std::unique_ptr<Work> work, const scsi::Unmap& unmap)
{
    if (unmap.list_size > work->out_size) return overrun(std::move(work));
    std::vector<std::byte> list(unmap.list_size);
    ChainReader{work->chain, work->out_at}.read(list);
    work->used = list.size();
    const scsi::Ranges ranges = scsi::unmap_ranges(work->target->unit, list);
    if (ranges.sense != scsi::no_sense || ranges.list.empty()) {
        work->sense = ranges.sense;
        return finish(std::move(work));
    }
    std::vector<backends::Request> all;
    for (const scsi::Range& range : ranges.list) {
        backends::Request& request = all.emplace_back();
        request.kind = backends::Request::Kind::discard;
        request.offset = range.offset;
        request.length = range.length;
    }
    submit(std::move(work), std::move(all));
}

void Scsi::execute(std::unique_ptr<Work> work, const scsi::WriteSame& same)
{
    const backends::BlockProperties& disk = work->target->unit.disk;
    std::vector<std::byte> block(disk.logical_block_size);
    if (same.has_block) {
        if (work->out_size < block.size()) return overrun(std::move(work));
        ChainReader{work->chain, work->out_at}.read(block);
        work->used = block.size();
    }
    std::vector<backends::Request> all(1);
    all[0].offset = same.offset;
    all[0].length = same.length;
    const bool zeros =
        std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{}; });
    if (zeros && disk.write_zeroes) {
        all[0].kind = backends::Request::Kind::write_zeroes;
        all[0].may_unmap = same.unmap;
    } else {
        work->bytes.clear();
        while (work->bytes.size() < std::min<std::uint64_t>(same.length, pattern_size)) {
            work->bytes.insert(work->bytes.end(), block.begin(), block.end());
        }
        for (std::uint64_t done = 0; done < same.length; done += work->bytes.size()) {
            const auto part = std::min<std::uint64_t>(work->bytes.size(), same.length - done);
            work->buffers.push_back({work->bytes.data(), part});
        }
        all[0].kind = backends::Request::Kind::write;
        all[0].buffers = work->buffers;
    }
    submit(std::move(work), std::move(all));
}

void Scsi::submit(std::unique_ptr<Work> work, std::vector<backends::Request> requests)
{
    Target& target = *work->target;
    work->outstanding = static_cast<unsigned>(requests.size());
    Work* const raw = work.release();  // to the callbacks: the last one has it
    for (backends::Request& request : requests) {
        const bool writes = request.kind != backends::Request::Kind::read;
        request.done = [this, raw, writes](backends::Status status) {
            if (status != backends::Status::ok) raw->sense = scsi::sense_of(status, writes);
            if (--raw->outstanding != 0) return;
            finish(std::unique_ptr<Work>{raw});
            active_->queue(command_queue)->signal();
        };
        target.batch.push_back(std::move(request));
    }
}

void Scsi::overrun(std::unique_ptr<Work> work)
{
    work->result = ScsiResult::VIRTIO_SCSI_S_OVERRUN;
    finish(std::move(work));
}

void Scsi::finish(std::unique_ptr<Work> work)
{
    const Dma& dma = active_->dma();
    const bool sensed = work->sense != scsi::no_sense;
    const auto sense = scsi::sense_bytes(work->sense);
    const std::size_t sense_room = work->in_at - sizeof(ScsiResponse);
    if (sensed && work->result == ScsiResult::VIRTIO_SCSI_S_OK) work->used = 0;
    ScsiResponse response{};
    if (sensed) response.sense_len = static_cast<std::uint32_t>(std::min(sense.size(), sense_room));
    response.residual =
        static_cast<std::uint32_t>(std::max(work->in_size, work->out_size) - work->used);
    response.status = sensed ? scsi::CHECK_CONDITION : scsi::GOOD;
    response.response = static_cast<std::uint8_t>(work->result);
    ChainWriter writer{dma, work->chain};
    writer.write(std::as_bytes(std::span{&response, 1}));
    writer.write(std::span{sense}.first(response.sense_len));
    if (work->reads) {
        for (const DmaSpan& span : work->chain.writable()) dma.written(span.at, span.bytes.size());
    }
    active_->queue(command_queue)->push(
        work->chain, static_cast<std::uint32_t>(work->in_at + (work->reads ? work->used : 0)));
    free_.push_back(std::move(work));
}

// ---- task management ---------------------------------------------------------------------------

void Scsi::take_tasks()
{
    Queue& queue = *active_->queue(control_queue);
    unsigned chains = 0;
    for (; chains < chains_at_once && queue.pop(chain_); ++chains) {
        std::uint32_t type = ~std::uint32_t{0};
        static_cast<void>(ChainReader{chain_}.read_value(type));
        ScsiTaskRequest request{};
        ChainWriter writer{active_->dma(), chain_};
        if (type == VIRTIO_SCSI_T_AN_QUERY || type == VIRTIO_SCSI_T_AN_SUBSCRIBE) {
            const ScsiNotificationResponse none{};  // no events, and that is well
            writer.write(std::as_bytes(std::span{&none, 1}));
        } else {
            const bool known = type == VIRTIO_SCSI_T_TMF && ChainReader{chain_}.read_value(request);
            const ScsiResult result = known ? manage(request) : ScsiResult::VIRTIO_SCSI_S_FAILURE;
            writer.write(std::as_bytes(std::span{&result, 1}));
        }
        queue.push(chain_, writer.written());
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(control_queue);
}

ScsiResult Scsi::manage(const ScsiTaskRequest& request)
{
    using enum ScsiTask;
    Target* const target = target_of(request.lun);
    if (target == nullptr) return ScsiResult::VIRTIO_SCSI_S_BAD_TARGET;
    switch (request.subtype) {
    case VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET: break;
    case VIRTIO_SCSI_T_TMF_ABORT_TASK:
    case VIRTIO_SCSI_T_TMF_ABORT_TASK_SET:
    case VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET:
    case VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET:
        if (unit_of(request.lun) != 0) return ScsiResult::VIRTIO_SCSI_S_INCORRECT_LUN;
        break;
    default: return ScsiResult::VIRTIO_SCSI_S_FUNCTION_REJECTED;
    }
    target->backend->drain();
    target->attention |= request.subtype == VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET ||
                         request.subtype == VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET;
    return ScsiResult::VIRTIO_SCSI_S_OK;
}

// ---- state -------------------------------------------------------------------------------------

void Scsi::save(base::StateWriter& writer, std::string_view section) const
{
    State state{config_.sense_size, config_.cdb_size, {}};
    for (std::size_t i = 0; i < targets_.size(); ++i) {
        state.attention[i] = targets_[i].attention ? 1 : 0;
    }
    writer.section(section, 1, state);
}

base::Result<void> Scsi::load(const base::StateReader& reader, std::string_view section)
{
    const State state = TRY(reader.section_as<State>(section, 1));
    bool good = state.sense_size <= most_sense_size && state.cdb_size <= most_cdb_size;
    for (std::size_t i = 0; i < most_disks; ++i) {
        good = good && state.attention[i] <= (i < targets_.size() ? 1 : 0);
    }
    if (!good) return base::io_error("Saved state of '" + std::string{section} + "' is impossible");
    config_.sense_size = state.sense_size;
    config_.cdb_size = state.cdb_size;
    for (std::size_t i = 0; i < targets_.size(); ++i) {
        targets_[i].attention = state.attention[i] != 0;
    }
    return {};
}

void Scsi::counters(base::CounterList& list, std::string_view prefix) const
{
    for (std::size_t i = 0; i < targets_.size(); ++i) {
        targets_[i].backend->counters(list, std::string{prefix} + ".disk" + std::to_string(i));
    }
}

}  // namespace doppel::devices::virtio
