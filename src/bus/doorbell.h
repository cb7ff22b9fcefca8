// Guest writes that say no more than "look at the queue". An engine rings for them without
// leaving the guest for the VM loop.
//
//   guest writes ──▶ engine: bound? ──yes──▶ eventfd ──▶ the device's event loop or thread
//                              └──no──▶ exit ──▶ Bus ──▶ BusDevice::write ──▶ ring()
//
// A device makes a doorbell for each queue, waits on its descriptor, binds it where the guest
// put the register, binds it elsewhere when the guest moves that, and claims the register on the
// bus all the same: an engine may hand any write to the bus (it is of another size, binding
// failed, the instruction was emulated elsewhere). Both ways end in one eventfd, so the device's
// thread need not know which was taken. Rings merge, and one may come twice: each says "look",
// never "how many".
//
// As on the bus of a PC, memory comes first: at the address of RAM, or of the local APIC, a
// doorbell is never rung.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "bus/bus.h"

namespace doppel::bus {

// One access of this size to this very address; others are none of the doorbell's.
struct DoorbellAddress {
    Space space = Space::memory;
    std::uint64_t address = 0;            // guest-physical, or a port
    unsigned size = 0;                    // bytes: 1, 2, 4, or in memory 8
    std::optional<std::uint64_t> value;   // of this value only; nothing: any

    // The guest chooses addresses: not all of them can be.
    [[nodiscard]] bool valid() const;
    [[nodiscard]] bool takes(Space of, std::uint64_t at, unsigned bytes, std::uint64_t written) const
    {
        return address == at && size == bytes && space == of && (!value || *value == written);
    }
    // Some write would be both's.
    [[nodiscard]] bool collides(const DoorbellAddress& other) const
    {
        return address == other.address && size == other.size && space == other.space &&
               (!value || !other.value || value == other.value);
    }
};

// What is added to a doorbell's eventfd by a ring: 1, and in the upper half a processor of the
// host, from 1, that whoever serves it is to leave to the vCPU; 0: none. Linux's own rings (KVM's
// ioeventfd) ask for nothing.
[[nodiscard]] constexpr std::uint64_t ring_value(std::uint32_t processor)
{
    return static_cast<std::uint64_t>(processor) << 32 | 1;
}

// What an eventfd has added up.
class Rings {
public:
    Rings() = default;
    explicit Rings(std::uint64_t sum) : sum_(sum) {}
    explicit operator bool() const { return sum_ != 0; }
    // To leave to the vCPU, from 1; 0: none, or they do not agree.
    [[nodiscard]] std::uint32_t processor() const
    {
        const auto count = static_cast<std::uint32_t>(sum_);
        const auto processors = static_cast<std::uint32_t>(sum_ >> 32);
        return count != 0 && processors % count == 0 ? processors / count : 0;
    }

private:
    std::uint64_t sum_ = 0;
};

// Threads: any. Lock rule: calls take the engine's lock for doorbells, under which nothing else
// is locked; they may come with the device lock held.
class Doorbell {
public:
    virtual ~Doorbell() = default;  // unbinds; its descriptor is closed, or another's then

    // An eventfd, not blocking, the same for as long as the doorbell lives: readable when it was
    // rung since it was last read.
    [[nodiscard]] virtual int fd() const = 0;
    void ring() const noexcept;
    // Was it rung since last asked?
    [[nodiscard]] Rings take() const noexcept;

    // Instead of where it was bound before; on an error it is bound nowhere, and the guest's
    // writes go to the bus. Errors: not a possible address, it would collide with another
    // doorbell, the host refused.
    [[nodiscard]] virtual base::Result<void> bind(const DoorbellAddress& address) = 0;
    // A write that another thread has under way may still ring.
    virtual void unbind() noexcept = 0;
};

// What an engine offers to devices. Outlives the doorbells.
class Doorbells {
public:
    virtual ~Doorbells() = default;
    // Errors: too many, or the host refused. The device then has its register on the bus alone.
    [[nodiscard]] virtual base::Result<std::unique_ptr<Doorbell>> create() = 0;
};

}  // namespace doppel::bus
