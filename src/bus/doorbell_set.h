// The doorbells of an engine: their eventfds, and where they are bound. By itself all that an
// engine needs which sees the guest's writes in this process; others override what happens when
// one is bound.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>

#include "base/fd.h"
#include "bus/doorbell.h"

namespace doppel::bus {

// Threads: any.
class DoorbellSet : public Doorbells {
public:
    static constexpr unsigned most = 64;

    base::Result<std::unique_ptr<Doorbell>> create() override;
    // The guest wrote: rings whose doorbell that is. False: nobody's.
    [[nodiscard]] bool ring(Space space, std::uint64_t address, unsigned size,
                            std::uint64_t value) noexcept;
    [[nodiscard]] std::uint64_t rung() const { return rung_.load(std::memory_order_relaxed); }

protected:
    // Both with the lock held. index: below `most`, the doorbell's for as long as it lives.
    virtual base::Result<void> bound(unsigned index, int event, const DoorbellAddress& address)
    {
        static_cast<void>(index), static_cast<void>(event), static_cast<void>(address);
        return {};
    }
    virtual void unbound(unsigned index, int event, const DoorbellAddress& address) noexcept
    {
        static_cast<void>(index), static_cast<void>(event), static_cast<void>(address);
    }

    // Of all doorbells there may be, before there are any: they stay open from then on.
    base::Result<void> open_all();
    [[nodiscard]] int event(unsigned index) const { return slots_[index].event.get(); }
    [[nodiscard]] std::unique_lock<std::mutex> lock() { return std::unique_lock{mutex_}; }
    // With the lock held.
    [[nodiscard]] const std::optional<DoorbellAddress>& bound_at(unsigned index) const
    {
        return slots_[index].address;
    }

private:
    class Handle;
    struct Slot {
        base::Fd event;  // kept for the next doorbell here
        bool used = false;
        std::optional<DoorbellAddress> address;
    };
    base::Result<void> bind(unsigned index, const DoorbellAddress& address);
    void unbind(unsigned index) noexcept;
    void unbind_locked(unsigned index) noexcept;
    void release(unsigned index) noexcept;

    std::mutex mutex_;
    std::array<Slot, most> slots_;
    std::atomic<unsigned> bound_{0};  // how many are: none is the usual case
    std::atomic<std::uint64_t> rung_{0};
};

}  // namespace doppel::bus
