// From guest bytes to blocks of Ops: Zydis decodes, the families in lower.h give handlers.
#pragma once

#include <Zydis/Zydis.h>

#include <array>
#include <memory>
#include <span>

#include "engine/interpret/block_cache.h"
#include "engine/interpret/core.h"

namespace doppel::engine::interpret {

class Decoder {
public:
    explicit Decoder(Core& core);

    // Decodes up to max_ops instructions at core.state.rip, which lies at `linear` and in RAM at
    // `ram_offset`. nullptr: core.fault holds what the fetch raised. A block that must not be
    // found again (it was cut at the limit of CS) stays valid until the next call.
    Block* decode(std::uint64_t linear, std::uint64_t ram_offset, unsigned max_ops) noexcept;

private:
    static constexpr unsigned max_length = 15;

    enum class Outcome { decoded, incomplete, too_long, undefined };
    // One instruction from `bytes`, the instruction at `rip`.
    Outcome decode_one(std::span<const std::uint8_t> bytes, std::uint64_t rip, Op& op,
                       bool& ends_block);
    [[nodiscard]] const ZydisDecoder& decoder() const;
    void lower(const ZydisDecodedInstruction& instruction,
               std::span<const ZydisDecodedOperand> operands, std::span<const std::uint8_t> bytes,
               std::uint64_t rip, Op& op);
    // The block's only instruction, which goes on in the next page.
    Block* decode_straddling(std::uint64_t linear, std::uint64_t ram_offset);
    Block* finish(std::uint64_t ram_offset, std::uint64_t second_page, unsigned count,
                  std::uint32_t bytes, bool keep);

    Core& core_;
    // By machine mode.
    ZydisDecoder bits64_, compat32_, compat16_, legacy32_, legacy16_, real16_;
    std::array<Op, BlockCache::max_ops + 1> ops_;
    std::unique_ptr<Block> transient_;
    bool settled_ = true;  // BlockCache::unsettled() of the pages being decoded
};

}  // namespace doppel::engine::interpret
