// A virtio device of each kind behind each transport: register accesses, ring memory written with
// anything, rings, and saved state. What must hold: no crash, no hang, and a device that was
// reset has nothing in flight.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "bus/doorbell_set.h"
#include "device_harness.h"
#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/block/block.h"
#include "devices/virtio/console/console.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/pmem/pmem.h"
#include "devices/virtio/queue/descriptor.h"
#include "devices/virtio/rng/rng.h"
#include "devices/virtio/scsi/scsi.h"
#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"
#include "devices/virtio/vsock/vsock.h"

namespace {

using namespace doppel;
using namespace doppel::fuzz;
namespace virtio = devices::virtio;
using Made = base::Result<std::unique_ptr<virtio::Device>>;

constexpr std::uint64_t ram = 64 * 1024;

const std::string& disk()
{
    static const std::string path = [] {
        std::string name = "/tmp/doppel-fuzz-XXXXXX";
        const base::Fd fd{::mkstemp(name.data())};
        require(fd.valid() && ::ftruncate(fd.get(), 1 << 16) == 0);
        return name;
    }();
    return path;
}

// Takes one frame in two, and has one for the card whenever that says it has room.
struct Peer final : backends::NetBackend {
    [[nodiscard]] backends::NetProperties properties() const override
    {
        static constexpr backends::Offloads all{true, true, true, true};
        return {all, all, 1500, 2};
    }
    void attach(backends::NetReceiver& to) override { receiver = &to; }
    backends::Handed send(unsigned queue, backends::Frame& frame) noexcept override
    {
        require(queue < 2 && frame.bytes.size() >= backends::ethernet_header_bytes);
        backends::finish_checksum(frame);
        full = !full;
        return full ? backends::Handed::wait : backends::Handed::yes;
    }
    void flush(unsigned queue) noexcept override
    {
        if (full) receiver->writable(queue);
    }
    void resume(unsigned queue) noexcept override
    {
        std::array<std::byte, 1514> bytes{};
        backends::Frame frame{{}, std::span{bytes}.first(100 + 300 * (++resumed % 4))};
        static_cast<void>(receiver->receive(queue, frame));
        receiver->received(queue);
    }
    void set_offloads(const backends::Offloads&) noexcept override {}
    void set_queues(unsigned count) noexcept override { require(count == 1 || count == 2); }
    void counters(base::CounterList&, std::string_view) const override {}

    backends::NetReceiver* receiver = nullptr;
    bool full = false;
    unsigned resumed = 0;
};

// Programs of the host that send back what they get, in pieces, until some hang up. Some come by
// themselves.
struct Programs final : backends::VsockBackend {
    explicit Programs(base::EventLoop& to) : loop(to) {}
    ~Programs() override
    {
        for (const base::Fd& end : ends) loop.remove(end.get());
    }
    void attach(Accept to) override { accept = std::move(to); }
    base::Result<base::Fd> connect(std::uint32_t port) override
    {
        if (port % 4 == 3) return base::io_error("Nobody");
        if (port % 4 == 2) loop.post([this, port] { accept(port, pair()); });
        return pair();
    }
    base::Fd pair()
    {
        std::array<int, 2> fds{};
        require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) == 0);
        base::Fd& end = ends.emplace_back(fds[1]);
        require(loop.add(end.get(), EPOLLIN, [this, fd = fds[1]](std::uint32_t) { echo(fd); })
                    .has_value());
        if (ends.size() % 2 == 0) require(::write(end.get(), "first", 5) == 5);
        return base::Fd{fds[0]};
    }
    void echo(int fd)
    {
        std::array<char, 100> bytes{};
        const ssize_t got = ::read(fd, bytes.data(), bytes.size());
        const bool sent = got > 0 && ::send(fd, bytes.data(), static_cast<std::size_t>(got),
                                            MSG_NOSIGNAL) == got;
        if (sent && bytes[0] != 7) return;
        loop.remove(fd);
        ::shutdown(fd, bytes[0] % 2 == 0 ? SHUT_WR : SHUT_RDWR);
    }
    base::EventLoop& loop;
    Accept accept;
    std::deque<base::Fd> ends;
};

constexpr unsigned network = 4, sockets = 5, persistent = 6, scsi_host = 7;

Made make(unsigned kind, base::EventLoop& loop)
{
    if (kind == sockets) {
        return std::unique_ptr<virtio::Device>{
            std::make_unique<virtio::Vsock>(std::make_unique<Programs>(loop), 3, loop)};
    }
    if (kind == network) {
        return std::unique_ptr<virtio::Device>{std::make_unique<virtio::Net>(
            std::make_unique<Peer>(), virtio::Net::Options{{2, 0, 0, 0, 0, 1}})};
    }
    if (kind == 0) return std::unique_ptr<virtio::Device>{std::make_unique<virtio::Rng>()};
    if (kind == 1) {
        return std::unique_ptr<virtio::Device>{TRY(virtio::Balloon::create({4, true, true}, loop))};
    }
    if (kind == 2) {
        std::vector<virtio::Console::Port> ports(3);
        ports[0] = {"", true, std::make_unique<Console>()};
        ports[2] = {"port", false, std::make_unique<Console>()};
        return std::unique_ptr<virtio::Device>{
            std::make_unique<virtio::Console>(std::move(ports))};
    }
    backends::BlockOptions options;
    options.path = disk();
    options.format = backends::ImageFormat::raw;
    options.use_io_uring = false;
    if (kind == scsi_host) {
        std::vector<virtio::Scsi::Disk> disks;
        disks.push_back({TRY(backends::open_block(options, loop)), "disk"});
        return std::unique_ptr<virtio::Device>{std::make_unique<virtio::Scsi>(std::move(disks))};
    }
    if (kind == persistent) {
        return std::unique_ptr<virtio::Device>{std::make_unique<virtio::Pmem>(
            TRY(backends::open_block(options, loop)), virtio::PmemConfig{1 << 30, 1 << 16})};
    }
    return std::unique_ptr<virtio::Device>{std::make_unique<virtio::Block>(
        TRY(backends::open_block(options, loop)), virtio::Block::Options{"x", 2})};
}

struct World {
    std::unique_ptr<memory::GuestMemory> memory =
        std::move(memory::GuestMemory::create(ram)).value();
    bus::Bus bus;
    bus::DoorbellSet doorbells;
    Interrupts interrupts;
    devices::SharedLine line{interrupts, 16};
    World() { require(memory->add_slot(base::Gpa{0}, ram, 0).has_value()); }
    std::unique_ptr<virtio::Frontend> frontend(unsigned kind)
    {
        auto made = virtio::Frontend::create(
            "fuzz", {bus, *memory, doorbells},
            [kind](base::EventLoop& loop) { return make(kind, loop); },
            ~virtio::VIRTIO_F_ACCESS_PLATFORM);
        require(made.has_value());
        return std::move(made).value();
    }
};

void pump(virtio::Frontend& frontend)
{
    frontend.thread().loop().stop();
    frontend.thread().loop().run();
}

// A driver that gets as far as DRIVER_OK, so that the rings are reached.
void set_up(Input& input, World& world, bus::BusDevice& registers, unsigned device)
{
    const auto guard = world.bus.lock();
    const auto set = [&](std::uint64_t at, std::uint64_t value, std::size_t size) {
        std::array<std::byte, 8> data{};
        base::store_bytes(data, value);
        registers.write(at, std::span<const std::byte>{data}.first(size));
    };
    const std::uint64_t chosen = input.byte();
    set(0x14, 0, 1);
    set(0x14, 3, 1);
    set(0x08, 0, 4);
    std::array<std::byte, 4> offered{};
    registers.read(0x04, offered);
    const std::uint64_t low = device == network ? input.bytes(3) & base::load_bytes(offered)
                                                : chosen >> 3;
    set(0x0c, (chosen & 3) << 28 | low, 4);
    set(0x08, 1, 4);
    set(0x0c, 1 | (chosen & 4), 4);
    set(0x14, 11, 1);
    for (unsigned i = 0; i < 8; ++i) {
        set(0x16, i, 2);
        set(0x18, 4, 2);
        set(0x20, 0x1000 * (i % 4), 8);
        set(0x28, 0x1000 * (i % 4) + 0x100, 8);
        set(0x30, 0x1000 * (i % 4) + 0x200, 8);
        set(0x1c, 1, 2);
    }
    set(0x14, 15, 1);
}

constexpr std::uint64_t out_at = 0x4000, in_at = 0x8000;

// A split ring of set_up() gets a chain: so many bytes to read, so many to write.
void offer(World& world, unsigned queue, std::uint32_t out, std::uint32_t in)
{
    using namespace virtio;
    const std::uint64_t page = 0x1000 * queue;
    std::uint16_t index = 0;
    require(world.memory->read_value(base::Gpa{page + 0x102}, index));
    const auto head = static_cast<std::uint16_t>(index % 2 * 2);
    const auto second = static_cast<std::uint16_t>(head + 1);
    const SplitDescriptor first =
        out == 0 ? SplitDescriptor{in_at, in, VIRTQ_DESC_F_WRITE, 0}
                 : SplitDescriptor{out_at, out, in == 0 ? std::uint16_t{0} : VIRTQ_DESC_F_NEXT, second};
    require(world.memory->write_value(base::Gpa{page + 16u * head}, first) &&
            world.memory->write_value(base::Gpa{page + 16u * second},
                                      SplitDescriptor{in_at, in, VIRTQ_DESC_F_WRITE, 0}) &&
            world.memory->write_value(base::Gpa{page + 0x104 + 2u * (index % 4)}, head) &&
            world.memory->write_value(base::Gpa{page + 0x102}, static_cast<std::uint16_t>(index + 1)));
}

// A packet that is nearly right, and room for an answer.
void send_packet(Input& input, World& world)
{
    const std::uint8_t bits = input.byte(), ports = input.byte(), size = input.byte();
    virtio::VsockHeader header{3, virtio::host_cid, ports & 3u, ports >> 2u & 7u, size,
                               virtio::VIRTIO_VSOCK_TYPE_STREAM,
                               static_cast<virtio::VsockOp>(bits & 7), bits >> 3u & 3u,
                               bits & 32u ? 40u : 100000u, input.byte()};
    if ((ports & 0x20) != 0) header.dst_port = 1u << 30 | (ports & 7u);
    require(world.memory->write_value(base::Gpa{out_at}, header));
    offer(world, 1, static_cast<std::uint32_t>(sizeof header) + size - (bits >> 7), 0);
    offer(world, 0, 0, bits & 64u ? 50 : 4096);
}

// A command of those that there are, or task management.
void send_command(Input& input, World& world)
{
    static constexpr std::array<std::uint8_t, 24> opcodes{
        0x00, 0x03, 0x08, 0x0a, 0x12, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x35, 0x41,
        0x42, 0x5a, 0x88, 0x8a, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa, 0x5e, 0xff};
    const std::uint8_t what = input.byte(), sizes = input.byte();
    const virtio::ScsiLun lun{1, static_cast<std::uint8_t>(sizes & 1), 0x40, 0};
    if (what % 32 >= opcodes.size()) {
        const virtio::ScsiTaskRequest task{0, static_cast<virtio::ScsiTask>(what >> 5), lun, 0};
        require(world.memory->write_value(base::Gpa{out_at}, task));
        return offer(world, 0, sizeof task, 1);
    }
    virtio::scsi::Cdb cdb{opcodes[what % 32]};
    const std::size_t changes = what >> 5;
    for (std::size_t i = 0; i < changes; ++i) cdb[1 + input.byte() % 15] = input.byte();
    constexpr std::uint64_t behind = sizeof(virtio::ScsiRequest);
    require(world.memory->write_value(base::Gpa{out_at}, virtio::ScsiRequest{lun, 1, 0, 0, 0}) &&
            world.memory->write_value(base::Gpa{out_at + behind}, cdb));
    offer(world, 2, static_cast<std::uint32_t>(behind) + 32 + 512u * (sizes >> 1 & 7u),
          108u + 512u * (sizes >> 4 & 7u));
}

template <typename Transport>
void drive(Input& input, World& world, Transport& transport, unsigned device_kind,
           const std::vector<std::pair<bus::BusDevice*, std::uint64_t>>& ranges)
{
    while (!input.empty()) {
        const std::uint8_t what = input.byte();
        if (device_kind == sockets && what % 16 == 1) {
            send_packet(input, world);
            continue;
        }
        if (device_kind == scsi_host && what % 16 == 1) {
            send_command(input, world);
            continue;
        }
        switch (what % 8) {
        case 0: set_up(input, world, *ranges[0].first, device_kind); break;
        case 1:
        case 2:
        case 3: {  // nearly always: small values at the beginning of a page, where rings are
            std::array<std::byte, 16> bytes{};
            const std::uint64_t at = input.bytes(2) % (ram - bytes.size());
            const std::size_t count = what % 3 == 0 ? 16 : 2;
            for (std::size_t i = 0; i < count; ++i) bytes[i] = std::byte{input.byte()};
            require(world.memory->write(base::Gpa{at}, std::span{bytes}.first(count)));
            break;
        }
        case 4: {
            const auto guard = world.bus.lock();
            transport.frontend().ring(input.byte() % 8);
            break;
        }
        case 5: pump(transport.frontend()); break;
        case 6: {
            const auto guard = world.bus.lock();
            const auto& [device, size] = ranges[input.byte() % ranges.size()];
            access(input, *device, size);
            break;
        }
        default: {
            const auto guard = world.bus.lock();
            base::StateWriter writer;
            transport.save(writer);
            auto stream = writer.finish();
            if ((what & 8) != 0) stream[input.bytes(2) % stream.size()] ^= std::byte{input.byte()};
            const auto reader = base::StateReader::open(stream);
            if (reader) static_cast<void>(transport.load(*reader));
        }
        }
    }
    const auto guard = world.bus.lock();
    transport.reset();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    static const bool quiet = (spdlog::set_level(spdlog::level::off), true);
    require(quiet);
    Input input{data, size};
    World world;
    const std::uint8_t kind = input.byte();
    // Bit 2 is the transport.
    const unsigned device = (kind & 3) | (kind & 8) >> 1;
    if ((kind & 4) != 0) {
        virtio::MmioTransport transport{world.frontend(device), world.line, 0, 0xfeb00000};
        drive(input, world, transport, device, {{&transport, 0x200}});
    } else {
        virtio::PciTransport transport{world.frontend(device),
                                       {world.interrupts, world.line, 0, true}};
        std::vector<std::pair<bus::BusDevice*, std::uint64_t>> ranges{
            {transport.window(4).device, 0x4000}, {transport.window(1).device, 4096}};
        // Newer types have no legacy interface.
        if (transport.window(0).device != nullptr) {
            ranges.emplace_back(transport.window(0).device, 256);
        }
        drive(input, world, transport, device, ranges);
    }
    return 0;
}
