#include "engine/translate/vmm/translate_vcpu.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "engine/translate/link/futex.h"

namespace doppel::engine::translate {

namespace {

// How long to look for a reply before sleeping: as long as replies have lately been worth it.
constexpr std::uint64_t spin_ns_max = 50'000;
constexpr std::uint32_t fewest_parts = 32;  // of those
constexpr std::uint64_t second = 1'000'000'000;
// How often a waiting VMM looks whether the worker lives.
constexpr std::uint64_t look_every = second / 10;
// A worker that does not answer for so long (when kicked, if it runs guest code) never will.
constexpr std::uint64_t patience = 20 * second;

// The worker may change what it shows at any time: one load, then checks.
template <typename T>
T once(const T& shared)
{
    return *static_cast<const volatile T*>(&shared);
}

// Copied first: what is looked at must not change meanwhile. Fit for a terminal.
template <std::size_t size>
std::string text_of(const char (&shared)[size])
{
    std::string text(shared, size);
    text.resize(::strnlen(text.data(), text.size()));
    std::replace_if(
        text.begin(), text.end(), [](char c) { return c != '\n' && (c < ' ' || c > '~'); }, '?');
    return text;
}

}  // namespace

base::Result<StartedWorker> StartedWorker::start(const EngineConfig& config, unsigned index,
                                                 const SharedCommons& commons,
                                                 const DoorbellEvents& doorbells)
{
    Arena arena = TRY(Arena::create(config, index));
    auto process = TRY(WorkerProcess::start(arena.fd(), commons.fd(), config.memory, doorbells));
    commons.all().workers[index] = process->pid();
    return StartedWorker{std::move(arena), std::move(process)};
}

TranslateVcpu::TranslateVcpu(const EngineConfig& config, unsigned index,
                             bus::InterruptSource* const& source, const SharedCommons& commons,
                             StartedWorker worker)
    : config_(config), source_(source), commons_(commons), arena_(std::move(worker.arena)),
      mailbox_(arena_.mailbox()), seat_(commons.seat(index)), process_(std::move(worker.process)),
      post_(mailbox_, seat_, arena_.setup(), *process_), run_delay_(process_->pid()),
      looks_max_(looks_in(spin_ns_max)), looks_(looks_max_ / fewest_parts), spin_(looks_max_)
{
}

base::Result<std::unique_ptr<TranslateVcpu>> TranslateVcpu::create(
    const EngineConfig& config, unsigned index, bus::InterruptSource* const& source,
    const SharedCommons& commons, StartedWorker worker)
{
    std::unique_ptr<TranslateVcpu> vcpu{
        new TranslateVcpu{config, index, source, commons, std::move(worker)}};
    const auto ready = vcpu->call(Request::none);
    if (!ready) return base::host_error(vcpu->failure_);
    if (*ready != Reply::done) {
        return base::host_error("The translate engine's worker cannot start: " + text_of(vcpu->mailbox_.text));
    }
    return vcpu;
}

// ---- talking to the worker ---------------------------------------------------------------------

void TranslateVcpu::send(Request request) const noexcept
{
    mailbox_.request = static_cast<std::uint32_t>(request);
    mailbox_.vmm_processor.store(this_processor(), std::memory_order_relaxed);
    // The worker sets its flag first and looks at the turn second.
    mailbox_.request_turn.store(++turn_, std::memory_order_seq_cst);
    if (mailbox_.worker_waiting.load(std::memory_order_seq_cst) != 0) {
        futex_wake(mailbox_.request_turn);
    }
}

bool TranslateVcpu::replied_within(std::uint64_t deadline_ns) const noexcept
{
    const timespec deadline = to_timespec(deadline_ns);
    mailbox_.vmm_waiting.store(1, std::memory_order_seq_cst);
    for (;;) {
        const std::uint32_t seen = mailbox_.reply_turn.load(std::memory_order_seq_cst);
        const bool replied = seen == turn_;
        if (replied || monotonic_ns() >= deadline_ns) {
            mailbox_.vmm_waiting.store(0, std::memory_order_relaxed);
            return replied;
        }
        futex_wait(mailbox_.reply_turn, seen, &deadline);
    }
}

std::optional<Reply> TranslateVcpu::await(bool running) const noexcept
{
    const auto replied = [this] {
        return mailbox_.reply_turn.load(std::memory_order_acquire) == turn_;
    };
    const auto reply = [this] { return static_cast<Reply>(once(mailbox_.reply)); };
    if (look_for(spin_, looks_, mailbox_.worker_processor, replied)) return reply();
    const std::uint64_t start = monotonic_ns();
    std::uint64_t unanswered_since = start, looked = start;
    for (std::uint64_t now = start;; now = monotonic_ns()) {
        if (running ? replied_or_sampled(now, look_every) : replied_within(now + look_every)) break;
        if (running) publish_steal(now);
        if (running && now - looked < look_every) continue;
        // When all of the VM was stopped, the worker had no time either.
        if (now - looked > second) unanswered_since += now - looked;
        looked = now;
        if (const auto death = process_->death()) {
            // It may have replied before it died.
            if (replied()) break;
            failure_ = "The translate engine's worker process died (" + *death + ")";
            const std::string words = text_of(mailbox_.crash);
            if (!words.empty()) failure_ += ": " + words;
            return std::nullopt;
        }
        if (running && mailbox_.kicked.load(std::memory_order_relaxed) == 0) unanswered_since = now;
        if (now - unanswered_since > patience) {
            failure_ = "The translate engine's worker process does not answer";
            return std::nullopt;
        }
    }
    const bool worth_it = monotonic_ns() - start < spin_ns_max;
    looks_ = worth_it ? looks_max_ : std::max(looks_ / 2, looks_max_ / fewest_parts);
    return reply();
}

bool TranslateVcpu::replied_or_sampled(std::uint64_t now_ns, std::uint64_t ns) const noexcept
{
    const std::uint64_t sample_in = samples_.due_in();
    const bool replied = replied_within(now_ns + std::min(ns, sample_in));
    const std::uint64_t passed = monotonic_ns() - now_ns;
    samples_.pass(passed);
    if (!replied && passed >= sample_in) {
        samples_.take(mailbox_.place.load(std::memory_order_relaxed),
                      seat_.in_guest.load(std::memory_order_relaxed) == asleep_in_hlt);
    }
    return replied;
}

std::optional<Reply> TranslateVcpu::call(Request request) const noexcept
{
    if (!failure_.empty()) return std::nullopt;
    publish_clock();
    send(request);
    return await(false);
}

void TranslateVcpu::publish_clock() const noexcept
{
    if (const auto offsets = config_.clock.host_offsets()) {
        mailbox_.clock_running = 1;
        mailbox_.tsc_base = -offsets->tsc;
        mailbox_.now_base_ns = -offsets->monotonic_ns;
    } else {
        mailbox_.clock_running = 0;
        mailbox_.tsc_base = config_.clock.tsc();
        mailbox_.now_base_ns = config_.clock.now_ns();
    }
}

void TranslateVcpu::publish_steal(std::uint64_t now_ns) const noexcept
{
    mailbox_.steal_ns.store(run_delay_.at(now_ns), std::memory_order_relaxed);
}

// ---- running -----------------------------------------------------------------------------------

Exit TranslateVcpu::run() noexcept
{
    if (!failure_.empty()) return ErrorExit{failure_};
    publish_clock();
    publish_steal(monotonic_ns());
    post_.flush();
    mailbox_.budget = budget_;
    mailbox_.answers_read = read_ ? 1 : 0;
    mailbox_.value = read_.value_or(0);
    read_.reset();
    for (Request request = Request::run;; request = Request::source_answer) {
        send(request);
        const auto reply = await(true);
        if (!reply) return ErrorExit{failure_};
        if (*reply == Reply::acknowledge) {
            ++counts_.acknowledges;
            // Nobody to ask: what a PIC says when nothing is there.
            constexpr std::uint8_t spurious = 7;
            mailbox_.value = source_ == nullptr ? spurious : source_->acknowledge();
        } else if (*reply == Reply::end_of_interrupt) {
            ++counts_.ends;
            const auto vector = static_cast<std::uint8_t>(once(mailbox_.reply_value));
            if (source_ != nullptr) source_->end_of_interrupt(vector);
            mailbox_.value = 0;
        } else {
            return exit_of(*reply);
        }
    }
}

Exit TranslateVcpu::exit_of(Reply reply) noexcept
{
    const std::uint64_t address = once(mailbox_.address);
    const std::uint64_t value = once(mailbox_.reply_value);
    const std::uint32_t wide = once(mailbox_.size);
    const bool port = reply == Reply::io_read || reply == Reply::io_write;
    const bool memory = reply == Reply::mmio_read || reply == Reply::mmio_write;
    const bool known_size = wide == 1 || wide == 2 || wide == 4 || (wide == 8 && memory);
    if ((port || memory) && !known_size) return nonsense("the size of an access");
    if (port && address > 0xffff) return nonsense("a port");
    const auto size = static_cast<std::uint8_t>(wide);
    switch (reply) {
    case Reply::kick: return KickExit{};
    case Reply::halt: return HaltExit{};
    case Reply::io_read: return IoReadExit{static_cast<std::uint16_t>(address), size};
    case Reply::io_write: return IoWriteExit{static_cast<std::uint16_t>(address), size, value};
    case Reply::mmio_read: return MmioReadExit{base::Gpa{address}, size};
    case Reply::mmio_write: return MmioWriteExit{base::Gpa{address}, size, value};
    case Reply::shutdown: return ShutdownExit{text_of(mailbox_.text)};
    case Reply::error: return ErrorExit{text_of(mailbox_.text)};
    default: return nonsense("a reply");
    }
}

Exit TranslateVcpu::nonsense(const char* what) noexcept
{
    failure_ = std::string{"The translate engine's worker process sent nonsense: "} + what;
    return ErrorExit{failure_};
}

void TranslateVcpu::complete_read(std::uint64_t value) noexcept
{
    read_ = value;
}

void TranslateVcpu::wait() noexcept
{
    // Nothing lasts so long that the worker's death must be found out sooner; run() does.
    post_.wait(monotonic_ns() + second);
}

// ---- state -------------------------------------------------------------------------------------

x86::CpuState TranslateVcpu::state() noexcept
{
    if (read_) {
        mailbox_.value = *read_;
        read_.reset();
        static_cast<void>(call(Request::complete_read));
    }
    if (!call(Request::get_state)) return {};
    return mailbox_.state;
}

void TranslateVcpu::set_state(const x86::CpuState& state) noexcept
{
    read_.reset();
    mailbox_.state = state;
    static_cast<void>(call(Request::set_state));
}

bool TranslateVcpu::between_instructions() noexcept
{
    return !read_ && once(mailbox_.between_instructions) != 0;
}

base::Result<void> TranslateVcpu::hand_over(HandOver& to) noexcept
{
    // So many rings full of events may wait behind the first.
    for (unsigned rings = 0; rings <= EventPost::backlog_max / event_count + 1; ++rings) {
        if (!call(Request::hand_over)) return base::host_error(failure_);
        if (post_.flush()) continue;
        to = mailbox_.hand_over;
        return {};
    }
    failure_ = "The translate engine's worker process does not take its events";
    return base::host_error(failure_);
}

base::Result<void> TranslateVcpu::take_over(const HandOver& from) noexcept
{
    read_.reset();
    mailbox_.hand_over = from;
    const auto reply = call(Request::take_over);
    if (!reply) return base::host_error(failure_);
    if (*reply != Reply::done) return base::host_error(text_of(mailbox_.text));
    return {};
}

void TranslateVcpu::reset_apic() noexcept
{
    post_.flush();
    static_cast<void>(call(Request::reset_apic));
}

std::uint64_t TranslateVcpu::instructions() const noexcept
{
    return once(mailbox_.instructions);
}

RunTime TranslateVcpu::run_time() const
{
    RunTime time;
    time.halted_ns = mailbox_.halted_ns.load(std::memory_order_relaxed);
    samples_.shares(time);
    return time;
}

void TranslateVcpu::counters(base::CounterList& list) const
{
    const EventPost::Counters posted = post_.counters();
    list.add("translate.events", posted.events);
    list.add("translate.events_merged", posted.merged);
    list.add("translate.kick_signals", posted.signals);
    list.add("translate.halt_wakes", posted.wakes);
    list.add("translate.acknowledges", counts_.acknowledges);
    list.add("translate.ends_of_interrupt", counts_.ends);
    if (!call(Request::counters)) return;
    const std::string all = text_of(mailbox_.text);
    for (std::string_view left = all; !left.empty();) {
        const std::string_view line = left.substr(0, left.find('\n'));
        left.remove_prefix(std::min(line.size() + 1, left.size()));
        const std::size_t space = line.find(' ');
        if (space == std::string_view::npos) continue;
        std::uint64_t value = 0;
        std::from_chars(line.data() + space + 1, line.data() + line.size(), value);
        list.add(std::string{line.substr(0, space)}, value);
    }
}

}  // namespace doppel::engine::translate
