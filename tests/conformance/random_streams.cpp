// Runs random instruction streams natively and on an engine and compares registers,
// flags, extended state, memory and fault. A difference is shrunk to the fewest
// instructions that show it and printed; its hex line may be kept in corpus/.
//
//   random_streams [--engine interpret|kvm] [--streams N] [--seed N] [--length N]
//                  [--corpus DIR]
//
// Exit status 0 when everything agreed, 1 otherwise.
#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "bare_machine.h"
#include "generator.h"
#include "native.h"

namespace doppel::conformance {

namespace {

struct Options {
    std::string engine = "interpret";
    std::uint64_t streams = 20000;
    std::uint64_t seed = 1;
    unsigned length = 8;
    std::string corpus;
};

class Comparison {
public:
    Comparison(Native& native, TestEngine& engine) : native_(native), engine_(engine) {}

    // Empty when both agree.
    std::string run(const Stream& stream)
    {
        const std::vector<std::uint8_t> code = stream.lay_out();
        const MemoryValue memory{layout::data, stream.memory};
        Case c{};
        c.name = "stream";
        c.mode = Mode::user64;
        c.paging = Paging::level4;
        c.code = code;
        c.initial_memory = {&memory, 1};
        const Outcome native = native_.run(code, stream.state, c.initial_memory);
        const Outcome engine = run_stream(engine_, c, stream.state);
        if (!native.problem.empty()) return "native: " + native.problem;
        if (!engine.problem.empty()) return "engine: " + engine.problem;
        std::string out = compare_fault(native, engine);
        if (out.empty()) out = compare_state(native, engine);
        if (out.empty()) out = compare_memory();
        return out;
    }

private:
    static std::string compare_fault(const Outcome& native, const Outcome& engine)
    {
        const auto text = [](const std::optional<SeenFault>& fault) {
            return fault ? fmt::format("exception {} error {:#x} cr2 {:#x} rip {:#x}", fault->vector,
                                       fault->error_code, fault->cr2, fault->rip)
                         : std::string{"no exception"};
        };
        std::optional<SeenFault> a = native.fault;
        std::optional<SeenFault> b = engine.fault;
        for (auto* fault : {&a, &b}) {
            if (!*fault) continue;
            if ((*fault)->vector != 14) (*fault)->cr2 = 0;
            // The engine's tables lie there as supervisor pages; natively there is nothing.
            if ((*fault)->vector == 14 && (*fault)->cr2 < layout::code) (*fault)->error_code &= ~1u;
            // Linux hides kernel-half addresses of user faults: P is always set there.
            if ((*fault)->vector == 14 && (*fault)->cr2 >> 47 != 0) (*fault)->error_code &= ~1u;
        }
        return text(a) == text(b) ? std::string{} : "native " + text(a) + ", engine " + text(b);
    }

    static std::string compare_state(const Outcome& native, const Outcome& engine)
    {
        constexpr const char* names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
        for (std::size_t i = 0; i < 16; ++i) {
            if (native.state.gpr[i] != engine.state.gpr[i]) {
                return fmt::format("{}: native {:#x}, engine {:#x}", names[i], native.state.gpr[i],
                                   engine.state.gpr[i]);
            }
        }
        constexpr std::uint64_t compared = x86::rflags::STATUS | x86::rflags::DF;
        if (((native.state.rflags ^ engine.state.rflags) & compared) != 0) {
            return fmt::format("flags: native {:#x}, engine {:#x}", native.state.rflags & compared,
                               engine.state.rflags & compared);
        }
        return compare_extended(native.state.xsave, engine.state.xsave, native.fault.has_value());
    }

    // faulted: an MMX instruction that faults may or may not have emptied the x87 stack.
    static std::string compare_extended(const x86::XsaveArea& a, const x86::XsaveArea& b,
                                        bool faulted)
    {
        struct Part {
            const char* name;
            std::size_t at, size;
            unsigned component;
        };
        // Without FOP, FIP and FDP: a bounce buffer cannot keep them, see docs/testing.md.
        constexpr Part parts[] = {{"fcw/fsw/ftw", 0, 5, 0}, {"mxcsr", 24, 4, 1}, {"st", 32, 128, 0},
                                  {"xmm", 160, 256, 1}, {"ymm high", x86::xsave_offset_avx, 256, 2},
                                  {"opmask", x86::xsave_offset_opmask, 64, 5},
                                  {"zmm high", x86::xsave_offset_zmm_hi256, 512, 6},
                                  {"zmm16-31", x86::xsave_offset_hi16_zmm, 1024, 7}};
        std::uint64_t present_a = 0;
        std::uint64_t present_b = 0;
        std::memcpy(&present_a, a.bytes.data() + 512, 8);
        std::memcpy(&present_b, b.bytes.data() + 512, 8);
        for (const Part& part : parts) {
            if (faulted && part.component == 0) continue;
            // A component in its initial configuration is all zeros; x87 and SSE are always written.
            const bool in_a = part.component < 2 || (present_a >> part.component & 1) != 0;
            const bool in_b = part.component < 2 || (present_b >> part.component & 1) != 0;
            for (std::size_t i = 0; i < part.size; ++i) {
                if (part.component == 0 && part.at == 32 && i % 16 >= 10) continue;
                const auto x = in_a ? a.bytes[part.at + i] : std::uint8_t{0};
                const auto y = in_b ? b.bytes[part.at + i] : std::uint8_t{0};
                if (x != y) {
                    return fmt::format("{} byte {}: native {:#x}, engine {:#x}", part.name, i, x, y);
                }
            }
        }
        return {};
    }

    std::string compare_memory()
    {
        for (const auto& [start, size] : {std::pair{layout::data, std::size_t{0x2000}},
                                          std::pair{std::uint64_t{0x30000}, std::size_t{0x1000}}}) {
            std::vector<std::byte> a(size);
            std::vector<std::byte> b(size);
            if (!Native::read_memory(start, a) || !engine_.memory().read(base::Gpa{start}, b)) {
                return "memory cannot be read";
            }
            for (std::size_t i = 0; i < size; ++i) {
                if (a[i] != b[i]) {
                    return fmt::format("memory {:#x}: native {:#x}, engine {:#x}", start + i,
                                       static_cast<unsigned>(a[i]), static_cast<unsigned>(b[i]));
                }
            }
        }
        return {};
    }

    Native& native_;
    TestEngine& engine_;
};

// Drops instructions one by one while the difference stays.
Stream shrink(Comparison& comparison, Stream stream)
{
    for (bool smaller = true; smaller;) {
        smaller = false;
        for (std::size_t i = 0; i < stream.instructions.size() && stream.instructions.size() > 1; ++i) {
            Stream candidate = stream;
            candidate.instructions.erase(candidate.instructions.begin() + static_cast<std::ptrdiff_t>(i));
            if (!comparison.run(candidate).empty()) {
                stream = std::move(candidate);
                smaller = true;
                break;
            }
        }
    }
    return stream;
}

// The mnemonics of a shrunk stream: differences of one cause are shown once.
std::string signature(const Stream& stream)
{
    std::string out;
    for (const std::string text = stream.text(); const char c : text) {
        if (c == '\n') out += '\n';
    }
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (const Instruction& instruction : stream.instructions) {
        ZydisDecodedInstruction decoded;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, instruction.bytes.data(),
                                                       instruction.bytes.size(), &decoded))) {
            out += ZydisMnemonicGetString(decoded.mnemonic);
            out += ' ';
        }
    }
    return out;
}

// A corpus file: lines "SEED LENGTH", each a stream that once differed.
std::vector<std::pair<std::uint64_t, unsigned>> read_corpus(const std::string& folder)
{
    std::vector<std::pair<std::uint64_t, unsigned>> seeds;
    if (!std::filesystem::is_directory(folder)) return seeds;
    for (const auto& entry : std::filesystem::directory_iterator{folder}) {
        std::ifstream file{entry.path()};
        std::string line;
        while (std::getline(file, line)) {
            std::uint64_t seed = 0;
            unsigned length = 0;
            if (std::sscanf(line.c_str(), "%lu %u", &seed, &length) == 2) seeds.emplace_back(seed, length);
        }
    }
    return seeds;
}

class Report {
public:
    explicit Report(Comparison& comparison) : comparison_(comparison) {}

    void check(std::uint64_t seed, unsigned length)
    {
        Random random{seed};
        const Stream stream = random_stream(random, length);
        instructions_ += stream.instructions.size();
        if (comparison_.run(stream).empty()) return;
        ++failures_;
        if (shown_.size() >= 40) return;
        const Stream small = shrink(comparison_, stream);
        if (!shown_.insert(signature(small)).second) return;
        fmt::print("seed {} {}: {}\n{}\n", seed, length, comparison_.run(small), small.text());
    }
    [[nodiscard]] std::uint64_t failures() const { return failures_; }
    [[nodiscard]] std::uint64_t instructions() const { return instructions_; }

private:
    Comparison& comparison_;
    std::uint64_t failures_ = 0;
    std::uint64_t instructions_ = 0;
    std::set<std::string> shown_;
};

int run(const Options& options)
{
    auto native = Native::create();
    auto engine = TestEngine::create(options.engine, layout::memory_size);
    if (!native || !engine) {
        fmt::print(stderr, "{}\n", native ? engine.error().text() : native.error().text());
        return 1;
    }
    Comparison comparison{**native, **engine};
    Report report{comparison};
    for (const auto& [seed, length] : read_corpus(options.corpus)) report.check(seed, length);
    for (std::uint64_t i = 0; i < options.streams; ++i) {
        report.check(options.seed * 1'000'003 + i, options.length);
    }
    fmt::print("{} streams, {} instructions, {} differ\n", options.streams, report.instructions(),
               report.failures());
    return report.failures() == 0 ? 0 : 1;
}

}  // namespace

}  // namespace doppel::conformance

int main(int argc, char** argv)
{
    doppel::conformance::Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--engine") options.engine = value;
        else if (name == "--streams") options.streams = std::stoull(value);
        else if (name == "--seed") options.seed = std::stoull(value);
        else if (name == "--length") options.length = static_cast<unsigned>(std::stoul(value));
        else if (name == "--corpus") options.corpus = value;
        else {
            fmt::print(stderr, "random_streams: unknown option {}\n", name);
            return 2;
        }
    }
    return doppel::conformance::run(options);
}
