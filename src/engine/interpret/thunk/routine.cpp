#include "engine/interpret/thunk/routine.h"

#include "engine/interpret/thunk/vector_state.h"

namespace doppel::engine::interpret::thunk {

namespace {

constexpr unsigned rax = 0, rsi = 6, rdi = 7, rsp = 4;
constexpr std::uint32_t callee_saved = (1u << 3) | (1u << 5) | 0xf000u;

class Routine {
public:
    Routine(const Plan& plan, const Core& core, bool wide, Assembler& out)
        : plan_(plan), wide_(wide), out_(out), base_(plan.core_register),
          gpr_(offset_in(core, core.gpr.data())), flags_(offset_in(core, &core.flags)),
          xsave_(offset_in(core, core.state.xsave.bytes.data()))
    {
    }

    std::size_t assemble()
    {
        enter();
        load_guest();
        out_.bytes({plan_.bytes.data(), plan_.length});
        store_guest();
        leave(true);
        const std::size_t fault_exit = out_.size();
        leave(false);
        return fault_exit;
    }

private:
    static std::int32_t offset_in(const Core& core, const void* member)
    {
        return static_cast<std::int32_t>(static_cast<const std::byte*>(member) -
                                         reinterpret_cast<const std::byte*>(&core));
    }
    [[nodiscard]] unsigned host(unsigned guest) const { return guest == rsp ? plan_.rsp_as : guest; }
    [[nodiscard]] std::int32_t gpr(unsigned reg) const { return gpr_ + 8 * static_cast<int>(reg); }
    [[nodiscard]] std::int32_t xsave(unsigned offset) const
    {
        return xsave_ + static_cast<std::int32_t>(offset);
    }

    // Host registers that the routine changes and its caller needs.
    [[nodiscard]] std::uint32_t saved() const
    {
        std::uint32_t changed = plan_.gpr_used & ~(1u << rsp);
        if ((plan_.gpr_used & (1u << rsp)) != 0) changed |= 1u << plan_.rsp_as;
        if (plan_.memory.size != 0) changed |= 1u << plan_.memory_register;
        return changed & callee_saved;
    }

    // Both arguments may have to move, and RDI may be where the memory address goes.
    void enter()
    {
        for (unsigned reg = 0; reg < 16; ++reg) {
            if ((saved() & (1u << reg)) != 0) out_.push(reg);
        }
        if (base_ != rdi) out_.move(base_, rdi);
        if (plan_.memory.size != 0 && plan_.memory_register != rsi) {
            out_.move(plan_.memory_register, rsi);
        }
        if (plan_.mxcsr) {
            // LDMXCSR serialises and costs more than all the rest: only where the guest's value
            // is not there already. MOV EAX, [guest]; CMP EAX, [rsp - 8]; JE over LDMXCSR.
            host_mxcsr(3);
            load_guest_mxcsr();
            out_.bytes(std::array<std::uint8_t, 5>{0x3b, 0x44, 0x24, 0xf8, 0x74});
            out_.byte(base_ >= 8 ? 8 : 7);
            out_.group(0xae, 2, base_, xsave(xsave_mxcsr), false);
        }
    }

    void load_guest_mxcsr()
    {
        if (base_ >= 8) out_.byte(0x41);
        out_.byte(0x8b);
        out_.byte(0x80 | (base_ & 7));
        out_.dword(xsave(xsave_mxcsr));
    }

    // STMXCSR (3) or LDMXCSR (2) of [rsp - 8]: the red zone, which signals respect. 5 bytes.
    void host_mxcsr(unsigned extension)
    {
        out_.bytes(std::array<std::uint8_t, 2>{0x0f, 0xae});
        out_.byte(0x44 | (extension << 3));
        out_.byte(0x24);
        out_.byte(0xf8);
    }

    // EDX:EAX = 1, then XRSTOR64 (5) or XSAVE64 (4): the x87 component alone.
    void x87(unsigned extension)
    {
        out_.bytes(std::array<std::uint8_t, 7>{0xb8, 1, 0, 0, 0, 0x31, 0xd2});
        out_.group(0xae, extension, base_, xsave_, true);
    }

    void load_guest()
    {
        if (plan_.x87) x87(5);
        for (unsigned reg = 0; reg < 32; ++reg) load_vector(reg, plan_.vector_width[reg]);
        for (unsigned reg = 0; reg < 8; ++reg) {
            if ((plan_.mask_used & (1u << reg)) != 0) {
                out_.load_mask(reg, base_, xsave(x86::xsave_offset_opmask + 8 * reg));
            }
        }
        if (plan_.flags) {
            // MOVZX EAX, word [flags]; ADD AL, 127 (OF from bit 0); SAHF.
            out_.group(0xb7, rax, base_, flags_, false);
            out_.bytes(std::array<std::uint8_t, 3>{0x04, 0x7f, 0x9e});
        }
        for (unsigned reg = 0; reg < 16; ++reg) {
            if ((plan_.gpr_used & (1u << reg)) != 0) out_.load(host(reg), base_, gpr(reg));
        }
    }

    void load_vector(unsigned reg, unsigned width)
    {
        if (width == 0) return;
        const VectorPieces pieces = vector_pieces(reg);
        if (reg >= 16) return out_.load_zmm(reg, base_, xsave(pieces.piece[0].offset));
        if (!plan_.vector_encoded) return out_.load_xmm(reg, base_, xsave(pieces.piece[0].offset));
        out_.load_xmm_vex(reg, base_, xsave(pieces.piece[0].offset));
        if (width > 16) out_.load_ymm_high(reg, base_, xsave(pieces.piece[1].offset));
        if (width > 32) out_.load_zmm_high(reg, base_, xsave(pieces.piece[2].offset));
    }

    void store_guest()
    {
        for (unsigned reg = 0; reg < 16; ++reg) {
            if ((plan_.gpr_written & (1u << reg)) != 0) out_.store(host(reg), base_, gpr(reg));
        }
        if (plan_.flags) {
            // SETO AL; LAHF; MOV [flags], AX.
            out_.bytes(std::array<std::uint8_t, 5>{0x0f, 0x90, 0xc0, 0x9f, 0x66});
            if (base_ >= 8) out_.byte(0x41);
            out_.byte(0x89);
            out_.byte(0x80 | (base_ & 7));
            out_.dword(flags_);
        }
        for (unsigned reg = 0; reg < 8; ++reg) {
            if ((plan_.mask_written & (1u << reg)) != 0) {
                out_.store_mask(reg, base_, xsave(x86::xsave_offset_opmask + 8 * reg));
            }
        }
        for (unsigned reg = 0; reg < 32; ++reg) {
            if ((plan_.vector_written & (1u << reg)) != 0) store_vector(reg);
        }
        if (plan_.x87) x87(4);
    }

    // A VEX or EVEX instruction has zeroed the register above its width: storing all of it
    // does the same for the guest's.
    void store_vector(unsigned reg)
    {
        const VectorPieces pieces = vector_pieces(reg);
        if (reg >= 16) return out_.store_zmm(reg, base_, xsave(pieces.piece[0].offset));
        out_.store_xmm(reg, base_, xsave(pieces.piece[0].offset));
        if (!plan_.vector_encoded) return;
        out_.store_ymm_high(reg, base_, xsave(pieces.piece[1].offset));
        if (wide_) out_.store_zmm_high(reg, base_, xsave(pieces.piece[2].offset));
    }

    void leave(bool done)
    {
        if (plan_.x87) out_.bytes(std::array<std::uint8_t, 2>{0xdb, 0xe3});  // FNINIT
        if (plan_.mxcsr) {
            out_.group(0xae, 3, base_, xsave(xsave_mxcsr), false);
            if (done) {
                // The guest's sticky flags may stay: with exceptions masked nothing in the host
                // sees them, and the next thunk finds its MXCSR loaded. MOV EAX, [guest];
                // XOR EAX, [rsp - 8]; TEST EAX, ~flags; JZ over LDMXCSR.
                load_guest_mxcsr();
                out_.bytes(std::array<std::uint8_t, 5>{0x33, 0x44, 0x24, 0xf8, 0xa9});
                out_.dword(0xffc0);
                out_.bytes(std::array<std::uint8_t, 2>{0x74, 5});
            }
            host_mxcsr(2);
        }
        if (plan_.vector_encoded) out_.bytes(std::array<std::uint8_t, 3>{0xc5, 0xf8, 0x77});
        if (done) out_.bytes(std::array<std::uint8_t, 2>{0x31, 0xc0});  // XOR EAX, EAX
        for (unsigned reg = 16; reg-- > 0;) {
            if ((saved() & (1u << reg)) != 0) out_.pop(reg);
        }
        out_.byte(0xc3);
    }

    const Plan& plan_;
    bool wide_;
    Assembler& out_;
    unsigned base_;
    std::int32_t gpr_, flags_, xsave_;
};

}  // namespace

std::size_t assemble(const Plan& plan, const Core& core, bool wide, Assembler& out)
{
    return Routine{plan, core, wide, out}.assemble();
}

}  // namespace doppel::engine::interpret::thunk
