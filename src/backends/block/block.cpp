#include "backends/block/block.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>

namespace doppel::backends {

std::string_view name(Status status)
{
    switch (status) {
        case Status::ok: return "ok";
        case Status::io_error: return "I/O error";
        case Status::no_space: return "no space";
        case Status::unsupported: return "unsupported";
        case Status::invalid: return "invalid request";
    }
    return "unknown";
}

BlockBackend::BlockBackend(base::EventLoop& loop, BlockProperties properties)
    : loop_(loop), properties_(properties)
{
}

base::Result<void> BlockBackend::watch()
{
    completed_fd_ = base::Fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!completed_fd_.valid()) {
        return base::errno_error(base::ErrorKind::host, "Cannot create eventfd", errno);
    }
    TRY(loop_.add(completed_fd_.get(), EPOLLIN, [this](std::uint32_t) { deliver(); }));
    watched_ = true;
    return {};
}

BlockBackend::~BlockBackend()
{
    if (watched_) loop_.remove(completed_fd_.get());
}

bool BlockBackend::acceptable(const Request& request) const
{
    using Kind = Request::Kind;
    const bool has_data = request.kind == Kind::read || request.kind == Kind::write;
    if (request.kind == Kind::flush) return request.offset == 0 && request.length == 0;
    if (request.kind != Kind::read && properties_.read_only) return false;
    const std::uint64_t block = properties_.logical_block_size;
    if (request.offset % block != 0 || request.length % block != 0) return false;
    if (request.offset > properties_.size || request.length > properties_.size - request.offset) {
        return false;
    }
    if (!has_data) return request.buffers.empty();
    if (request.buffers.size() > most_buffers) return false;
    std::uint64_t total = 0;
    for (const iovec& buffer : request.buffers) {
        if (buffer.iov_len > request.length - total) return false;
        total += buffer.iov_len;
    }
    return total == request.length;
}

void BlockBackend::submit(std::span<Request> requests) noexcept
{
    in_flight_ += requests.size();
    std::size_t first = 0;
    const auto start_up_to = [&](std::size_t end) {
        if (end > first) start(requests.subspan(first, end - first));
        first = end + 1;
    };
    for (std::size_t i = 0; i < requests.size(); ++i) {
        Request& request = requests[i];
        const bool unsupported =
            (request.kind == Request::Kind::discard && !properties_.discard) ||
            (request.kind == Request::Kind::write_zeroes && !properties_.write_zeroes);
        const bool good = acceptable(request);
        // Nothing to do, and nothing the layers below need to think about.
        const bool empty = request.length == 0 && request.kind != Request::Kind::flush;
        if (good && !unsupported && !empty) continue;
        if (!good) ++rejected_;
        start_up_to(i);
        finish(std::move(request), !good          ? Status::invalid
                                   : unsupported  ? Status::unsupported
                                                  : Status::ok);
    }
    start_up_to(requests.size());
}

void BlockBackend::finish(Request&& request, Status status) noexcept
{
    {
        const std::lock_guard lock{completed_mutex_};
        completed_.push_back({request.kind, status, request.length, std::move(request.done)});
        if (collecting_) return;
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(completed_fd_.get(), &one, sizeof one);
}

void BlockBackend::deliver() noexcept
{
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(completed_fd_.get(), &count, sizeof count);
    {
        const std::lock_guard lock{completed_mutex_};
        collecting_ = true;
    }
    collect();
    std::vector<Completion> completions;
    {
        const std::lock_guard lock{completed_mutex_};
        completions.swap(completed_);
        collecting_ = false;
    }
    for (Completion& completion : completions) {
        ASSERT(in_flight_ > 0);
        --in_flight_;
        Totals& totals = totals_[static_cast<std::size_t>(completion.kind)];
        if (completion.status == Status::ok) {
            ++totals.requests;
            totals.bytes += completion.length;
        } else if (completion.status != Status::invalid) {
            ++errors_;
        }
        if (completion.done) completion.done(completion.status);
    }
    if (!completions.empty() && batch_done_) batch_done_();
}

void BlockBackend::drain() noexcept
{
    while (in_flight_ > 0) {
        hurry();
        pollfd completed{completed_fd_.get(), POLLIN, 0};
        if (::poll(&completed, 1, -1) > 0) deliver();
    }
}

void BlockBackend::counters(base::CounterList& list, std::string_view prefix) const
{
    static constexpr std::string_view names[] = {"read", "write", "flush", "discard",
                                                 "write_zeroes"};
    const std::string front = std::string{prefix} + ".";
    for (std::size_t i = 0; i < std::size(names); ++i) {
        list.add(front + std::string{names[i]} + ".requests", totals_[i].requests);
        if (i != static_cast<std::size_t>(Request::Kind::flush)) {
            list.add(front + std::string{names[i]} + ".bytes", totals_[i].bytes);
        }
    }
    list.add(front + "errors", errors_);
    list.add(front + "rejected", rejected_);
}

}  // namespace doppel::backends
