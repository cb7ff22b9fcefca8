// What is done with an instruction: an allow-list by mnemonic for general registers, the
// interpreter's allow-list by instruction set for everything else.
#pragma once

#include <Zydis/Zydis.h>

#include "engine/translate/block/translation.h"
#include "engine/translate/lower/instruction.h"
#include "x86/cpuid.h"

namespace doppel::engine::translate {

// Operands as Zydis decodes them, hidden ones included.
Kind classify(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
              const Mode& mode, const x86::CpuidPolicy& cpuid);

}  // namespace doppel::engine::translate
