// The VMM's end of a worker's arena.
#pragma once

#include "base/fd.h"
#include "base/mapped_region.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/translate/link/arena.h"

namespace doppel::engine::translate {

class Arena {
public:
    // With the setup filled in.
    static base::Result<Arena> create(const EngineConfig& config, unsigned vcpu_index);

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] Mailbox& mailbox() const { return *mailbox_; }
    [[nodiscard]] Setup& setup() const { return *setup_; }

private:
    base::Fd fd_;
    base::MappedRegion region_;
    Mailbox* mailbox_ = nullptr;
    Setup* setup_ = nullptr;
};

}  // namespace doppel::engine::translate
