// Why Vcpu::run() came back: a value that the VM loop handles and a test can match.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "base/address.h"

namespace doppel::engine {

// Port and MMIO accesses: 1, 2, 4 or 8 bytes. For a read, give the value to
// Vcpu::complete_read() before the next run(); the instruction then goes on.
struct IoReadExit { std::uint16_t port; std::uint8_t size; bool operator==(const IoReadExit&) const = default; };
struct IoWriteExit { std::uint16_t port; std::uint8_t size; std::uint64_t value; bool operator==(const IoWriteExit&) const = default; };
struct MmioReadExit { base::Gpa gpa; std::uint8_t size; bool operator==(const MmioReadExit&) const = default; };
struct MmioWriteExit { base::Gpa gpa; std::uint8_t size; std::uint64_t value; bool operator==(const MmioWriteExit&) const = default; };
// HLT with nothing pending: call Vcpu::wait() (or run() again once kicked).
struct HaltExit { bool operator==(const HaltExit&) const = default; };
// Triple fault.
struct ShutdownExit { std::string reason; bool operator==(const ShutdownExit&) const = default; };
// kick() was called, or the instruction budget ran out.
struct KickExit { bool operator==(const KickExit&) const = default; };
// The engine or its host gave up; text for the user.
struct ErrorExit { std::string reason; bool operator==(const ErrorExit&) const = default; };

using Exit = std::variant<KickExit, IoReadExit, IoWriteExit, MmioReadExit, MmioWriteExit, HaltExit,
                          ShutdownExit, ErrorExit>;

}  // namespace doppel::engine
