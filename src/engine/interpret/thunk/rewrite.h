// Re-encoding of one instruction for a thunk.
#pragma once

#include "engine/interpret/thunk/plan.h"

namespace doppel::engine::interpret::thunk {

// Fills plan.bytes. The result is decoded again as 64-bit code and compared, operand by
// operand, with what the guest's decoder saw: what does not match is refused (false).
bool rewrite(const Decoded& decoded, Plan& plan);

}  // namespace doppel::engine::interpret::thunk
