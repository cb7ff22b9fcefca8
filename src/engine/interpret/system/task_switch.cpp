// Hardware task switching, protected mode only. SDM volume 3 sections 7.2 and 7.3.
//
//   checks of the new TSS ─▶ save the old ─▶ busy bits, link ─▶ load registers
//        (faults: old task)                                       │ commit point
//                                              LDT, CS, SS, data ─┘ (faults: new task)
#include "engine/interpret/system/helpers.h"
#include "engine/interpret/system/system.h"

namespace doppel::engine::interpret::privileged {

namespace {

// One task's registers, as both TSS formats have them.
struct Image {
    std::uint64_t cr3 = 0, eip = 0, eflags = 0;
    std::array<std::uint64_t, 8> gpr{};
    std::array<std::uint16_t, 6> segments{};
    std::uint16_t ldt = 0;
    bool trap = false;
};

struct Task {
    std::uint64_t base = 0;
    bool wide = true;
};

std::uint64_t at(const Task& task, unsigned offset) { return (task.base + offset) & 0xffffffff; }

// Every byte of both images is reachable before anything is changed.
Flow touch(Core& core, const Task& task, unsigned size)
{
    std::uint64_t value = 0;
    FLOW_TRY(load_implicit(core, at(task, 0), 1, value));
    return load_implicit(core, at(task, size - 1), 1, value);
}

Flow load_image(Core& core, const Task& task, Image& image)
{
    std::uint64_t value = 0;
    const unsigned word = task.wide ? 4 : 2;
    const unsigned gprs = task.wide ? x86::tss32::EAX : x86::tss16::AX;
    const unsigned selectors = task.wide ? x86::tss32::ES : x86::tss16::ES;
    FLOW_TRY(load_implicit(core, at(task, task.wide ? x86::tss32::EIP : x86::tss16::IP), word,
                           image.eip));
    FLOW_TRY(load_implicit(core, at(task, task.wide ? x86::tss32::EFLAGS : x86::tss16::FLAGS), word,
                           image.eflags));
    for (unsigned i = 0; i < 8; ++i) {
        FLOW_TRY(load_implicit(core, at(task, gprs + word * i), word, image.gpr[i]));
    }
    for (unsigned i = 0; i < (task.wide ? 6u : 4u); ++i) {
        FLOW_TRY(load_implicit(core, at(task, selectors + word * i), 2, value));
        image.segments[i] = static_cast<std::uint16_t>(value);
    }
    FLOW_TRY(load_implicit(core, at(task, task.wide ? x86::tss32::LDT : x86::tss16::LDT), 2, value));
    image.ldt = static_cast<std::uint16_t>(value);
    if (!task.wide) return Flow::next;
    FLOW_TRY(load_implicit(core, at(task, x86::tss32::CR3), 4, image.cr3));
    FLOW_TRY(load_implicit(core, at(task, x86::tss32::TRAP), 2, value));
    image.trap = (value & 1) != 0;
    return Flow::next;
}

Flow save_image(Core& core, const Task& task, std::uint64_t eip, std::uint64_t eflags)
{
    const unsigned word = task.wide ? 4 : 2;
    const unsigned gprs = task.wide ? x86::tss32::EAX : x86::tss16::AX;
    const unsigned selectors = task.wide ? x86::tss32::ES : x86::tss16::ES;
    FLOW_TRY(store_implicit(core, at(task, task.wide ? x86::tss32::EIP : x86::tss16::IP), word, eip));
    FLOW_TRY(store_implicit(core, at(task, task.wide ? x86::tss32::EFLAGS : x86::tss16::FLAGS), word,
                            eflags));
    for (unsigned i = 0; i < 8; ++i) {
        FLOW_TRY(store_implicit(core, at(task, gprs + word * i), word, core.gpr[i]));
    }
    for (unsigned i = 0; i < (task.wide ? 6u : 4u); ++i) {
        FLOW_TRY(store_implicit(core, at(task, selectors + word * i), 2,
                                core.state.segments[i].selector));
    }
    return Flow::next;
}

Flow set_busy(Core& core, const Descriptor& descriptor, bool busy)
{
    std::uint64_t raw = 0;
    FLOW_TRY(load_implicit(core, descriptor.linear, 8, raw));
    raw = busy ? raw | x86::descriptor_tss_busy : raw & ~x86::descriptor_tss_busy;
    return store_implicit(core, descriptor.linear + 4, 4, raw >> 32);
}

Flow check_tss(Core& core, const TaskRequest& request, Descriptor& tss)
{
    const std::uint32_t error = x86::selector_error(request.selector);
    const bool back = request.source == TaskSwitch::iret;
    const Vector vector = back ? Vector::TS : Vector::GP;
    if (x86::selector_in_ldt(request.selector) || x86::selector_null(request.selector)) {
        return core.raise(vector, error);
    }
    FLOW_TRY(read_descriptor(core, request.selector, vector, tss));
    const auto wide = back ? SystemType::TSS32_BUSY : SystemType::TSS32_AVAILABLE;
    const auto narrow = back ? SystemType::TSS16_BUSY : SystemType::TSS16_AVAILABLE;
    if (!x86::is_system(tss.segment, wide) && !x86::is_system(tss.segment, narrow)) {
        return core.raise(vector, error);
    }
    if (!tss.segment.present()) return core.raise(Vector::NP, error);
    const unsigned minimum = (tss.segment.type() & 8) != 0 ? x86::tss32::MINIMUM_LIMIT
                                                           : x86::tss16::MINIMUM_LIMIT;
    if (tss.segment.limit < minimum) return core.raise(Vector::TS, error);
    return Flow::next;
}

Flow load_ldt(Core& core, std::uint16_t selector)
{
    core.state.ldtr = x86::null_segment(selector);
    if (x86::selector_null(selector)) return Flow::next;
    const std::uint32_t error = x86::selector_error(selector);
    if (x86::selector_in_ldt(selector)) return core.raise(Vector::TS, error);
    Descriptor ldt;
    FLOW_TRY(read_descriptor(core, selector, Vector::TS, ldt));
    if (!x86::is_system(ldt.segment, SystemType::LDT) || !ldt.segment.present()) {
        return core.raise(Vector::TS, error);
    }
    core.state.ldtr = ldt.segment;
    return Flow::next;
}

Flow load_code(Core& core, std::uint16_t selector)
{
    const std::uint32_t error = x86::selector_error(selector);
    if (x86::selector_null(selector)) return core.raise(Vector::TS, error);
    Descriptor code;
    FLOW_TRY(read_descriptor(core, selector, Vector::TS, code));
    const unsigned rpl = x86::selector_rpl(selector);
    const bool allowed = x86::is_conforming(code.segment) ? code.segment.dpl() <= rpl
                                                          : code.segment.dpl() == rpl;
    if (!x86::is_code(code.segment) || !allowed) return core.raise(Vector::TS, error);
    if (!code.segment.present()) return core.raise(Vector::NP, error);
    FLOW_TRY(set_accessed(core, code));
    core.state.segments[x86::CS] = code.segment;
    return Flow::next;
}

Flow load_data(Core& core, unsigned reg, std::uint16_t selector)
{
    if (x86::selector_null(selector)) {
        core.state.segments[reg] = x86::null_segment(selector);
        return Flow::next;
    }
    const std::uint32_t error = x86::selector_error(selector);
    Descriptor data;
    FLOW_TRY(read_descriptor(core, selector, Vector::TS, data));
    const unsigned rpl = x86::selector_rpl(selector);
    const unsigned dpl = data.segment.dpl();
    const bool allowed = x86::is_conforming(data.segment) || (rpl <= dpl && core.cpl <= dpl);
    if (!x86::is_readable(data.segment) || !allowed) return core.raise(Vector::TS, error);
    if (!data.segment.present()) return core.raise(Vector::NP, error);
    FLOW_TRY(set_accessed(core, data));
    core.state.segments[reg] = data.segment;
    return Flow::next;
}

// The new task's descriptors, in the order of the manual. Its registers are already in place.
Flow load_descriptors(Core& core, const Image& image)
{
    FLOW_TRY(load_ldt(core, image.ldt));
    if (core.state.vm86()) {
        for (unsigned reg = 0; reg < 6; ++reg) {
            core.state.segments[reg] = x86::vm86_segment(image.segments[reg]);
        }
        core.update_mode();
        return Flow::next;
    }
    const unsigned cpl = x86::selector_rpl(image.segments[x86::CS]);
    FLOW_TRY(load_code(core, image.segments[x86::CS]));
    Descriptor ss;
    FLOW_TRY(check_stack_segment(core, image.segments[x86::SS], cpl, Vector::TS, ss));
    FLOW_TRY(set_accessed(core, ss));
    core.state.segments[x86::SS] = ss.segment;
    core.update_mode();
    for (const unsigned reg : {x86::ES, x86::DS, x86::FS, x86::GS}) {
        FLOW_TRY(load_data(core, reg, image.segments[reg]));
    }
    core.update_mode();
    return Flow::next;
}

void load_registers(Core& core, const Image& image, bool wide, std::uint64_t eflags)
{
    for (unsigned i = 0; i < 8; ++i) {
        core.gpr[i] = wide ? image.gpr[i] : (core.gpr[i] & 0xffff0000) | image.gpr[i];
    }
    core.state.rip = image.eip;
    const bool vm = (eflags & rflags::VM) != 0;
    const unsigned cpl = vm ? 3 : x86::selector_rpl(image.segments[x86::CS]);
    for (unsigned reg = 0; reg < 6; ++reg) {
        // Until its descriptor is loaded a selector is there without a segment.
        const std::uint32_t code = core.state.segments[x86::CS].attributes;
        core.state.segments[reg] = x86::null_segment(image.segments[reg], reg == x86::SS ? cpl : 0);
        if (reg == x86::CS) core.state.segments[reg].attributes |= code & x86::segment_attributes::DB;
    }
    core.set_rflags(eflags);
    core.update_mode();
}

Flow push_error_code(Core& core, bool wide, std::uint32_t error_code)
{
    StackCursor stack{core};
    FLOW_TRY(stack.push(error_code, wide ? 4 : 2));
    stack.commit();
    return Flow::next;
}

Flow enter_task(Core& core, const TaskRequest& request, const Image& image, bool wide)
{
    FLOW_TRY(load_descriptors(core, image));
    if (request.push_error) FLOW_TRY(push_error_code(core, wide, request.error_code));
    return check_target(core, core.state.segments[x86::CS], core.state.rip);
}

}  // namespace

Flow switch_task(Core& core, const TaskRequest& request)
{
    Descriptor tss;
    FLOW_TRY(check_tss(core, request, tss));
    const bool nested = request.source == TaskSwitch::call || request.source == TaskSwitch::event;
    const Segment old_tr = core.state.tr;
    const Task from{old_tr.base, (old_tr.type() & 8) != 0};
    const Task to{tss.segment.base, (tss.segment.type() & 8) != 0};
    Image image;
    const unsigned old_size = from.wide ? x86::tss32::MINIMUM_LIMIT + 1 : x86::tss16::MINIMUM_LIMIT + 1;
    FLOW_TRY(touch(core, from, old_size));
    FLOW_TRY(load_image(core, to, image));

    std::uint64_t old_flags = core.rflags();
    if (request.resume_flag) old_flags |= rflags::RF;
    if (request.source == TaskSwitch::iret) old_flags &= ~rflags::NT;
    FLOW_TRY(save_image(core, from, request.next_rip, old_flags));
    if (!nested) {
        Descriptor old_tss;
        FLOW_TRY(read_descriptor(core, old_tr.selector, Vector::TS, old_tss));
        FLOW_TRY(set_busy(core, old_tss, false));
    }
    if (nested) FLOW_TRY(store_implicit(core, at(to, x86::tss32::LINK), 2, old_tr.selector));
    if (request.source != TaskSwitch::iret) FLOW_TRY(set_busy(core, tss, true));

    // The commit point: from here on faults belong to the new task.
    core.state.tr = tss.segment;
    core.state.tr.attributes |= 2;
    core.state.cr0 |= cr0::TS;
    if (to.wide && (core.state.cr0 & cr0::PG) != 0) {
        core.state.cr3 = image.cr3;
        core.flush_tlb(true);
    }
    std::uint64_t eflags = (image.eflags & 0x3f7fd5) | rflags::RESERVED1;
    if (!to.wide) eflags &= 0xffff;
    if (nested) eflags |= rflags::NT;
    load_registers(core, image, to.wide, eflags);
    core.state.dr7 &= ~std::uint64_t{0x155};  // local breakpoints
    if (image.trap) core.system->note_task_trap();
    const Flow entered = enter_task(core, request, image, to.wide);
    return entered == Flow::next ? entered : core.system->fault_in_new_task(entered);
}

}  // namespace doppel::engine::interpret::privileged
