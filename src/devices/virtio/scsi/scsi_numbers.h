// Numbers of SCSI: operation codes (SPC-4, SBC-3), sense keys and additional sense codes.
#pragma once

#include <cstdint>

namespace doppel::devices::virtio::scsi {

enum class Opcode : std::uint8_t {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    READ_6 = 0x08,
    WRITE_6 = 0x0a,
    INQUIRY = 0x12,
    MODE_SENSE_6 = 0x1a,
    START_STOP_UNIT = 0x1b,
    READ_CAPACITY_10 = 0x25,
    READ_10 = 0x28,
    WRITE_10 = 0x2a,
    SYNCHRONIZE_CACHE_10 = 0x35,
    WRITE_SAME_10 = 0x41,
    UNMAP = 0x42,
    MODE_SENSE_10 = 0x5a,
    READ_16 = 0x88,
    WRITE_16 = 0x8a,
    SYNCHRONIZE_CACHE_16 = 0x91,
    WRITE_SAME_16 = 0x93,
    SERVICE_ACTION_IN_16 = 0x9e,
    REPORT_LUNS = 0xa0,
    READ_12 = 0xa8,
    WRITE_12 = 0xaa,
};
inline constexpr std::uint8_t READ_CAPACITY_16 = 0x10;  // of SERVICE_ACTION_IN_16

inline constexpr std::uint8_t GOOD = 0x00, CHECK_CONDITION = 0x02;

enum class Key : std::uint8_t {
    NO_SENSE = 0,
    NOT_READY = 2,
    MEDIUM_ERROR = 3,
    ILLEGAL_REQUEST = 5,
    UNIT_ATTENTION = 6,
    DATA_PROTECT = 7,
};

// code: additional sense code and qualifier, 0xAAQQ.
struct Sense {
    Key key = Key::NO_SENSE;
    std::uint16_t code = 0;
    bool operator==(const Sense&) const = default;
};

inline constexpr Sense no_sense{};
inline constexpr Sense write_error{Key::MEDIUM_ERROR, 0x0c00};
inline constexpr Sense unrecovered_read_error{Key::MEDIUM_ERROR, 0x1100};
inline constexpr Sense parameter_list_length_error{Key::ILLEGAL_REQUEST, 0x1a00};
inline constexpr Sense invalid_opcode{Key::ILLEGAL_REQUEST, 0x2000};
inline constexpr Sense block_out_of_range{Key::ILLEGAL_REQUEST, 0x2100};
inline constexpr Sense invalid_field_in_cdb{Key::ILLEGAL_REQUEST, 0x2400};
inline constexpr Sense unit_not_supported{Key::ILLEGAL_REQUEST, 0x2500};
inline constexpr Sense invalid_field_in_parameters{Key::ILLEGAL_REQUEST, 0x2600};
inline constexpr Sense saving_not_supported{Key::ILLEGAL_REQUEST, 0x3900};
inline constexpr Sense medium_not_present{Key::NOT_READY, 0x3a00};
inline constexpr Sense write_protected{Key::DATA_PROTECT, 0x2700};
inline constexpr Sense space_allocation_failed{Key::DATA_PROTECT, 0x2707};
inline constexpr Sense reset_occurred{Key::UNIT_ATTENTION, 0x2903};  // by a function

}  // namespace doppel::devices::virtio::scsi
