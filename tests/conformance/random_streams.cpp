// Runs random instruction streams on an engine and natively - supervisor code, which cannot run
// natively, on the interpreter - and compares registers, flags, extended state, memory and
// fault. A difference is shrunk to the fewest instructions that show it and printed; its seed
// and length may be kept in corpus/.
//
//   random_streams [--engine interpret|translate|lock-step|kvm]
//                  [--place user|supervisor-low|supervisor-high|user32|supervisor32]
//                  [--kind any|steady]
//                  [--streams N] [--seed N] [--length N] [--corpus DIR]
//
// Exit status 0 when everything agreed, 1 otherwise.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "generator.h"
#include "stream_machines.h"

namespace doppel::conformance {

namespace {

constexpr std::pair<std::string_view, Place> places[] = {{"user", Place::user},
                                                         {"supervisor-low", Place::supervisor_low},
                                                         {"supervisor-high", Place::supervisor_high},
                                                         {"user32", Place::user32},
                                                         {"supervisor32", Place::supervisor32}};

std::optional<Place> place_of(std::string_view name)
{
    for (const auto& [known, place] : places) {
        if (known == name) return place;
    }
    return std::nullopt;
}

std::string_view name_of(Place place) { return places[static_cast<std::size_t>(place)].first; }

struct Options {
    std::string engine = "interpret";
    std::uint64_t streams = 20000;
    std::uint64_t seed = 1;
    unsigned length = 8;
    Place place = Place::user;
    bool steady = false;
    std::string corpus;
};

// The number of instructions that ran up to the end or the fault; those jumped over count too.
std::uint64_t instructions_run(const Stream& stream, const Outcome& outcome)
{
    if (!outcome.fault) return stream.instructions.size();
    const std::uint64_t offset = layout::without_high(outcome.fault->rip) - layout::code;
    std::uint64_t at = 0;
    std::uint64_t count = 0;
    for (const Instruction& instruction : stream.instructions) {
        if (at > offset) break;
        at += instruction.bytes.size();
        ++count;
    }
    return count;
}

template <typename Test>
bool any_instruction(const Stream& stream, Test&& test)
{
    return std::any_of(
        stream.instructions.begin(), stream.instructions.end(), [&](const Instruction& instruction) {
            ZydisDecodedInstruction decoded;
            return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                       &decoder_for(stream.place), nullptr, instruction.bytes.data(), instruction.bytes.size(), &decoded)) &&
                   test(decoded);
        });
}

bool contains(const Stream& stream, std::initializer_list<ZydisMnemonic> mnemonics)
{
    return any_instruction(stream, [&](const ZydisDecodedInstruction& instruction) {
        return std::find(mnemonics.begin(), mnemonics.end(), instruction.mnemonic) != mnemonics.end();
    });
}

bool contains_gather(const Stream& stream)
{
    return any_instruction(stream, [](const ZydisDecodedInstruction& instruction) {
        return instruction.meta.category == ZYDIS_CATEGORY_GATHER ||
               instruction.meta.category == ZYDIS_CATEGORY_AVX2GATHER ||
               instruction.meta.category == ZYDIS_CATEGORY_SCATTER;
    });
}

class Comparison {
public:
    // reference says what is right.
    Comparison(StreamMachine& reference, StreamMachine& tried) : reference_(reference), tried_(tried) {}

    // Empty when both agree.
    std::string run(const Stream& stream)
    {
        const Outcome expected = reference_.run(stream);
        const Outcome actual = tried_.run(stream);
        if (!expected.problem.empty() || !actual.problem.empty()) {
            if (expected.problem == actual.problem) {
                ++alike_;
                return {};
            }
            return reference_.name() + ": " + expected.problem + "; " + tried_.name() + ": " + actual.problem;
        }
        instructions_ += instructions_run(stream, expected);
        std::string out = compare_fault(expected, actual);
        if (out.empty()) out = compare_state(stream, expected, actual);
        if (out.empty()) out = compare_memory();
        return out;
    }
    [[nodiscard]] std::uint64_t instructions() const { return instructions_; }
    // Streams that ended on both sides without an end to compare, such as a triple fault.
    [[nodiscard]] std::uint64_t without_end() const { return alike_; }

private:
    [[nodiscard]] std::string both(std::string_view what, std::uint64_t expected, std::uint64_t actual) const
    {
        return fmt::format("{}: {} {:#x}, {} {:#x}", what, reference_.name(), expected, tried_.name(),
                           actual);
    }

    std::string compare_fault(const Outcome& expected, const Outcome& actual)
    {
        const auto text = [](const std::optional<SeenFault>& fault) {
            return fault ? fmt::format("exception {} error {:#x} cr2 {:#x} rip {:#x}", fault->vector,
                                       fault->error_code, fault->cr2, fault->rip)
                         : std::string{"no exception"};
        };
        std::optional<SeenFault> a = expected.fault;
        std::optional<SeenFault> b = actual.fault;
        const bool native = reference_.name() == "native";
        for (auto* fault : {&a, &b}) {
            if (!*fault) continue;
            if ((*fault)->vector != 14) (*fault)->cr2 = 0;
            if (!native) continue;
            // The engine's tables lie there as supervisor pages; natively there is nothing.
            if ((*fault)->vector == 14 && (*fault)->cr2 < layout::code) (*fault)->error_code &= ~1u;
            // Linux hides kernel-half addresses of user faults: P is always set there.
            constexpr std::uint64_t end_of_users = 0x7ffffffff000;
            if ((*fault)->vector == 14 && (*fault)->cr2 >= end_of_users) (*fault)->error_code &= ~1u;
        }
        return text(a) == text(b) ? std::string{} : reference_.name() + " " + text(a) + ", " + tried_.name() + " " + text(b);
    }

    std::string compare_state(const Stream& stream, const Outcome& expected, const Outcome& actual)
    {
        constexpr const char* names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
        for (std::size_t i = 0; i < 16; ++i) {
            if (expected.state.gpr[i] != actual.state.gpr[i]) {
                return both(names[i], expected.state.gpr[i], actual.state.gpr[i]);
            }
        }
        const bool faulted = expected.fault.has_value();
        std::uint64_t compared = x86::rflags::STATUS | x86::rflags::DF;
        // Folded supervisor code may leave flags that are overwritten before they are read.
        if (faulted && stream.place == Place::supervisor_high &&
            contains(stream, {ZYDIS_MNEMONIC_ADD, ZYDIS_MNEMONIC_SUB, ZYDIS_MNEMONIC_AND})) {
            compared = x86::rflags::DF;
        }
        if (((expected.state.rflags ^ actual.state.rflags) & compared) != 0) {
            return both("flags", expected.state.rflags & compared, actual.state.rflags & compared);
        }
        // How far a gather that faults has come is the processor's choice, and not the interpreter's.
        if (faulted && !is_user(stream.place) && contains_gather(stream)) return {};
        return compare_extended(expected.state.xsave, actual.state.xsave, faulted);
    }

    // faulted: an MMX instruction that faults may or may not have emptied the x87 stack.
    std::string compare_extended(const x86::XsaveArea& a, const x86::XsaveArea& b, bool faulted)
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
                if (x != y) return both(fmt::format("{} byte {}", part.name, i), x, y);
            }
        }
        return {};
    }

    std::string compare_memory()
    {
        for (const auto& [start, size] : {std::pair{layout::code, std::size_t{0x2000}},
                                          std::pair{layout::data, std::size_t{0x2000}},
                                          std::pair{std::uint64_t{0x30000}, std::size_t{0x1000}}}) {
            std::vector<std::byte> a(size);
            std::vector<std::byte> b(size);
            if (!reference_.read(start, a) || !tried_.read(start, b)) return "memory cannot be read";
            for (std::size_t i = 0; i < size; ++i) {
                if (a[i] != b[i]) {
                    return both(fmt::format("memory {:#x}", start + i), static_cast<unsigned>(a[i]),
                                static_cast<unsigned>(b[i]));
                }
            }
        }
        return {};
    }

    StreamMachine& reference_;
    StreamMachine& tried_;
    std::uint64_t instructions_ = 0;
    std::uint64_t alike_ = 0;
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
    for (const Instruction& instruction : stream.instructions) {
        ZydisDecodedInstruction decoded;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder_for(stream.place), nullptr,
                                                       instruction.bytes.data(), instruction.bytes.size(), &decoded))) {
            out += ZydisMnemonicGetString(decoded.mnemonic);
            out += ' ';
        }
    }
    return out;
}

struct Found {
    std::uint64_t seed = 0;
    unsigned length = 0;
    Kind kind;
};

// A corpus file: lines "SEED LENGTH [PLACE [steady]]", each a stream that once differed.
std::vector<Found> read_corpus(const std::string& folder)
{
    std::vector<Found> seeds;
    if (!std::filesystem::is_directory(folder)) return seeds;
    for (const auto& entry : std::filesystem::directory_iterator{folder}) {
        std::ifstream file{entry.path()};
        std::string line;
        while (std::getline(file, line)) {
            std::istringstream words{line};
            Found found;
            if (!(words >> found.seed >> found.length)) continue;
            for (std::string word; words >> word;) {
                if (const auto place = place_of(word)) found.kind.place = *place;
                if (word == "steady") found.kind.steady = true;
            }
            seeds.push_back(found);
        }
    }
    return seeds;
}

class Report {
public:
    explicit Report(Comparison& comparison) : comparison_(comparison) {}

    void check(std::uint64_t seed, unsigned length, const Kind& kind)
    {
        Random random{seed};
        const Stream stream = random_stream(random, length, kind);
        if (comparison_.run(stream).empty()) return;
        ++failures_;
        if (shown_.size() >= 40) return;
        const Stream small = shrink(comparison_, stream);
        if (!shown_.insert(signature(small)).second) return;
        fmt::print("seed {} {} {}{}: {}\n{}\n", seed, length, name_of(kind.place),
                   kind.steady ? " steady" : "", comparison_.run(small), small.text());
    }
    [[nodiscard]] std::uint64_t failures() const { return failures_; }

private:
    Comparison& comparison_;
    std::uint64_t failures_ = 0;
    std::set<std::string> shown_;
};

int run(const Options& options)
{
    constexpr int skipped = 77;
    const bool translates = options.engine == "translate" || options.engine == "lock-step";
    if (translates && !engine::translate_problem().empty()) {
        fmt::print("{}\n", engine::translate_problem());
        return skipped;
    }
    // Supervisor code cannot run natively.
    const Place place = options.place;
    auto reference = is_user(place) ? native_machine() : engine_machine("interpret", place);
    auto tried = engine_machine(options.engine, place);
    if (!reference || !tried) {
        fmt::print(stderr, "{}\n", reference ? tried.error().text() : reference.error().text());
        return 1;
    }
    Comparison comparison{**reference, **tried};
    Report report{comparison};
    for (const Found& found : read_corpus(options.corpus)) {
        if (found.kind.place == place) report.check(found.seed, found.length, found.kind);
    }
    for (std::uint64_t i = 0; i < options.streams; ++i) {
        report.check(options.seed * 1'000'003 + i, options.length, {place, options.steady});
    }
    fmt::print("{} streams, {} instructions, {} without an end, {} differ\n", options.streams,
               comparison.instructions(), comparison.without_end(), report.failures());
    if (translates) {
        const Work work = (*tried)->work();
        fmt::print("translated: {} blocks of {} instructions, entered {} times\n", work.blocks,
                   work.instructions, work.entries_user + work.entries_supervisor);
        if (work.instructions == 0) return 1;
    }
    return report.failures() == 0 ? 0 : 1;
}

}  // namespace

}  // namespace doppel::conformance

int main(int argc, char** argv)
{
    doppel::conformance::Options options;
    if (argc % 2 == 0) return fmt::print(stderr, "random_streams: an option without a value\n"), 2;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string_view name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--engine") options.engine = value;
        else if (name == "--streams") options.streams = std::stoull(value);
        else if (name == "--seed") options.seed = std::stoull(value);
        else if (name == "--length") options.length = static_cast<unsigned>(std::stoul(value));
        else if (name == "--corpus") options.corpus = value;
        else if (name == "--kind") options.steady = value == "steady";
        else if (const auto place = doppel::conformance::place_of(value); name == "--place" && place) {
            options.place = *place;
        }
        else {
            fmt::print(stderr, "random_streams: unknown option {}\n", name);
            return 2;
        }
    }
    return doppel::conformance::run(options);
}
