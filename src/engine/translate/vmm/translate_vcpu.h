// A vCPU of the translate engine: the VMM's side. The worker process runs the guest; this asks,
// waits, and hands the worker's exits to the VM loop.
//
//   vCPU thread:  run() = { Request::run; await; answer acknowledge and EOI; Reply ─▶ Exit }
//   any thread:   post(), kick() ─▶ EventPost
//
// Lock rule as in engine/interpret/vcpu.h: calls to the InterruptSource, which take the device
// lock, are made from run() with no lock of ours held; EventPost's mutex may be taken with the
// device lock held.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "engine/translate/link/spin_budget.h"
#include "engine/translate/vmm/arena.h"
#include "engine/translate/vmm/doorbells.h"
#include "engine/translate/vmm/launch.h"
#include "engine/translate/vmm/post.h"
#include "engine/translate/vmm/run_delay.h"
#include "engine/translate/vmm/samples.h"
#include "engine/translate/vmm/shared_commons.h"

namespace doppel::engine::translate {

// A worker that has begun: the first half of creating a vCPU.
struct StartedWorker {
    Arena arena;
    std::unique_ptr<WorkerProcess> process;

    static base::Result<StartedWorker> start(const EngineConfig& config, unsigned index,
                                             const SharedCommons& commons,
                                             const DoorbellEvents& doorbells);
};

class TranslateVcpu final : public Vcpu {
public:
    // `source` is where the engine keeps what connect() gave it; nullptr inside: nobody. All workers
    // of the VM have been started: it waits until this one has set itself up.
    static base::Result<std::unique_ptr<TranslateVcpu>> create(const EngineConfig& config,
                                                               unsigned index,
                                                               bus::InterruptSource* const& source,
                                                               const SharedCommons& commons,
                                                               StartedWorker worker);

    // Vcpu
    Exit run() noexcept override;
    void complete_read(std::uint64_t value) noexcept override;
    void kick() noexcept override { post_.kick(); }
    void wait() noexcept override;
    x86::CpuState state() noexcept override;
    void set_state(const x86::CpuState& state) noexcept override;
    bool between_instructions() noexcept override;
    base::Result<void> hand_over(HandOver& to) noexcept override;
    base::Result<void> take_over(const HandOver& from) noexcept override;
    void set_budget(std::uint64_t instructions) noexcept override { budget_ = instructions; }
    std::uint64_t instructions() const noexcept override;
    void counters(base::CounterList& list) const override;
    [[nodiscard]] RunTime run_time() const override;

    // Interrupts, from any thread.
    void post(const Event& event) noexcept { post_.post(event); }
    void reset_apic() noexcept;

private:
    TranslateVcpu(const EngineConfig& config, unsigned index, bus::InterruptSource* const& source,
                  const SharedCommons& commons, StartedWorker worker);

    void send(Request request) const noexcept;
    // Nothing: there will be no reply, see failure_.
    std::optional<Reply> await(bool running) const noexcept;
    // Waits that long; takes a sample when one is due. True: there is a reply.
    bool replied_or_sampled(std::uint64_t now_ns, std::uint64_t ns) const noexcept;
    std::optional<Reply> call(Request request) const noexcept;
    bool replied_within(std::uint64_t deadline_ns) const noexcept;
    void publish_clock() const noexcept;
    void publish_steal(std::uint64_t now_ns) const noexcept;
    [[nodiscard]] Exit exit_of(Reply reply) noexcept;
    [[nodiscard]] Exit nonsense(const char* what) noexcept;

    EngineConfig config_;
    bus::InterruptSource* const& source_;
    const SharedCommons& commons_;
    Arena arena_;
    Mailbox& mailbox_;
    Seat& seat_;
    std::unique_ptr<WorkerProcess> process_;
    EventPost post_;
    mutable RunDelay run_delay_;
    mutable Samples samples_;

    std::uint64_t budget_ = 0;
    std::optional<std::uint64_t> read_;  // the answer to the last read, to go with run
    mutable std::uint32_t turn_ = 0;
    const std::uint32_t looks_max_;
    mutable std::uint32_t looks_;        // for a reply, before sleeping
    mutable SpinBudget spin_;
    mutable std::string failure_;        // why the worker cannot be talked to any more
    struct {
        std::uint64_t acknowledges = 0, ends = 0;
    } counts_;
};

}  // namespace doppel::engine::translate
