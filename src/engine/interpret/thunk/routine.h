// The machine code of a thunk.
//
//   save host registers and MXCSR          ─┐
//   guest x87, vectors, masks, flags, GPRs  │ loaded
//   THE INSTRUCTION                         │ a fault here resumes at the fault exit
//   GPRs, flags, masks, vectors, x87        │ stored
//   host state back; return 0              ─┘
//   fault exit: MXCSR stored (its flags say what happened), host state back; return RAX
#pragma once

#include <cstddef>

#include "engine/interpret/thunk/assembler.h"
#include "engine/interpret/thunk/plan.h"

namespace doppel::engine::interpret::thunk {

// Assembles the routine for `plan`, of type Thunk::Entry, with addresses relative to
// `core`. wide: the guest and the host have AVX-512. Returns the offset of the fault exit.
std::size_t assemble(const Plan& plan, const Core& core, bool wide, Assembler& out);

}  // namespace doppel::engine::interpret::thunk
