// The VMM's end of the commons.
#pragma once

#include <atomic>

#include "base/fd.h"
#include "base/mapped_region.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/translate/link/commons.h"

namespace doppel::engine::translate {

class SharedCommons {
public:
    static base::Result<SharedCommons> create(const EngineConfig& config);

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] Commons& all() const { return *commons_; }
    [[nodiscard]] Seat& seat(unsigned vcpu) const { return commons_->seats[vcpu]; }
    // The vCPUs that have decoded or translated code from the page of RAM, as bits.
    [[nodiscard]] std::uint64_t holders(std::uint64_t ram_offset) const
    {
        return code_map_[ram_offset / base::page_size].load(std::memory_order_seq_cst);
    }

private:
    base::Fd fd_;
    base::MappedRegion region_;
    Commons* commons_ = nullptr;
    std::atomic<std::uint64_t>* code_map_ = nullptr;
};

}  // namespace doppel::engine::translate
