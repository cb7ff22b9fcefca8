// Result<T>: a value or an Error. The subset of std::expected that doppel uses
// (libstdc++ 12 has the real one only in C++23 mode).
#pragma once

#include <optional>
#include <utility>
#include <variant>

#include "base/assert.h"
#include "base/error.h"

namespace doppel::base {

template <typename T>
class [[nodiscard]] Result {
public:
    using value_type = T;

    Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

    [[nodiscard]] bool has_value() const { return content_.index() == 0; }
    explicit operator bool() const { return has_value(); }

    T& value() &
    {
        ASSERT(has_value());
        return *std::get_if<0>(&content_);
    }
    const T& value() const&
    {
        ASSERT(has_value());
        return *std::get_if<0>(&content_);
    }
    T&& value() && { return std::move(value()); }

    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(value()); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }

    [[nodiscard]] const Error& error() const
    {
        ASSERT(!has_value());
        return *std::get_if<1>(&content_);
    }

private:
    std::variant<T, Error> content_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    using value_type = void;

    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    [[nodiscard]] bool has_value() const { return !error_.has_value(); }
    explicit operator bool() const { return has_value(); }
    void value() const { ASSERT(has_value()); }
    [[nodiscard]] const Error& error() const
    {
        ASSERT(!has_value());
        return *error_;
    }

private:
    std::optional<Error> error_;
};

}  // namespace doppel::base

// TRY(expr): the value of a Result, or return its error from this function.
// A statement expression: g++ and clang both have it, and no standard form exists.
#define TRY(...)                                                   \
    __extension__({                                                \
        auto try_result_ = (__VA_ARGS__);                          \
        if (!try_result_.has_value()) return try_result_.error();  \
        std::move(try_result_).value();                            \
    })
