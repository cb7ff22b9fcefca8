#include "bus/doorbell_set.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace doppel::bus {

namespace {

base::Result<void> open_event(base::Fd& event)
{
    if (event.valid()) return {};
    event = base::Fd{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    if (!event.valid()) return base::errno_error(base::ErrorKind::host, "Cannot create an eventfd", errno);
    return {};
}

void ring_event(int event) noexcept
{
    // EAGAIN: it has been rung very often, and is readable.
    const std::uint64_t value = ring_value(0);
    static_cast<void>(::write(event, &value, sizeof value));
}

Rings take_event(int event) noexcept
{
    std::uint64_t sum = 0;
    return ::read(event, &sum, sizeof sum) == static_cast<ssize_t>(sizeof sum) ? Rings{sum} : Rings{};
}

}  // namespace

bool DoorbellAddress::valid() const
{
    const bool known_size = size == 1 || size == 2 || size == 4 || (size == 8 && space == Space::memory);
    if (!known_size) return false;
    if (value && size < 8 && *value >> (8 * size) != 0) return false;
    const std::uint64_t last = space == Space::port ? 0xffff : ~std::uint64_t{0};
    return address <= last - (size - 1);
}

void Doorbell::ring() const noexcept { ring_event(fd()); }
Rings Doorbell::take() const noexcept { return take_event(fd()); }

// What a device holds.
class DoorbellSet::Handle final : public Doorbell {
public:
    Handle(DoorbellSet& set, unsigned index) : set_(set), index_(index) {}
    ~Handle() override { set_.release(index_); }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    [[nodiscard]] int fd() const override { return set_.event(index_); }
    base::Result<void> bind(const DoorbellAddress& address) override
    {
        return set_.bind(index_, address);
    }
    void unbind() noexcept override { set_.unbind(index_); }

private:
    DoorbellSet& set_;
    unsigned index_;
};

base::Result<std::unique_ptr<Doorbell>> DoorbellSet::create()
{
    const std::lock_guard guard{mutex_};
    const auto free = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.used; });
    if (free == slots_.end()) {
        return base::host_error(fmt::format("A machine has at most {} doorbells", most));
    }
    TRY(open_event(free->event));
    // Rings for the one that was here before.
    static_cast<void>(take_event(free->event.get()));
    free->used = true;
    const auto index = static_cast<unsigned>(free - slots_.begin());
    return std::unique_ptr<Doorbell>{std::make_unique<Handle>(*this, index)};
}

base::Result<void> DoorbellSet::open_all()
{
    const std::lock_guard guard{mutex_};
    for (Slot& slot : slots_) TRY(open_event(slot.event));
    return {};
}

base::Result<void> DoorbellSet::bind(unsigned index, const DoorbellAddress& address)
{
    const std::lock_guard guard{mutex_};
    unbind_locked(index);
    if (!address.valid()) {
        return base::host_error(fmt::format("No doorbell can be at {} {:#x} with {} bytes",
                                            address.space == Space::port ? "port" : "address",
                                            address.address, address.size));
    }
    for (const Slot& other : slots_) {
        if (!other.address || !other.address->collides(address)) continue;
        return base::host_error(fmt::format("There is a doorbell at {} {:#x} already",
                                            address.space == Space::port ? "port" : "address",
                                            address.address));
    }
    TRY(bound(index, event(index), address));
    slots_[index].address = address;
    bound_.fetch_add(1, std::memory_order_release);
    return {};
}

void DoorbellSet::unbind_locked(unsigned index) noexcept
{
    Slot& slot = slots_[index];
    if (!slot.address) return;
    unbound(index, slot.event.get(), *slot.address);
    slot.address.reset();
    bound_.fetch_sub(1, std::memory_order_release);
}

void DoorbellSet::unbind(unsigned index) noexcept
{
    const std::lock_guard guard{mutex_};
    unbind_locked(index);
}

void DoorbellSet::release(unsigned index) noexcept
{
    const std::lock_guard guard{mutex_};
    unbind_locked(index);
    slots_[index].used = false;
}

bool DoorbellSet::ring(Space space, std::uint64_t address, unsigned size, std::uint64_t value) noexcept
{
    if (bound_.load(std::memory_order_acquire) == 0) return false;
    const std::lock_guard guard{mutex_};
    for (const Slot& slot : slots_) {
        if (!slot.address || !slot.address->takes(space, address, size, value)) continue;
        ring_event(slot.event.get());
        rung_.fetch_add(1, std::memory_order_relaxed);
        return true;
    }
    return false;
}

}  // namespace doppel::bus
