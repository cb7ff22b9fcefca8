// The guest's registers, from the middle of a translation.
#pragma once

#include <cstdint>
#include <span>

#include "engine/translate/block/translation.h"
#include "engine/translate/link/exec_context.h"

namespace doppel::engine::translate {

// `registers` were saved at this offset of the code: puts what is displaced there in its place. They
// are no good for going on there afterwards.
void recover(std::span<const Displaced> displaced, std::uint32_t offset, ExecContext& registers);

}  // namespace doppel::engine::translate
