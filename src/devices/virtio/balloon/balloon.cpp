#include "devices/virtio/balloon/balloon.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "base/bytes.h"

namespace doppel::devices::virtio {

namespace {

constexpr unsigned inflate_queue = 0, deflate_queue = 1, statistics_queue = 2;
constexpr time_t statistics_seconds = 10;
// Of one chain: Linux sends 256 page numbers at the most.
constexpr unsigned most_pages = 4096;

}  // namespace

base::Result<std::unique_ptr<Balloon>> Balloon::create(const Options& options,
                                                       base::EventLoop& loop)
{
    std::unique_ptr<Balloon> balloon{new Balloon{options, loop}};
    balloon->timer_ = base::Fd{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
    if (!balloon->timer_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create a timer", errno);
    }
    TRY(loop.add(balloon->timer_.get(), EPOLLIN,
                 [raw = balloon.get()](std::uint32_t) { raw->ask_for_statistics(); }));
    return balloon;
}

Balloon::~Balloon()
{
    loop_.remove(timer_.get());
}

const Identity& Balloon::identity() const
{
    // Pages in and out, statistics, and reports: Linux has those in the queue behind the last one
    // in use, the specification in the fifth one.
    static constexpr std::array<std::uint16_t, 5> queues{128, 128, 128, 128, 128};
    static constexpr Identity identity{DeviceId::balloon, "balloon", 0x00ff00, queues};
    return identity;
}

Features Balloon::features() const
{
    return VIRTIO_BALLOON_F_STATS_VQ |
           (options_.deflate_on_oom ? VIRTIO_BALLOON_F_DEFLATE_ON_OOM : 0) |
           (options_.reporting ? VIRTIO_BALLOON_F_PAGE_REPORTING : 0);
}

std::span<const std::byte> Balloon::config() const
{
    return std::as_bytes(std::span{&config_, 1});
}

void Balloon::write_config(std::size_t offset, std::span<const std::byte> data) noexcept
{
    if (offset != offsetof(BalloonConfig, actual) || data.size() != sizeof config_.actual) return;
    config_.actual = base::load_le<std::uint32_t>(data.data());
    actual_ = config_.actual;
}

void Balloon::set_target(std::uint32_t pages)
{
    config_.num_pages = pages;
    if (listener_ != nullptr) listener_->config_changed();
}

void Balloon::activate(Active& active) noexcept
{
    active_ = &active;
    const itimerspec interval{{statistics_seconds, 0}, {statistics_seconds, 0}};
    ::timerfd_settime(timer_.get(), 0, &interval, nullptr);
}

void Balloon::deactivate() noexcept
{
    active_ = nullptr;
    config_.actual = 0;
    actual_ = 0;
    const itimerspec never{};
    ::timerfd_settime(timer_.get(), 0, &never, nullptr);
}

void Balloon::process(unsigned queue) noexcept
{
    const bool statistics = (active_->features() & VIRTIO_BALLOON_F_STATS_VQ) != 0;
    if (queue == inflate_queue || queue == deflate_queue) {
        take_pages(queue, queue == inflate_queue);
    } else if (queue == statistics_queue && statistics) {
        take_statistics();
    } else {
        take_reports(queue);
    }
}

void Balloon::release(memory::GuestMemory& memory, std::uint64_t first_page, std::uint64_t pages)
{
    const base::Gpa start{first_page << base::page_shift};
    if (memory.discard(start, pages << base::page_shift)) {
        released_.fetch_add(pages, std::memory_order_relaxed);
    } else {
        refused_.fetch_add(pages, std::memory_order_relaxed);
    }
}

// Chains of page numbers, 32 bits each.
void Balloon::take_pages(unsigned index, bool inflate)
{
    Queue& queue = *active_->queue(index);
    unsigned chains = 0;
    for (; chains < chains_at_once && queue.pop(chain_); ++chains) {
        std::array<std::uint32_t, most_pages> pages;
        const std::size_t count =
            ChainReader{chain_}.read(std::as_writable_bytes(std::span{pages})) / sizeof pages[0];
        if (!inflate) returned_.fetch_add(count, std::memory_order_relaxed);
        for (std::size_t i = 0; inflate && i < count;) {
            std::size_t run = 1;  // that follow each other, in either direction
            const bool down = i + 1 < count && pages[i + 1] + 1 == pages[i];
            while (i + run < count &&
                   pages[i + run] == (down ? pages[i] - run : pages[i] + run)) {
                ++run;
            }
            release(active_->dma().memory(), down ? pages[i + run - 1] : pages[i], run);
            i += run;
        }
        queue.push(chain_, 0);
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

// The buffer with the statistics stays in the queue; giving it back asks for new ones.
void Balloon::take_statistics()
{
    Queue& queue = *active_->queue(statistics_queue);
    if (!queue.pop(chain_)) return;
    ChainReader reader{chain_};
    BalloonStatistic statistic{};
    for (unsigned i = 0; i < 64 && reader.read_value(statistic); ++i) {
        if (statistic.tag < statistic_count) statistics_[statistic.tag] = statistic.value;
    }
    queue.unpop(chain_);
}

void Balloon::ask_for_statistics()
{
    std::uint64_t expirations = 0;
    if (::read(timer_.get(), &expirations, sizeof expirations) < 0) return;
    if (active_ == nullptr || (active_->features() & VIRTIO_BALLOON_F_STATS_VQ) == 0) return;
    Queue* queue = active_->queue(statistics_queue);
    if (queue == nullptr || !queue->pop(chain_)) return;
    queue->push(chain_, 0);
    queue->signal();
    // The next buffer is announced by a ring that pop() asks for when it finds none.
    if (queue->pop(chain_)) {
        queue->unpop(chain_);
        active_->ring(statistics_queue);
    }
}

void Balloon::take_reports(unsigned index)
{
    Queue& queue = *active_->queue(index);
    unsigned chains = 0;
    for (; chains < chains_at_once && queue.pop(chain_); ++chains) {
        for (const DmaSpan& span : chain_.writable()) {
            // Only pages that are free as a whole.
            const std::uint64_t first = (span.at.value + base::page_mask) >> base::page_shift;
            const std::uint64_t end = (span.at.value + span.bytes.size()) >> base::page_shift;
            if (first >= end) continue;
            reported_.fetch_add(end - first, std::memory_order_relaxed);
            release(active_->dma().memory(), first, end - first);
        }
        queue.push(chain_, 0);
    }
    queue.signal();
    if (chains == chains_at_once) active_->ring(index);
}

void Balloon::save(base::StateWriter& writer, std::string_view section) const
{
    writer.section(section, 1, config_);
}

base::Result<void> Balloon::load(const base::StateReader& reader, std::string_view section)
{
    config_ = TRY(reader.section_as<BalloonConfig>(section, 1));
    actual_ = config_.actual;
    return {};
}

void Balloon::counters(base::CounterList& list, std::string_view prefix) const
{
    const std::string owner{prefix};
    list.add(owner + ".actual_pages", actual_);
    list.add(owner + ".released_pages", released_);
    list.add(owner + ".returned_pages", returned_);
    list.add(owner + ".reported_pages", reported_);
    list.add(owner + ".refused_pages", refused_);
    constexpr std::array names{"swap_in", "swap_out", "major_faults", "minor_faults", "free_memory",
                               "total_memory", "available_memory", "disk_caches"};
    for (std::size_t i = 0; i < names.size(); ++i) {
        list.add(owner + ".guest_" + names[i], statistics_[i]);
    }
}

}  // namespace doppel::devices::virtio
