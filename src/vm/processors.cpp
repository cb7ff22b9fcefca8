#include "vm/processors.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <string>

#include "base/bytes.h"

namespace doppel::vm {

namespace {

using engine::Exit;

// By index of the alternatives of engine::Exit.
constexpr std::array<std::string_view, std::variant_size_v<Exit>> exit_names{
    "kick", "io_read", "io_write", "mmio_read", "mmio_write", "halt", "shutdown", "error"};

std::uint64_t now_ns()
{
    using namespace std::chrono;
    return static_cast<std::uint64_t>(
        duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
}

// Sums what has one name, in the order of the names' first appearance.
void add_sums(const base::CounterList& of, base::CounterList& to)
{
    std::map<std::string_view, std::uint64_t> sums;
    for (const auto& [name, value] : of.values()) sums[name] += value;
    for (const auto& [name, value] : of.values()) {
        if (const auto sum = sums.extract(name)) to.add(name, sum.mapped());
    }
}

}  // namespace

base::Result<void> Processors::create(engine::Engine& engine, unsigned count)
{
    for (unsigned i = 0; i < count; ++i) {
        auto processor = std::make_unique<Processor>();
        processor->vcpu = TRY(engine.create_vcpu(i));
        processors_.push_back(std::move(processor));
    }
    return {};
}

void Processors::start()
{
    for (const auto& processor : processors_) {
        processor->thread = std::thread{[this, raw = processor.get(),
                                         first = processor == processors_.front()] {
            run(*raw, first);
            if (first && on_end_) on_end_();
        }};
    }
}

void Processors::stop() noexcept
{
    {
        const std::lock_guard lock{mutex_};
        stopping_ = true;
    }
    changed_.notify_all();
    kick();
}

void Processors::join()
{
    for (const auto& processor : processors_) {
        if (processor->thread.joinable()) processor->thread.join();
    }
}

void Processors::kick() noexcept
{
    for (const auto& processor : processors_) processor->vcpu->kick();
}

void Processors::meet() noexcept
{
    meeting_ = true;
    kick();
}

// ---- running -----------------------------------------------------------------------------------

void Processors::run(Processor& processor, bool first) noexcept
{
    std::uint64_t entered = now_ns();
    while (!stopping_) {
        if (meeting_) {
            come_together(first);
            entered = now_ns();
            continue;
        }
        const Exit exit = processor.vcpu->run();
        const std::uint64_t left = now_ns();
        processor.in_run += left - entered;
        ++processor.exits[exit.index()];
        handle(*processor.vcpu, exit);
        entered = now_ns();
        const bool halted = std::holds_alternative<engine::HaltExit>(exit);
        (halted ? processor.in_wait : processor.answering) += entered - left;
    }
}

void Processors::come_together(bool first)
{
    std::unique_lock lock{mutex_};
    const std::uint64_t meeting = meetings_;
    ++waiting_;
    changed_.notify_all();
    if (!first) {
        changed_.wait(lock, [&] { return meetings_ != meeting || stopping_; });
        return;
    }
    changed_.wait(lock, [&] { return waiting_ == processors_.size() || stopping_; });
    if (stopping_) return;
    // Who asks from now on asks for another one.
    meeting_ = false;
    lock.unlock();
    events_.between();
    lock.lock();
    waiting_ = 0;
    ++meetings_;
    changed_.notify_all();
}

void Processors::serve_read(engine::Vcpu& vcpu, bus::Space space, std::uint64_t address,
                            unsigned size) noexcept
{
    std::array<std::byte, 8> data{};
    const auto part = std::span{data}.first(size);
    bus_.read(space, address, part);
    vcpu.complete_read(base::load_bytes(part));
}

void Processors::serve_write(bus::Space space, std::uint64_t address, unsigned size,
                             std::uint64_t value) noexcept
{
    std::array<std::byte, 8> data{};
    const auto part = std::span{data}.first(size);
    base::store_bytes(part, value);
    bus_.write(space, address, part);
}

void Processors::handle(engine::Vcpu& vcpu, const Exit& exit) noexcept
{
    if (const auto* io_read = std::get_if<engine::IoReadExit>(&exit)) {
        serve_read(vcpu, bus::Space::port, io_read->port, io_read->size);
    } else if (const auto* io_write = std::get_if<engine::IoWriteExit>(&exit)) {
        serve_write(bus::Space::port, io_write->port, io_write->size, io_write->value);
    } else if (const auto* mmio_read = std::get_if<engine::MmioReadExit>(&exit)) {
        serve_read(vcpu, bus::Space::memory, mmio_read->gpa.value, mmio_read->size);
    } else if (const auto* mmio_write = std::get_if<engine::MmioWriteExit>(&exit)) {
        serve_write(bus::Space::memory, mmio_write->gpa.value, mmio_write->size,
                    mmio_write->value);
    } else if (std::holds_alternative<engine::HaltExit>(exit)) {
        vcpu.wait();
    } else if (!std::holds_alternative<engine::KickExit>(exit)) {
        events_.ended(exit);
    }
}

// ---- statistics --------------------------------------------------------------------------------

void Processors::add_times(base::CounterList& list, const Processor& processor)
{
    const auto add = [&list](std::string_view name, std::uint64_t ns) {
        list.add("time." + std::string{name} + "_us", ns / 1000);
    };
    const engine::RunTime time = processor.vcpu->run_time();
    const std::uint64_t asleep = std::min(time.halted_ns, processor.in_run);
    const auto executing = static_cast<double>(processor.in_run - asleep);
    double sum = 0;
    for (const auto& [name, share] : time.shares) sum += static_cast<double>(share);
    if (sum == 0) add("guest", processor.in_run - asleep);
    for (const auto& [name, share] : time.shares) {
        if (sum != 0) {
            add(name, static_cast<std::uint64_t>(executing * (static_cast<double>(share) / sum)));
        }
    }
    add("halted", asleep + processor.in_wait);
    add("vmm", processor.answering);
}

void Processors::counters(base::CounterList& list) const
{
    base::CounterList all;
    for (const auto& processor : processors_) {
        for (std::size_t i = 0; i < exit_names.size(); ++i) {
            all.add("exits." + std::string{exit_names[i]}, processor->exits[i]);
        }
    }
    for (const auto& processor : processors_) add_times(all, *processor);
    add_sums(all, list);
    // Apart: engines count some exits too, more finely.
    base::CounterList engines;
    for (const auto& processor : processors_) processor->vcpu->counters(engines);
    add_sums(engines, list);
}

std::uint64_t Processors::instructions() const
{
    std::uint64_t sum = 0;
    for (const auto& processor : processors_) sum += processor->vcpu->instructions();
    return sum;
}

}  // namespace doppel::vm
