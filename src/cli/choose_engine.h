// What `--engine auto` means on this host.
#pragma once

#include <string>

#include "cli/host.h"
#include "engine/engine.h"

namespace doppel::cli {

struct EngineChoice {
    engine::EngineKind kind;
    std::string reason;  // for one line on stderr
};

// kvm where it has hardware support, else translate where it works, else interpret, which always
// does.
EngineChoice choose_engine(const Host& host);

}  // namespace doppel::cli
