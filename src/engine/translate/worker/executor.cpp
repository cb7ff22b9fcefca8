#include "engine/translate/worker/executor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "engine/translate/dispatch/supervisor.h"
#include "engine/translate/layout.h"

namespace doppel::engine::translate {

namespace {

using x86::rflags::AC, x86::rflags::DF, x86::rflags::ID, x86::rflags::IF, x86::rflags::IOPL,
    x86::rflags::NT, x86::rflags::RF, x86::rflags::STATUS, x86::rflags::TF, x86::rflags::VM;

// RFLAGS that translated code keeps in the host's own.
constexpr std::uint64_t own_flags = STATUS | DF | ID;
constexpr std::uint64_t host_flags = 0x202;  // IF and the bit that is always set

// A stretch of interpretation where translated code cannot run at all (real mode, ...).
constexpr std::uint64_t interpreted_stretch = 512;

// Vectors as the host reports them.
constexpr std::uint64_t trap_debug = 1, trap_page_fault = 14;
constexpr std::uint64_t error_write = 2;

constexpr bool upper_half(std::uint64_t linear) { return (linear >> 63) != 0; }

CodeCache::Config supervisor_cache_config(std::uint8_t* alias)
{
    return {.user = false, .address = supervisor_code, .write = alias, .size = supervisor_code_size,
            .common_exit = supervisor_exit_address()};
}

CodeCache::Config user_cache_config(UserProcesses& processes)
{
    return {.user = true, .address = user_code, .write = processes.code().data(),
            .size = user_code_size, .common_exit = user_common_exit};
}

// Components whose registers are all zero become initial. To the guest it is the same; the
// processor otherwise takes the upper halves for used, and legacy SSE code that meets VEX code
// then runs twenty times slower.
void make_initial(x86::XsaveArea& area)
{
    struct Component {
        std::uint64_t bit;
        unsigned offset, size;
    };
    constexpr Component components[] = {{x86::xcr0::AVX, x86::xsave_offset_avx, 256},
                                        {x86::xcr0::OPMASK, x86::xsave_offset_opmask, 64},
                                        {x86::xcr0::ZMM_HI256, x86::xsave_offset_zmm_hi256, 512},
                                        {x86::xcr0::HI16_ZMM, x86::xsave_offset_hi16_zmm, 1024}};
    constexpr unsigned header = 512;
    std::uint64_t present = 0;
    std::memcpy(&present, area.bytes.data() + header, sizeof present);
    for (const Component& component : components) {
        if ((present & component.bit) == 0) continue;
        const auto* first = area.bytes.data() + component.offset;
        if (std::all_of(first, first + component.size, [](std::uint8_t byte) { return byte == 0; })) {
            present &= ~component.bit;
        }
    }
    std::memcpy(area.bytes.data() + header, &present, sizeof present);
}

// Of the opcodes behind 0F. Generous, where one opcode is several instructions.
bool escaped_touches_vectors(std::uint8_t opcode)
{
    switch (opcode >> 4) {
    case 0x0: return opcode == 0x0e || opcode == 0x0f;
    case 0x1: return opcode < 0x18 && opcode >= 0x10;
    case 0x2: return opcode >= 0x28;
    case 0x3: return opcode == 0x38 || opcode == 0x3a;
    case 0x5: case 0x6: case 0x7: case 0xd: case 0xe: case 0xf: return true;
    case 0xa: return opcode == 0xae;
    case 0xc: return opcode == 0xc2 || (opcode >= 0xc4 && opcode <= 0xc7);
    default: return false;
    }
}

// With the guest's vector registers in the processor. Nothing may come between the entry and
// the two instructions around it that the compiler could use such a register for.
__attribute__((noinline)) void enter_with_vectors(x86::XsaveArea& area, std::uint64_t components)
{
    const auto low = static_cast<std::uint32_t>(components);
    const auto high = static_cast<std::uint32_t>(components >> 32);
    asm volatile("xrstor64 %0" : : "m"(area), "a"(low), "d"(high) : "memory");
    doppel_enter_supervisor();
    asm volatile("xsave64 %0" : "+m"(area) : "a"(low), "d"(high) : "memory");
}

WindowConfig supervisor_window_config()
{
    WindowConfig config;
    config.user = false;
    config.fold = fold;
    config.begin = worker_low_end;
    config.end = window_end;
    config.holes = {{worker_high, worker_high_end}};
    return config;
}

}  // namespace

Executor::Executor(const Parts& parts)
    : interpreter_(parts.interpreter), registers_(parts.interpreter.direct()),
      memory_(parts.memory), cpuid_(parts.cpuid), attention_(parts.attention),
      supervisor_cache_(supervisor_cache_config(parts.supervisor_code_alias), parts.cpuid),
      user_cache_(user_cache_config(parts.processes), parts.cpuid),
      supervisor_mapper_(parts.memory.fd()),
      supervisor_window_(supervisor_window_config(), *this, supervisor_mapper_),
      spaces_(parts.processes, *this, user_cache_, parts.spaces)
{
    supervisor_cache_.add_targets(targets_of_supervisor());
    interpreter_.set_observer(this);
    memory_.add_listener(*this);
}

Executor::~Executor() { interpreter_.set_observer(nullptr); }

// ---- the loop ------------------------------------------------------------------------------------

Executor::Stop Executor::run(std::uint64_t budget)
{
    if (budget != 0) return interpret_many(budget);
    Next next = Next::dispatch;
    for (;;) {
        switch (next) {
        case Next::dispatch: next = dispatch(); break;
        case Next::resume: next = enter(); break;
        case Next::stop: return stop_;
        }
    }
}

void Executor::want_interrupt_window(bool wanted)
{
    window_wanted_ = wanted;
    supervisor().pending = wanted ? 1 : 0;
}

bool Executor::must_leave() const
{
    return attention_.load(std::memory_order_acquire) != 0 ||
           (window_wanted_ && home_ == Home::interpreter && interpreter_.interruptible());
}

Executor::Stop Executor::interpret_many(std::uint64_t budget)
{
    take_fpu();
    ++counts_.interpreted_runs;
    return interpreter_.execute(budget);
}

Executor::Next Executor::interpret_one(ExitKind kind)
{
    ASSERT(home_ == Home::interpreter);
    if (kind == ExitKind::interpret) {
        const Peek next = peek(*registers_.rip);
        if (next.vectors) take_fpu();
        ++opcode_counts_[next.opcode];
    }
    ++counts_.interpreted;
    stop_ = interpreter_.step();
    return stop_ == Stop::budget ? Next::dispatch : Next::stop;
}

Executor::Next Executor::dispatch()
{
    if (flush_.any) apply_flushes();
    if (must_leave()) {
        stop_ = Stop::attention;
        return Next::stop;
    }
    Mode mode;
    if (!eligible(mode)) {
        // Conditions that last an instruction or two need no stretch.
        const bool brief = registers_.state->code64() && registers_.state->events.activity == x86::Activity::running;
        if (brief) return interpret_one();
        stop_ = interpret_many(interpreted_stretch);
        return stop_ == Stop::budget ? Next::dispatch : Next::stop;
    }
    mode_ = mode;
    if (mode.user) {
        const bool user = !mode.privileged;
        if (space_ == nullptr || !space_->is(registers_.state->cr3, user)) {
            space_ = spaces_.find(registers_.state->cr3, user);
            if (space_ == nullptr) return fail("the host refused another user process");
        }
        if (space_->stale) refresh(*space_);
        if (space_->targets_mode != mode) {
            user_cache_.clear_targets(space_->process().targets());
            space_->targets_mode = mode;
        }
    }
    Block* block = block_for(*registers_.rip, mode, false);
    if (block == nullptr) return interpret_one();
    if (block->guest_count == 0) return interpret_one(block->exits.empty() ? ExitKind::interpret : block->exits.front().kind);
    load_context(mode);
    host_rip_ = block->host;
    return Next::resume;
}

// The guest handled a page fault and goes back to the instruction: its next access would fault
// once more, for us.
void Executor::fill_after_fault()
{
    user_fault_.pending = false;
    if (user_fault_.rip != *registers_.rip || user_fault_.space != space_) return;
    static_cast<void>(space_->window().fill(user_fault_.address, user_fault_.write));
}

bool Executor::eligible(Mode& mode)
{
    x86::CpuState& state = *registers_.state;
    // RF is for instruction breakpoints, and lasts for one instruction.
    if ((state.dr7 & x86::dr7::ENABLE_MASK) == 0) state.rflags &= ~RF;
    if (!state.code64() || state.events.interrupt_shadow ||
        state.events.activity != x86::Activity::running ||
        (state.rflags & (TF | RF | VM | NT | IOPL)) != 0 ||
        (state.dr7 & x86::dr7::ENABLE_MASK) != 0) {
        return false;
    }
    const unsigned cpl = state.cpl();
    note_vector_state();
    mode.vector = vector_ok_;
    mode.gs_free = state.segments[x86::GS].base == 0;  // of user code, see below
    if (cpl == 3) {
        mode.user = true;
        mode.masked = (state.rflags & IF) == 0;
        return (state.rflags & AC) == 0 && (state.cr4 & x86::cr4::TSD) == 0;
    }
    if (cpl != 0) return false;
    if (!upper_half(*registers_.rip)) {
        mode.user = true;
        mode.privileged = true;
        return (state.rflags & AC) == 0;
    }
    mode.vector = false;
    mode.gs_free = false;
    mode.access = (state.rflags & AC) != 0 && (state.cr4 & x86::cr4::SMAP) != 0;
    return gs_fits();
}

void Executor::note_vector_state()
{
    const x86::CpuState& state = *registers_.state;
    if (state.cr0 == vector_cr0_ && state.cr4 == vector_cr4_ && state.xcr0 == vector_xcr0_) return;
    vector_cr0_ = state.cr0;
    vector_cr4_ = state.cr4;
    vector_xcr0_ = state.xcr0;
    constexpr std::uint64_t needed = x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT | x86::cr4::OSXSAVE;
    vector_ok_ = (state.cr0 & (x86::cr0::EM | x86::cr0::TS)) == 0 &&
                 (state.cr4 & needed) == needed && state.xcr0 == cpuid_.xcr0_mask();
}

Executor::Next Executor::enter()
{
    if (must_leave()) {
        std::uint64_t rip = 0;
        if (at_point(host_rip_, rip)) {
            unload_context(rip);
            stepping_ = false;
            stop_ = Stop::attention;
            return Next::stop;
        }
        stepping_ = true;
    }
    ExecContext& registers = context();
    registers.exit = resume_exit_;
    if (mode_.user) {
        ++counts_.entries_user;
        UserProcess& process = space_->process();
        std::uint32_t actions = 0;
        if (fpu_owner_ != &process) {
            take_fpu();
            make_initial(registers_.state->xsave);
            process.load_fpu(registers_.state->xsave);
            fpu_owner_ = &process;
            ++counts_.fpu_loads;
        }
        if (space_->code_version != code_version_) {
            space_->code_version = code_version_;
            actions |= user_new_code;
        }
        if (stepping_) actions |= user_single_step;
        const auto left = process.enter(actions, host_rip_);
        if (!left) return fail("a user process died");
        if (*left == exit_cancelled && process.mapping_error() != 0) return mappings_refused();
        return after_exit(*left);
    } else {
        ++counts_.entries_supervisor;
        registers.host_rip = host_rip_;
        if (stepping_) registers.flags |= TF;
        registers.kicked = 0;
        if (attention_.load(std::memory_order_seq_cst) != 0 && !stepping_) return Next::resume;
        if (mode_.vector) {
            make_initial(registers_.state->xsave);
            enter_with_vectors(registers_.state->xsave, cpuid_.xcr0_mask());
        } else {
            doppel_enter_supervisor();
        }
        registers.flags &= ~TF;
    }
    return after_exit(registers.exit);
}

// The host has no room for more: start over with an empty window.
Executor::Next Executor::mappings_refused()
{
    if (++refusals_ > 3) return fail("the host refuses mappings of guest memory");
    space_->process().unmap_all();
    space_->window().clear(false);
    return Next::resume;
}

Executor::Next Executor::after_exit(std::uint32_t exit)
{
    refusals_ = 0;
    switch (exit) {
    case exit_cancelled: return Next::resume;
    case exit_kick: return after_kick();
    case exit_fault: return after_fault();
    case exit_no_target: stepping_ = false; return after_missing_target(context().target);
    default: break;
    }
    stepping_ = false;
    const Site site = cache().site(exit);
    if (site.block == nullptr) return fail("translated code left by an exit that does not exist");
    return after_site(site);
}

Executor::Next Executor::fail(std::string text)
{
    failure_ = std::move(text);
    stop_ = Stop::environment;
    return Next::stop;
}

// ---- exits -----------------------------------------------------------------------------------------

Executor::Next Executor::after_site(const Site& site)
{
    const Exit exit = *site.exit;
    ++site_counts_[static_cast<unsigned>(exit.kind)];
    record(static_cast<std::uint8_t>(exit.kind), exit.target);
    if (exit.kind == ExitKind::interpret && wants_vectors(exit.target)) {
        Mode with_vectors = mode_;
        with_vectors.vector = true;
        with_vectors.access = false;
        Block* block = block_for(exit.target, with_vectors, false);
        if (block != nullptr && block->guest_count != 0) {
            take_fpu();
            mode_ = with_vectors;
            host_rip_ = block->host;
            return Next::resume;
        }
    }
    if (exit.kind == ExitKind::swapgs && !must_leave()) return swap_gs(exit.target);
    if (exit.kind != ExitKind::direct) {
        unload_context(exit.target);
        if (must_leave()) {
            stop_ = Stop::attention;
            return Next::stop;
        }
        return interpret_one(exit.kind);
    }
    ++counts_.direct;
    const std::uint32_t number = site.block->first_site +
                                 static_cast<std::uint32_t>(site.exit - site.block->exits.data());
    Block* next = block_for(exit.target, exit.mode, exit.patch != 0);
    if (next == nullptr || next->guest_count == 0) {
        unload_context(exit.target);
        return Next::dispatch;
    }
    // Translating may have made room by dropping the block that was left.
    const Site again = cache().site(number);
    const bool linkable = exit.patch != 0 && (!mode_.user || next->second_page == Block::no_page);
    if (linkable && again.block == site.block && again.block != nullptr && !again.block->dropped) {
        cache().link(again, *next);
        ++code_version_;
    }
    mode_ = exit.mode;
    host_rip_ = next->host;
    return Next::resume;
}

// With the registers where they are: on every way into a Linux kernel and out of it.
Executor::Next Executor::swap_gs(std::uint64_t rip)
{
    constexpr std::uint64_t length = 3;
    ++counts_.interpreted;
    x86::CpuState& state = *registers_.state;
    std::swap(state.segments[x86::GS].base, state.kernel_gs_base);
    interpreter_.mode_changed();
    Block* next = gs_fits() ? block_for(rip + length, mode_, false) : nullptr;
    if (next == nullptr || next->guest_count == 0) {
        unload_context(rip + length);
        return Next::dispatch;
    }
    context().fs_base = state.segments[x86::GS].base + fold;
    host_rip_ = next->host;
    return Next::resume;
}

// FS.base of the host takes the guest's GS.base, folded.
bool Executor::gs_fits() const
{
    return registers_.state->segments[x86::GS].base + fold < user_window_end;
}

Executor::Next Executor::after_missing_target(std::uint64_t rip)
{
    ++counts_.missing_targets;
    record(0x10, rip);
    Block* next = nullptr;
    if (!mode_.user) {
        // Entries are for the plain mode; there are no indirect branches between STAC and CLAC.
        mode_.access = false;
        mode_.vector = false;
    }
    // Code changes privilege only by other ways; supervisor code may still leave for the low half.
    if (mode_.user ? !upper_half(rip) : upper_half(rip)) next = block_for(rip, mode_, true, true);
    if (next == nullptr || next->guest_count == 0) {
        unload_context(rip);
        return Next::dispatch;
    }
    cache().enter_target(targets(), *next);
    ++code_version_;
    if (next->dropped) {
        unload_context(rip);
        return Next::dispatch;
    }
    host_rip_ = next->host;
    return Next::resume;
}

Executor::Next Executor::after_fault()
{
    const ExecContext& registers = context();
    const std::uint64_t from = std::exchange(host_rip_, registers.host_rip);
    resume_exit_ = registers.interrupted_exit;
    if (registers.trap == trap_debug) {
        ++counts_.steps;
        // In the middle of a repeated string instruction, which may have millions to go: as
        // after a fault there, its registers say how far it came.
        if (host_rip_ == from && unload_precisely()) return Next::dispatch;
        return Next::resume;  // enter() looks whether this is an exact point
    }
    ++counts_.faults;
    if (registers.trap == trap_page_fault) {
        return after_page_fault(registers.address, (registers.error & error_write) != 0);
    }
    // A non-canonical address, #DE, #UD and the like: the interpreter finds the same.
    ++counts_.odd_faults;
    record(0x11, registers.trap);
    if (!unload_precisely()) return fail("a fault in code that nobody knows");
    return interpret_one();
}

Executor::Next Executor::after_page_fault(std::uint64_t address, bool write)
{
    record(0x12, address);
    if (!mode_.user && (registers_.state->cr4 & x86::cr4::SMAP) != 0) {
        // Between STAC and CLAC only the stack is translated code's own: what it may touch then
        // must not stay mapped.
        if ((context().system_flags & AC) != 0) {
            if (!unload_precisely()) return fail("a page fault in code that nobody knows");
            return interpret_one();
        }
        // The interpreter's copy is older than a CLAC.
        interpreter_.set_rflags(interpreter_.rflags() & ~AC);
    }
    switch (window().fill(address, write)) {
    case Window::Fill::mapped:
        return Next::resume;
    case Window::Fill::fault: {
        ++counts_.page_faults_guest;
        const x86::Fault fault = window().fault();
        if (!unload_precisely()) return fail("a page fault in code that nobody knows");
        if (mode_.user) user_fault_ = {true, write, *registers_.rip, address, space_};
        return deliver(fault);
    }
    case Window::Fill::code:
        return after_code_write(window().linear(address));
    case Window::Fill::device:
    case Window::Fill::unmappable:
        break;
    }
    ++counts_.device_faults;
    if (!unload_precisely()) return fail("a device access in code that nobody knows");
    return interpret_one();
}

Executor::Next Executor::deliver(const x86::Fault& fault)
{
    if (!interpreter_.deliver_fault(fault)) {
        stop_ = interpreter_.step();  // reports the triple fault
        return Next::stop;
    }
    return Next::dispatch;
}

Executor::Next Executor::after_code_write(std::uint64_t linear)
{
    ++counts_.code_writes;
    const Block* running = cache().block_at(host_rip_);
    const x86::WalkResult found =
        interpreter_.probe(linear, x86::Access::write, mode_.user && !mode_.privileged);
    const auto* translation = std::get_if<x86::Translation>(&found);
    const auto piece = translation == nullptr ? std::nullopt : ram(translation->gpa);
    if (running != nullptr && piece) {
        const std::uint64_t page = piece->offset & ~base::page_mask;
        const bool own = (running->ram_offset & ~base::page_mask) == page ||
                         running->second_page == page;
        if (!own) {
            interpreter_.code_changed(page, base::page_size);
            drop_code(page);
            return Next::resume;  // faults again and finds the page without code
        }
    }
    // The code overwrites its own page: what follows in this block may be out of date.
    if (!unload_precisely()) return fail("a write in code that nobody knows");
    return interpret_one();
}

Executor::Next Executor::after_kick()
{
    ++counts_.kicks;
    host_rip_ = context().host_rip;
    resume_exit_ = context().interrupted_exit;
    record(0x13, host_rip_);
    return Next::resume;  // enter() leaves at an exact point, or steps to one
}

// ---- blocks ------------------------------------------------------------------------------------------

Block* Executor::block_for(std::uint64_t rip, Mode mode, bool note, bool target)
{
    Lookup& cached = lookups_[(rip ^ (rip >> lookup_bits) ^ mode.key()) % lookups_.size()];
    AddressSpace* const space = mode.user ? space_ : nullptr;
    if (!note && !target && cached.rip == rip && cached.version == code_version_ + flushes_ &&
        cached.mode == mode && cached.space == space) {
        return cached.block;
    }
    std::uint64_t ram_offset = 0;
    if (interpreter_.fetch(rip, ram_offset) || ram_offset == interpret::Interpreter::no_memory) {
        return nullptr;
    }
    CodeCache& code = mode.user ? user_cache_ : supervisor_cache_;
    Block* block = code.find(ram_offset, rip, mode);
    if (block != nullptr && block->second_page != Block::no_page &&
        second_page_of(rip) != block->second_page) {
        return nullptr;
    }
    if (block == nullptr) {
        if (rewritten_often(ram_offset & ~base::page_mask)) return nullptr;
        block = translate_block(code, rip, ram_offset, mode, target);
        if (block == nullptr) return nullptr;
        link_within_page(code, *block);
    }
    if (note) {
        note_code(rip, ram_offset);
        if (block->second_page != Block::no_page) {
            note_code((rip | base::page_mask) + 1, block->second_page);
        }
    }
    cached = {rip, code_version_ + flushes_, space, block, mode};
    return block;
}

// RAM page behind the page of `rip`; Block::no_page: no code can be fetched there.
std::uint64_t Executor::second_page_of(std::uint64_t rip)
{
    std::uint64_t ram_offset = 0;
    const std::uint64_t linear = (rip | base::page_mask) + 1;
    if (interpreter_.fetch(linear, ram_offset)) return Block::no_page;
    return ram_offset == interpret::Interpreter::no_memory ? Block::no_page : ram_offset;
}

Block* Executor::translate_block(CodeCache& code, std::uint64_t rip, std::uint64_t ram_offset,
                                 Mode mode, bool target)
{
    constexpr std::size_t tail = 14;  // of an instruction that begins in the page's last byte
    watch(ram_offset & ~base::page_mask);
    Source source;
    source.rip = rip;
    source.mode = mode;
    source.own_bytes = base::page_size - (ram_offset & base::page_mask);
    // SAFETY: the interpreter found both pages in RAM.
    const auto* own = reinterpret_cast<const std::uint8_t*>(memory_.ram() + ram_offset);
    source.bytes = {own, source.own_bytes};
    const std::uint64_t second = second_page_of(rip);
    std::array<std::uint8_t, base::page_size + tail> joined;
    if (second != Block::no_page) {
        std::memcpy(joined.data(), own, source.own_bytes);
        std::memcpy(joined.data() + source.own_bytes, memory_.ram() + second, tail);
        source.bytes = {joined.data(), source.own_bytes + tail};
    }
    Block& block = code.add(source, ram_offset, second, target);
    ++code_version_;
    if (block.second_page == Block::no_page) return &block;
    watch(second);
    if (std::memcmp(joined.data() + source.own_bytes, memory_.ram() + second, tail) == 0) return &block;
    code.drop_page(second);  // written before anybody watched it
    return nullptr;
}

// Writes to the page are reported from now on, and no window shows it writable.
void Executor::watch(std::uint64_t ram_page)
{
    if (supervisor_cache_.has_page(ram_page) || user_cache_.has_page(ram_page)) return;
    interpreter_.watch_code(ram_page);
    protect(ram_page);
}

// To what is there already: each such jump would leave once.
void Executor::link_within_page(CodeCache& code, Block& block)
{
    for (const Exit& exit : block.exits) {
        if (exit.kind != ExitKind::direct || exit.patch == 0) continue;
        if (((exit.target ^ block.rip) & ~base::page_mask) != 0) continue;
        const std::uint64_t ram_offset =
            (block.ram_offset & ~base::page_mask) | (exit.target & base::page_mask);
        Block* to = code.find(ram_offset, exit.target, exit.mode);
        if (to != nullptr && to->guest_count != 0 && to->second_page == Block::no_page) code.link({&block, &exit}, *to);
    }
}

void Executor::note_code(std::uint64_t rip, std::uint64_t ram_offset)
{
    CodePages& pages = mode_.user ? space_->code_pages : supervisor_pages_;
    if (pages.knows(rip)) return;
    const x86::WalkResult found = interpreter_.probe(rip, x86::Access::execute, mode_.user && !mode_.privileged);
    const auto* translation = std::get_if<x86::Translation>(&found);
    pages.note(rip, ram_offset, translation != nullptr && translation->global);
}

bool Executor::rewritten_often(std::uint64_t ram_page)
{
    constexpr std::uint32_t often = 500;
    constexpr std::uint64_t recently = 5000;  // blocks translated since
    const auto at = drops_.find(ram_page);
    if (at == drops_.end()) return false;
    const std::uint64_t now = supervisor_cache_.counters().blocks + user_cache_.counters().blocks;
    if (now - at->second.at > recently) {
        drops_.erase(at);
        return false;
    }
    return at->second.count >= often;
}

void Executor::drop_code(std::uint64_t ram_page)
{
    Drops& drops = drops_[ram_page];
    ++drops.count;
    drops.at = supervisor_cache_.counters().blocks + user_cache_.counters().blocks;
    supervisor_cache_.drop_page(ram_page);
    user_cache_.drop_page(ram_page);
    interpreter_.unwatch_code(ram_page);
    ++code_version_;
}

void Executor::protect(std::uint64_t ram_page)
{
    supervisor_window_.protect(ram_page);
    for (const auto& space : spaces_.all()) space->window().protect(ram_page);
}

// ---- registers -----------------------------------------------------------------------------------------

ExecContext& Executor::context()
{
    return mode_.user ? space_->process().context() : supervisor();
}

Window& Executor::window() { return mode_.user ? space_->window() : supervisor_window_; }

std::uint64_t* Executor::targets_of_supervisor()
{
    // SAFETY: mapped by the worker at its fixed address.
    return reinterpret_cast<std::uint64_t*>(supervisor_targets);
}

std::uint64_t* Executor::targets()
{
    return mode_.user ? space_->process().targets() : targets_of_supervisor();
}

void Executor::load_context(Mode mode)
{
    ExecContext& to = context();
    std::copy_n(registers_.gpr, 16, to.gpr);
    const std::uint64_t flags = interpreter_.rflags();
    const x86::CpuState& state = *registers_.state;
    if (mode.user) {
        to.flags = (flags & own_flags) | host_flags;
        to.fs_base = state.segments[x86::FS].base;
        to.gs_base = mode.gs_free ? user_targets : state.segments[x86::GS].base;
        home_ = Home::user;
    } else {
        to.gpr[x86::RSP] += fold;
        to.flags = (flags & own_flags) | host_flags;
        to.system_flags = flags & ~own_flags;
        to.fs_base = state.segments[x86::GS].base + fold;
        to.pending = window_wanted_ ? 1 : 0;
        home_ = Home::supervisor;
    }
    to.tsc_offset = tsc_offset_;
    to.tsc_aux = static_cast<std::uint32_t>(state.tsc_aux);
}

void Executor::unload_context(std::uint64_t rip)
{
    const ExecContext& from = context();
    std::copy_n(from.gpr, 16, registers_.gpr);
    if (mode_.user) {
        interpreter_.set_rflags((registers_.state->rflags & ~own_flags) | (from.flags & own_flags));
    } else {
        registers_.gpr[x86::RSP] -= fold;
        interpreter_.set_rflags((from.system_flags & ~own_flags) | (from.flags & own_flags));
    }
    *registers_.rip = rip;
    home_ = Home::interpreter;
}

bool Executor::at_point(std::uint64_t host, std::uint64_t& rip) const
{
    const CodeCache& code = mode_.user ? user_cache_ : supervisor_cache_;
    const Block* block = code.block_at(host);
    if (block == nullptr) return false;
    const auto offset = static_cast<std::uint32_t>(host - block->host);
    const auto point = std::lower_bound(block->points.begin(), block->points.end(), offset,
                                        [](const Point& p, std::uint32_t value) { return p.host < value; });
    if (point == block->points.end() || point->host != offset || point->shadow) return false;
    rip = block->rip + point->guest;
    return true;
}

bool Executor::unload_precisely()
{
    ExecContext& registers = context();
    const Block* block = cache().block_at(host_rip_);
    if (block == nullptr) return false;
    const auto offset = static_cast<std::uint32_t>(host_rip_ - block->host);
    auto point = std::upper_bound(block->points.begin(), block->points.end(), offset,
                                  [](std::uint32_t value, const Point& p) { return value < p.host; });
    if (point == block->points.begin()) return false;
    --point;
    for (const Displaced& displaced : block->displaced) {
        if (offset < displaced.from || offset >= displaced.to) continue;
        if (displaced.where == Displaced::Where::slot) {
            registers.gpr[displaced.reg & 15] = registers.slot[displaced.slot & 7];
        } else {
            registers.gpr[displaced.reg & 15] -= fold;
        }
    }
    unload_context(block->rip + point->guest);
    stepping_ = false;
    return true;
}

void Executor::take_fpu()
{
    if (fpu_owner_ == nullptr) return;
    UserProcess* owner = fpu_owner_;
    fpu_owner_ = nullptr;
    ++counts_.fpu_saves;
    if (!owner->save_fpu(registers_.state->xsave)) failure_ = "a user process died";
}

// Supervisor code that comes upon a vector instruction: worth having its registers loaded.
bool Executor::wants_vectors(std::uint64_t rip)
{
    return !mode_.user && !mode_.vector && vector_ok_ &&
           (supervisor().system_flags & AC) == 0 && peek(rip).vectors;
}

Executor::Peek Executor::peek(std::uint64_t rip)
{
    constexpr std::size_t longest = 15;
    std::array<std::uint8_t, longest + 1> bytes;
    const std::size_t size = copy_code(rip, std::span{bytes}.first(longest));
    for (std::size_t i = 0; i + 1 < size; ++i) {
        const std::uint8_t byte = bytes[i];
        const bool prefix = byte == 0x66 || byte == 0xf2 || byte == 0xf3 || byte == 0xf0 ||
                            (byte & 0xf0) == 0x40 || (byte & 0xe7) == 0x26 || byte == 0x64 ||
                            byte == 0x65 || byte == 0x67;
        if (prefix) continue;
        if (byte != 0x0f) {
            const bool x87_or_vex = (byte >= 0xd8 && byte <= 0xdf) || byte == 0x9b ||
                                    byte == 0xc4 || byte == 0xc5 || byte == 0x62;
            return {byte, x87_or_vex};
        }
        const std::uint8_t second = bytes[i + 1];
        return {static_cast<std::uint16_t>(256 + second), escaped_touches_vectors(second)};
    }
    return {};
}

// As many bytes as can be fetched.
std::size_t Executor::copy_code(std::uint64_t rip, std::span<std::uint8_t> to)
{
    std::size_t done = 0;
    while (done < to.size()) {
        std::uint64_t at = 0;
        if (interpreter_.fetch(rip + done, at) || at == interpret::Interpreter::no_memory) break;
        const std::size_t part =
            std::min<std::size_t>(to.size() - done, base::page_size - (at & base::page_mask));
        std::memcpy(to.data() + done, memory_.ram() + at, part);
        done += part;
    }
    return done;
}

void Executor::export_state()
{
    ASSERT(home_ == Home::interpreter);
    take_fpu();
}

void Executor::forget_all()
{
    flush_.any = true;
    flush_.global = true;
    fpu_owner_ = nullptr;
}

}  // namespace doppel::engine::translate
