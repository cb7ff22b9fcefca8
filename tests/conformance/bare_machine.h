// Builds the little world of case.h around a case, runs it on an engine, and reads the
// end back: either the code ran to its end or an exception arrived at a stub.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "case.h"
#include "engines.h"
#include "x86/cpu_state.h"

namespace doppel::conformance {

// Where a random stream runs.
enum class Place : std::uint8_t { user, supervisor_low, supervisor_high, user32, supervisor32 };
constexpr bool is_user(Place place) { return place == Place::user || place == Place::user32; }
// 32-bit code, both in compatibility mode.
constexpr bool is_code32(Place place) { return place == Place::user32 || place == Place::supervisor32; }
constexpr Mode mode_of(Place place)
{
    return is_code32(place) ? Mode::compat32 : place == Place::user ? Mode::user64 : Mode::kernel64;
}

struct SeenFault {
    std::uint8_t vector = 0;
    std::uint32_t error_code = 0;
    std::uint64_t cr2 = 0;
    std::uint64_t rip = 0;
};

struct Outcome {
    std::string problem;             // not empty: the run itself went wrong
    std::optional<SeenFault> fault;  // absent: ran to its end
    x86::CpuState state;             // at the end, or of the interrupted code
};

// The state a case starts from on an engine, before its own `in` values.
x86::CpuState initial_state(Mode mode, Paging paging);
// Applies one `in`; false for an unknown name.
bool set_register(x86::CpuState& state, std::string_view name, std::uint64_t value);
std::optional<std::uint64_t> get_register(const x86::CpuState& state, std::string_view name);

// Writes the world into memory: page tables, GDT, IDT or IVT, TSS, stubs, code. seen_high: also
// at layout::high.
void build_world(memory::GuestMemory& memory, const Case& c, bool seen_high);

enum class Placement : std::uint8_t {
    as_written,
    // RIP and RSP begin in the upper half, though the case was not written for it; the outcome
    // is reported as if they had not.
    moved_high,
};
Outcome run_on_engine(TestEngine& engine, const Case& c,
                      Placement placement = Placement::as_written);
// The world of random streams: pages only where native.h maps some, so that wild addresses
// fault alike. In the low half, or for supervisor_high in the upper half alone; supervisor code's
// exceptions have a stack of their own.
void build_stream_world(memory::GuestMemory& memory, Place place);
// A case from a full state in that world, which other streams ran in before. code_at: the
// guest-physical address of the two pages that show as the code's.
Outcome run_stream(TestEngine& engine, const Case& c, const x86::CpuState& start,
                   std::uint64_t code_at);

// Compares an outcome with the case's expectation; every difference as a line of text.
// read_memory copies guest bytes.
std::vector<std::string> differences(
    const Case& c, const Outcome& outcome,
    const std::function<bool(std::uint64_t, std::span<std::byte>)>& read_memory);

}  // namespace doppel::conformance
