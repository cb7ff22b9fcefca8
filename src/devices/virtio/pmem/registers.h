// What a persistent memory device and its driver exchange. Virtio 1.2, section 5.19.
#pragma once

#include <cstdint>

#include "devices/virtio/virtio.h"

namespace doppel::devices::virtio {

struct PmemConfig {
    std::uint64_t start, size;  // guest-physical, bytes
};
static_assert(sizeof(PmemConfig) == 16);

inline constexpr std::uint32_t VIRTIO_PMEM_REQ_TYPE_FLUSH = 0;

struct PmemRequest {
    std::uint32_t type;
};
struct PmemResponse {
    std::uint32_t ret;  // 0: done
};
static_assert(sizeof(PmemRequest) == 4 && sizeof(PmemResponse) == 4);

}  // namespace doppel::devices::virtio
