// Register indices (xAPIC offset >> 4, x2APIC MSR - 0x800) and their bits. SDM volume 3
// tables 11-1 and 11-6. For the model's own files.
#pragma once

#include <cstdint>

namespace doppel::x86::apic {

enum Register : unsigned {
    ID = 0x02,
    VERSION = 0x03,
    TPR = 0x08,
    APR = 0x09,
    PPR = 0x0a,
    EOI = 0x0b,
    RRD = 0x0c,
    LDR = 0x0d,
    DFR = 0x0e,
    SVR = 0x0f,
    ISR = 0x10,  // eight each
    TMR = 0x18,
    IRR = 0x20,
    ESR = 0x28,
    ICR_LOW = 0x30,
    ICR_HIGH = 0x31,
    LVT_TIMER = 0x32,
    LVT_THERMAL = 0x33,
    LVT_PERFORMANCE = 0x34,
    LVT_LINT0 = 0x35,
    LVT_LINT1 = 0x36,
    LVT_ERROR = 0x37,
    INITIAL_COUNT = 0x38,
    CURRENT_COUNT = 0x39,
    DIVIDE = 0x3e,
    SELF_IPI = 0x3f,
};

namespace svr {
inline constexpr std::uint32_t VECTOR = 0xff, ENABLE = 1u << 8, FOCUS = 1u << 9,
    SUPPRESS_BROADCAST = 1u << 12;
}

namespace version {
inline constexpr std::uint32_t VALUE = 0x14, MAX_LVT = 5u << 16, SUPPRESS_BROADCAST = 1u << 24;
}

namespace lvt {
inline constexpr std::uint32_t VECTOR = 0xff, MODE = 7u << 8, STATUS = 1u << 12, LOW = 1u << 13,
    REMOTE_IRR = 1u << 14, LEVEL = 1u << 15, MASKED = 1u << 16, TIMER_MODE = 3u << 17,
    PERIODIC = 1u << 17, TSC_DEADLINE = 2u << 17;
}

namespace icr {
inline constexpr std::uint32_t VECTOR = 0xff, LOGICAL = 1u << 11, STATUS = 1u << 12,
    ASSERT_LEVEL = 1u << 14, LEVEL = 1u << 15;
// x2APIC: writing one of these is #GP.
inline constexpr std::uint32_t RESERVED = 1u << 13 | 3u << 16 | 0xfffu << 20;
}  // namespace icr

namespace esr {
inline constexpr std::uint32_t SEND_ILLEGAL_VECTOR = 1u << 5, RECEIVE_ILLEGAL_VECTOR = 1u << 6,
    ILLEGAL_REGISTER = 1u << 7;
}

namespace base_msr {
inline constexpr std::uint64_t BSP = 1u << 8, EXTD = 1u << 10, EN = 1u << 11;
}

}  // namespace doppel::x86::apic
