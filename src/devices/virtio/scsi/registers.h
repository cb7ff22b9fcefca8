// What a SCSI host device and its driver exchange. Virtio 1.2, section 5.6.
#pragma once

#include <array>
#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

struct ScsiConfig {
    std::uint32_t num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size;
    std::uint32_t sense_size, cdb_size;  // the driver's to write
    std::uint16_t max_channel, max_target;
    std::uint32_t max_lun;
};
static_assert(sizeof(ScsiConfig) == 36);

// 1, target, and the unit in SAM's flat format; or a well-known unit.
using ScsiLun = std::array<std::uint8_t, 8>;

// In front of every command. Behind it cdb_size bytes of CDB, then the data for the device.
#pragma pack(push, 1)
struct ScsiRequest {
    ScsiLun lun;
    std::uint64_t id;
    std::uint8_t task_attr, prio, crn;
};
// Behind it sense_size bytes, then the data for the driver.
struct ScsiResponse {
    std::uint32_t sense_len, residual;
    std::uint16_t status_qualifier;
    std::uint8_t status, response;
};
#pragma pack(pop)
static_assert(sizeof(ScsiRequest) == 19 && sizeof(ScsiResponse) == 12);

enum class ScsiResult : std::uint8_t {
    VIRTIO_SCSI_S_OK = 0,
    VIRTIO_SCSI_S_OVERRUN = 1,
    VIRTIO_SCSI_S_BAD_TARGET = 3,
    VIRTIO_SCSI_S_FAILURE = 9,
    VIRTIO_SCSI_S_FUNCTION_REJECTED = 11,
    VIRTIO_SCSI_S_INCORRECT_LUN = 12,
    pending = 0xff,  // ours: not decided yet
};

inline constexpr std::uint32_t VIRTIO_SCSI_T_TMF = 0, VIRTIO_SCSI_T_AN_QUERY = 1,
                               VIRTIO_SCSI_T_AN_SUBSCRIBE = 2;

enum class ScsiTask : std::uint32_t {
    VIRTIO_SCSI_T_TMF_ABORT_TASK = 0,
    VIRTIO_SCSI_T_TMF_ABORT_TASK_SET = 1,
    VIRTIO_SCSI_T_TMF_CLEAR_ACA = 2,
    VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET = 3,
    VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET = 4,
    VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET = 5,
    VIRTIO_SCSI_T_TMF_QUERY_TASK = 6,
    VIRTIO_SCSI_T_TMF_QUERY_TASK_SET = 7,
};

#pragma pack(push, 1)
// Answered by one byte, a ScsiResult.
struct ScsiTaskRequest {
    std::uint32_t type;
    ScsiTask subtype;
    ScsiLun lun;
    std::uint64_t id;
};
// Answered by ScsiNotificationResponse.
struct ScsiNotificationRequest {
    std::uint32_t type;
    ScsiLun lun;
    std::uint32_t event_requested;
};
struct ScsiNotificationResponse {
    std::uint32_t event_actual;
    ScsiResult response;
};
#pragma pack(pop)
static_assert(sizeof(ScsiTaskRequest) == 24 && sizeof(ScsiNotificationRequest) == 16 &&
              sizeof(ScsiNotificationResponse) == 5);

}  // namespace doppel::devices::virtio
