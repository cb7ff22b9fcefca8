// What is done with an instruction: an allow-list by mnemonic for general registers, the
// interpreter's allow-list by instruction set for everything else.
#pragma once

#include <Zydis/Zydis.h>

#include <optional>

#include "engine/translate/block/translation.h"
#include "engine/translate/lower/instruction.h"
#include "x86/cpuid.h"

namespace doppel::engine::translate {

// Operands as Zydis decodes them, hidden ones included.
Kind classify(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
              const Mode& mode, const x86::CpuidPolicy& cpuid);

// What is special about it in 32-bit code; nullopt: as in 64-bit code.
std::optional<Kind> classify_code32(const ZydisDecodedInstruction& decoded,
                                    const ZydisDecodedOperand* operands);

}  // namespace doppel::engine::translate
