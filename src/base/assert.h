// Always-on assertion: a failed one is a bug in doppel, never a guest's or user's doing.
#pragma once

namespace doppel::base {

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace doppel::base

#define ASSERT(condition)                                                             \
    (__builtin_expect(static_cast<bool>(condition), 1)                                \
         ? static_cast<void>(0)                                                       \
         : ::doppel::base::assertion_failed(#condition, __FILE__, __LINE__))
