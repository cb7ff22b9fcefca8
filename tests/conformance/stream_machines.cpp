#include "stream_machines.h"

#include "base/assert.h"

namespace doppel::conformance {

namespace {

Case case_of(const Stream& stream, std::span<const std::uint8_t> code, const MemoryValue& memory)
{
    Case c{};
    c.name = "stream";
    c.mode = mode_of(stream.place);
    c.paging = Paging::level4;
    c.high = stream.place == Place::supervisor_high;
    c.code = code;
    c.initial_memory = {&memory, 1};
    return c;
}

class NativeMachine final : public StreamMachine {
public:
    explicit NativeMachine(std::unique_ptr<Native> native) : native_(std::move(native)) {}
    [[nodiscard]] std::string name() const override { return "native"; }
    Outcome run(const Stream& stream) override
    {
        const MemoryValue memory{layout::data, stream.memory};
        return native_->run(stream.lay_out(), stream.state, {&memory, 1});
    }
    bool read(std::uint64_t address, std::span<std::byte> to) override
    {
        return Native::read_memory(address, to);
    }

private:
    std::unique_ptr<Native> native_;
};

// Pages whose code is replaced over and over are left to the interpreter: streams wander
// through RAM, and a new engine comes before they come round too often.
constexpr std::uint64_t ram_size = 16u << 20, first_code = layout::memory_size,
    code_places = (ram_size - first_code) / 0x2000, uses_of_place = 80;

class EngineMachine final : public StreamMachine {
public:
    EngineMachine(std::string engine, Place place) : engine_(std::move(engine)), place_(place) {}
    [[nodiscard]] std::string name() const override { return engine_; }

    base::Result<void> begin()
    {
        if (test_) {
            const Work work = test_->work();
            work_.blocks += work.blocks;
            work_.instructions += work.instructions;
            work_.entries_user += work.entries_user;
            work_.entries_supervisor += work.entries_supervisor;
        }
        test_.reset();
        test_ = TRY(TestEngine::create(engine_, ram_size));
        runs_ = 0;
        build_stream_world(test_->memory(), place_);
        return {};
    }
    Outcome run(const Stream& stream) override
    {
        if (runs_ == code_places * uses_of_place) {
            if (const auto begun = begin(); !begun) {
                Outcome outcome;
                outcome.problem = begun.error().text();
                return outcome;
            }
        }
        const std::vector<std::uint8_t> code = stream.lay_out();
        const MemoryValue memory{layout::data, stream.memory};
        code_at_ = first_code + 0x2000 * (runs_++ % code_places);
        return run_stream(*test_, case_of(stream, code, memory), stream.state, code_at_);
    }
    bool read(std::uint64_t address, std::span<std::byte> to) override
    {
        if (address - layout::code < 0x2000) address += code_at_ - layout::code;
        return test_->memory().read(base::Gpa{address}, to);
    }
    Work work() override
    {
        static_cast<void>(begin());
        return work_;
    }

private:
    std::string engine_;
    Place place_;
    std::unique_ptr<TestEngine> test_;
    std::uint64_t runs_ = 0;
    std::uint64_t code_at_ = 0;
    Work work_;
};

}  // namespace

base::Result<std::unique_ptr<StreamMachine>> native_machine()
{
    auto native = TRY(Native::create());
    return std::unique_ptr<StreamMachine>{std::make_unique<NativeMachine>(std::move(native))};
}

base::Result<std::unique_ptr<StreamMachine>> engine_machine(const std::string& engine, Place place)
{
    auto machine = std::make_unique<EngineMachine>(engine, place);
    TRY(machine->begin());
    return std::unique_ptr<StreamMachine>{std::move(machine)};
}

}  // namespace doppel::conformance
