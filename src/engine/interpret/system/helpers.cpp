#include "engine/interpret/system/helpers.h"

namespace doppel::engine::interpret::privileged {

namespace {

template <typename T>
Flow load_as(Core& core, std::uint64_t linear, std::uint64_t& value)
{
    T narrow{};
    FLOW_TRY(done(core, core.load(linear, narrow)));
    value = narrow;
    return Flow::next;
}

template <typename T>
Flow load_implicit_as(Core& core, std::uint64_t linear, std::uint64_t& value)
{
    T narrow{};
    FLOW_TRY(done(core, core.load_system(linear, narrow)));
    value = narrow;
    return Flow::next;
}

Flow store_at(Core& core, std::uint64_t linear, unsigned size, std::uint64_t value, bool user)
{
    switch (size) {
    case 1: return done(core, core.store_at(linear, static_cast<std::uint8_t>(value), user));
    case 2: return done(core, core.store_at(linear, static_cast<std::uint16_t>(value), user));
    case 4: return done(core, core.store_at(linear, static_cast<std::uint32_t>(value), user));
    default: return done(core, core.store_at(linear, value, user));
    }
}

}  // namespace

Flow load(Core& core, std::uint64_t linear, unsigned size, std::uint64_t& value)
{
    switch (size) {
    case 1: return load_as<std::uint8_t>(core, linear, value);
    case 2: return load_as<std::uint16_t>(core, linear, value);
    case 4: return load_as<std::uint32_t>(core, linear, value);
    default: return load_as<std::uint64_t>(core, linear, value);
    }
}

Flow load_implicit(Core& core, std::uint64_t linear, unsigned size, std::uint64_t& value)
{
    switch (size) {
    case 1: return load_implicit_as<std::uint8_t>(core, linear, value);
    case 2: return load_implicit_as<std::uint16_t>(core, linear, value);
    case 4: return load_implicit_as<std::uint32_t>(core, linear, value);
    default: return load_implicit_as<std::uint64_t>(core, linear, value);
    }
}

Flow store(Core& core, std::uint64_t linear, unsigned size, std::uint64_t value)
{
    switch (size) {
    case 1: return done(core, core.store(linear, static_cast<std::uint8_t>(value)));
    case 2: return done(core, core.store(linear, static_cast<std::uint16_t>(value)));
    case 4: return done(core, core.store(linear, static_cast<std::uint32_t>(value)));
    default: return done(core, core.store(linear, value));
    }
}

Flow store_implicit(Core& core, std::uint64_t linear, unsigned size, std::uint64_t value)
{
    return store_at(core, linear, size, value, false);
}

Flow read_rm(Core& core, const Op& op, unsigned size, std::uint64_t& value)
{
    if (!op.memory) {
        value = read_gpr(core, op.rm, size);
        return Flow::next;
    }
    std::uint64_t linear = 0;
    FLOW_TRY(done(core, core.operand_address(op, size, false, linear)));
    return load(core, linear, size, value);
}

Flow write_rm(Core& core, const Op& op, unsigned size, std::uint64_t value)
{
    if (!op.memory) {
        write_gpr(core, op.rm, size, value);
        return Flow::next;
    }
    std::uint64_t linear = 0;
    FLOW_TRY(done(core, core.operand_address(op, size, true, linear)));
    return store(core, linear, size, value);
}

// ---- stacks -----------------------------------------------------------------------------

unsigned stack_width(const Core& core)
{
    if (code64(core)) return 8;
    return core.stack32 ? 4 : 2;
}

void set_stack_pointer(Core& core, std::uint64_t value, unsigned width)
{
    write_gpr(core, x86::RSP, width, value);
}

StackCursor::StackCursor(Core& core)
    : core_(core), ss_(core.state.segments[x86::SS]), width_(stack_width(core))
{
    pointer_ = read_gpr(core, x86::RSP, width_);
}

StackCursor::StackCursor(Core& core, const Segment& ss, std::uint64_t pointer, unsigned new_cpl,
                         bool mode64)
    : core_(core), ss_(ss), current_(false), user_(new_cpl == 3)
{
    width_ = mode64 ? 8 : ss.db() ? 4 : 2;
    pointer_ = pointer & size_mask(width_);
    error_ = mode64 ? 0 : x86::selector_error(ss.selector);
}

Flow StackCursor::address(std::uint64_t offset, unsigned size, std::uint64_t& linear)
{
    if (width_ == 8) {
        if (!canonical(offset) || !canonical(offset + size - 1)) {
            return core_.raise(Vector::SS, error_);
        }
        linear = offset;
        return Flow::next;
    }
    const std::uint64_t last = offset + size - 1;
    bool inside = last <= ss_.limit;
    if (x86::is_expand_down(ss_)) {
        inside = offset > ss_.limit && last <= (ss_.db() ? 0xffffffffu : 0xffffu);
    }
    if (!inside || ss_.unusable()) return core_.raise(Vector::SS, error_);
    linear = (ss_.base + offset) & 0xffffffff;
    return Flow::next;
}

Flow StackCursor::push(std::uint64_t value, unsigned size)
{
    const std::uint64_t offset = (pointer_ - size) & size_mask(width_);
    std::uint64_t linear = 0;
    FLOW_TRY(address(offset, size, linear));
    FLOW_TRY(current_ ? store(core_, linear, size, value)
                      : store_at(core_, linear, size, value, user_));
    pointer_ = offset;
    return Flow::next;
}

Flow StackCursor::pop(std::uint64_t& value, unsigned size)
{
    const std::uint64_t offset = pointer_ & size_mask(width_);
    std::uint64_t linear = 0;
    FLOW_TRY(address(offset, size, linear));
    FLOW_TRY(load(core_, linear, size, value));
    pointer_ = (offset + size) & size_mask(width_);
    return Flow::next;
}

Flow StackCursor::check_room(unsigned bytes)
{
    // Word by word, since a 16-bit stack may wrap between two of them.
    for (unsigned below = 2; below <= bytes; below += 2) {
        std::uint64_t linear = 0;
        FLOW_TRY(address((pointer_ - below) & size_mask(width_), 2, linear));
    }
    return Flow::next;
}

void StackCursor::commit() { set_stack_pointer(core_, pointer_, width_); }

}  // namespace doppel::engine::interpret::privileged
