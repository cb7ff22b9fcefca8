#include "backends/block/uring_backend.h"

#include <cerrno>

#include "backends/block/image_backend.h"

namespace doppel::backends {

using Kind = Request::Kind;

bool UringBackend::suits(const HostFile& file)
{
    return !file.direct() || file.properties().alignment <= 512;
}

base::Result<std::unique_ptr<BlockBackend>> UringBackend::create(base::EventLoop& loop,
                                                                 std::unique_ptr<Image>& image,
                                                                 const Below& below,
                                                                 const BlockProperties& properties,
                                                                 CacheMode cache)
{
    std::unique_ptr<UringBackend> backend{new UringBackend{loop, properties, cache}};
    TRY(backend->watch());
    const int made = ::io_uring_queue_init(depth, &backend->ring_, 0);
    if (made < 0) return base::errno_error(base::ErrorKind::host, "No io_uring", -made);
    backend->ring_made_ = true;
    const int told = ::io_uring_register_eventfd(&backend->ring_, backend->completion_fd());
    if (told < 0) return base::errno_error(base::ErrorKind::host, "No io_uring eventfd", -told);
    backend->below_ = below;
    backend->image_ = std::move(image);
    return std::unique_ptr<BlockBackend>{std::move(backend)};
}

UringBackend::~UringBackend()
{
    pool_.stop();
    if (!ring_made_) return;
    // The kernel still has callers' buffers.
    while (active_ > 0) {
        io_uring_cqe* done = nullptr;
        const int result = ::io_uring_submit_and_wait(&ring_, 1);
        if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) break;
        while (::io_uring_peek_cqe(&ring_, &done) == 0) {
            const std::unique_ptr<Held> held{static_cast<Held*>(::io_uring_cqe_get_data(done))};
            end_place(*held);
            ::io_uring_cqe_seen(&ring_, done);
            --active_;
        }
    }
    for (const Held& held : waiting_) end_place(held);
    ::io_uring_queue_exit(&ring_);
}

// Where it is in the file; nothing: threads do it.
std::optional<Image::Direct> UringBackend::place_of(const Request& request)
{
    const bool writes = request.kind == Kind::write;
    if (request.kind == Kind::flush && below_.sync_is_flush) return Image::Direct{};
    if (request.kind != Kind::read && !writes) return std::nullopt;
    // On the disk when its table is, too.
    if (request.fua && !below_.sync_is_flush) return std::nullopt;
    const auto place = image_->begin_direct(writes ? Image::Access::write : Image::Access::read,
                                            request.offset, request.length);
    if (place && !below_.file->takes(place->offset, request.buffers)) {
        image_->end_direct(*place);
        return std::nullopt;
    }
    return place;
}

void UringBackend::end_place(const Held& held)
{
    if (held.request.kind != Kind::flush) image_->end_direct(held.place);
}

void UringBackend::start(std::span<Request> requests) noexcept
{
    for (Request& request : requests) {
        if (request.kind == Kind::flush && (unsafe_ || properties().read_only)) {
            finish(std::move(request), Status::ok);
        } else if (request.kind == Kind::flush && below_.file->flush_failed()) {
            finish(std::move(request), Status::io_error);
        } else if (const auto place = place_of(request); !place) {
            perform_on_thread(std::move(request));
        } else if (active_ < depth && waiting_.empty()) {
            queue({std::move(request), *place});
        } else {
            waiting_.push_back({std::move(request), *place});
        }
    }
    submit_queued();
}

void UringBackend::submit_queued()
{
    ::io_uring_submit(&ring_);
    if (::io_uring_sq_ready(&ring_) == 0) return;
    // The kernel is short of something: collect() tries again, from the loop or from drain().
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(completion_fd(), &one, sizeof one);
}

void UringBackend::queue(Held&& what)
{
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr) {
        ::io_uring_submit(&ring_);
        entry = ::io_uring_get_sqe(&ring_);
    }
    if (entry == nullptr) {  // the kernel takes nothing at the moment
        end_place(what);
        perform_on_thread(std::move(what.request));
        return;
    }
    auto* held = new Held{std::move(what)};
    const Request& request = held->request;
    const auto count = static_cast<unsigned>(request.buffers.size());
    const int file = below_.file->descriptor();
    switch (request.kind) {
        case Kind::read:
            ::io_uring_prep_readv(entry, file, request.buffers.data(), count, held->place.offset);
            break;
        case Kind::write:
            ::io_uring_prep_writev2(entry, file, request.buffers.data(), count,
                                    held->place.offset,
                                    request.fua && !unsafe_ ? RWF_DSYNC : 0);
            break;
        default: ::io_uring_prep_fsync(entry, file, IORING_FSYNC_DATASYNC); break;
    }
    ::io_uring_sqe_set_data(entry, held);
    ++active_;
}

void UringBackend::collect() noexcept
{
    io_uring_cqe* done = nullptr;
    while (::io_uring_peek_cqe(&ring_, &done) == 0) {
        const std::unique_ptr<Held> held{static_cast<Held*>(::io_uring_cqe_get_data(done))};
        const int result = done->res;
        ::io_uring_cqe_seen(&ring_, done);
        --active_;
        completed(std::move(*held), result);
    }
    while (!waiting_.empty() && active_ < depth) {
        queue(std::move(waiting_.front()));
        waiting_.pop_front();
    }
    if (::io_uring_sq_ready(&ring_) != 0) submit_queued();
}

void UringBackend::completed(Held&& held, int result)
{
    end_place(held);
    Request& request = held.request;
    if (request.kind == Kind::flush) {
        if (result < 0) below_.file->note_failed_flush();
        finish(std::move(request), result < 0 ? Status::io_error : Status::ok);
        return;
    }
    if (result >= 0 && static_cast<std::uint64_t>(result) == request.length) {
        finish(std::move(request), Status::ok);
    } else if (result >= 0 || result == -EAGAIN || result == -EINTR) {
        perform_on_thread(std::move(request));  // all of it once more
    } else {
        finish(std::move(request), status_of(-result));
    }
}

void UringBackend::perform_on_thread(Request&& request)
{
    auto held = std::make_shared<Request>(std::move(request));
    const auto task = [this, held] {
        const Status status = perform(*image_, *held);
        finish(std::move(*held), status);
    };
    if (!pool_.run(task)) task();
}

}  // namespace doppel::backends
