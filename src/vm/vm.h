// One virtual machine, from configuration to its end.
//
//   create() ──▶ configured ──run()──▶ running ──▶ stopped
//                                      │    ▲
//                                      └────┘ guest reboot: the machine restarts in place
//
// Threads: create() and run() on one thread, which runs the event loop while a thread of
// its own runs the vCPU. stop() and request_stats() from any thread. stats() when not running.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/counters.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "engine/engine.h"
#include "vm/switching_engine.h"
#include "vm/vm_config.h"

namespace doppel::vm {

// How a run ended.
struct VmResult {
    enum class Kind {
        powered_off,   // the guest turned itself off
        debug_exit,    // it wrote `value` to the --debug-exit port
        triple_fault,  // text: what the engine says about it
        left_by_user,  // the console's escape, or Vm::stop()
        signalled,     // SIGINT, SIGTERM or SIGHUP; value: which
        failed,        // the engine or the host gave up; text: why
    };
    Kind kind = Kind::powered_off;
    std::uint64_t value = 0;
    std::string text;

    // Of the process: 0 powered off or left, (value << 1) | 1 in 8 bits for a debug exit,
    // 4 triple fault, 3 failed, 128 + signal.
    [[nodiscard]] int exit_status() const;
};

struct VmStats {
    std::string engine;
    double wall_seconds = 0;                      // of run()
    std::optional<std::uint64_t> instructions;    // where the engine counts them
    base::CounterList counters;                   // "exits.*", the engine's, the bus's
};

// The engine of that kind, from this binary.
EngineFactory engine_factory(engine::EngineKind kind);

class Vm {
public:
    enum class State { configured, running, stopped };

    // Reads and checks every file, builds the machine and loads the guest. Nothing outside
    // this process is touched before all checks passed; a terminal is changed only by run().
    static base::Result<std::unique_ptr<Vm>> create(const VmConfig& config);
    // With an engine of the caller's, for tests.
    static base::Result<std::unique_ptr<Vm>> create(const VmConfig& config,
                                                    const EngineFactory& factory);
    // With engines that take turns, or one; config.engine and next_engines are for statistics.
    static base::Result<std::unique_ptr<Vm>> create(const VmConfig& config,
                                                    std::span<const EngineFactory> factories);
    virtual ~Vm() = default;

    // Once. Handles SIGINT, SIGTERM and SIGHUP while it runs, with several engines SIGUSR2, too,
    // which gives the guest to the next one; the console's output is out
    // when it returns.
    virtual VmResult run() = 0;
    virtual void stop() = 0;
    [[nodiscard]] virtual State state() const = 0;
    [[nodiscard]] virtual VmStats stats() const = 0;
    // The same of a VM that runs: calls back once, on the thread of the event loop, when the vCPU
    // has come out of the guest to be asked, which costs the guest some microseconds. A VM that ends
    // first does not call.
    virtual void request_stats(std::function<void(VmStats)> reply) = 0;
    [[nodiscard]] virtual base::EventLoop& event_loop() = 0;
};

}  // namespace doppel::vm
