// The machine: guest memory, the bus and every device on it, wired as on a PC.
//
//   Vm ──▶ Pc ──▶ Bus ──▶ devices ──▶ InterruptSink (the engine's, or our PIC and I/O APIC)
//           └──▶ GuestImage ──▶ guest memory
//
// Threads: create() and restart() while no vCPU runs; restart() may come from the only vCPU's
// thread. Events are called with the device lock held, from whichever thread wrote the
// register: they may set flags and kick, and must not enter the bus.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "backends/character/character_backend.h"
#include "base/counters.h"
#include "base/result.h"
#include "base/state/state_stream.h"
#include "bus/bus.h"
#include "bus/clock.h"
#include "engine/engine.h"
#include "machine/boot/guest_image.h"
#include "machine/virtio_devices.h"
#include "memory/guest_memory.h"
#include "x86/cpu_state.h"

namespace doppel::machine {

struct PcConfig {
    unsigned vcpus = 1;
    std::optional<std::uint16_t> debug_exit_port;
    std::vector<VirtioSpec> virtio;
    std::vector<std::uint64_t> file_sizes;  // bytes, of files that are memory
};

// What the guest asks of the outside.
struct PcEvents {
    std::function<void()> power_off;
    std::function<void()> reset;
    std::function<void(std::uint64_t value)> debug_exit;
};

// What a machine is made around; all of it outlives the machine.
struct PcParts {
    memory::GuestMemory& memory;
    bus::VmClock& clock;
    engine::Engine& engine;
    backends::CharacterBackend& console;
};

class Pc {
public:
    // RAM with its slots, as the memory map describes it, and the files' at their file_places().
    // ram_bytes as for make_memory_map.
    static base::Result<std::unique_ptr<memory::GuestMemory>> create_memory(
        std::uint64_t ram_bytes, std::vector<memory::MemoryFile> files = {});
    // A usage error when debug_exit_port belongs to a device of the machine.
    static base::Result<void> check(const PcConfig& config);
    // For GuestImage::prepare().
    static acpi::Topology topology(const PcConfig& config, std::uint64_t ram_bytes);

    // Claims the ports and ranges; fails as check() does, and where a device does.
    static base::Result<std::unique_ptr<Pc>> create(const PcParts& parts, const PcConfig& config,
                                                    std::unique_ptr<boot::GuestImage> image,
                                                    PcEvents events);
    virtual ~Pc() = default;

    virtual bus::Bus& bus() = 0;
    // Power-on, and reset in place: RAM zeroed, devices and engine reset, the guest loaded
    // again. The bootstrap vCPU then starts from entry(). The first time, devices' threads start.
    virtual base::Result<void> restart() = 0;
    // Ends those threads, for good. No vCPU runs; the engine's vCPUs still exist.
    virtual void stop() = 0;
    [[nodiscard]] virtual const x86::CpuState& entry() const = 0;

    virtual void counters(base::CounterList& list) const = 0;
    virtual void save(base::StateWriter& writer) const = 0;
    virtual base::Result<void> load(const base::StateReader& reader) = 0;
};

}  // namespace doppel::machine
