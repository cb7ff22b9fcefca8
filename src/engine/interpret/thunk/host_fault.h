// Faults that the host CPU raises inside a thunk (misaligned operand, unmasked SIMD
// exception) belong to the guest. One process-wide handler for SIGSEGV, SIGBUS, SIGFPE
// and SIGILL recognises a RIP inside the thunk that its thread is running and resumes at
// that thunk's fault exit; every other signal goes to the handler that was there before.
//
//   run_guarded ─▶ thunk ─▶ guest instruction ──fault──▶ kernel ─▶ handler
//        ▲                                                            │ RIP = fault exit
//        └────────── RAX = HostFault ◀── fault exit: restores host ◀──┘ RAX = HostFault
#pragma once

#include <cstdint>

namespace doppel::engine::interpret::thunk {

// x87 is #MF, simd #XM.
enum class HostFault : std::uint64_t { none, protection, x87, simd, illegal };

struct CodeRange {
    const std::uint8_t* begin = nullptr;
    const std::uint8_t* end = nullptr;
    const std::uint8_t* fault_exit = nullptr;
};

// The thunk this thread is inside, nullptr otherwise. Written only around the call.
extern constinit thread_local const CodeRange* current_thunk;

// Idempotent, any thread. False: the host refused to install a handler.
bool install_host_fault_handler();

}  // namespace doppel::engine::interpret::thunk
