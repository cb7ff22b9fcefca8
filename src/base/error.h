// Host-side failure: what went wrong, what to do, and which exit status it deserves.
// Guest faults are never errors; see x86/fault.h.
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace doppel::base {

enum class ErrorKind {
    usage,      // the user asked for something impossible: exit status 2
    host,       // the host lacks something: exit status 3
    io,         // a file or a peer failed: exit status 2 before the guest runs
    guest,      // the guest ended badly: exit status 4
};

class Error {
public:
    Error(ErrorKind kind, std::string text) : kind_(kind), text_(std::move(text)) {}

    // Puts what was being done in front of the text: "--kernel FILE: cannot open: ...".
    [[nodiscard]] Error with_context(std::string_view context) const
    {
        return Error{kind_, std::string{context} + ": " + text_};
    }

    [[nodiscard]] ErrorKind kind() const { return kind_; }
    [[nodiscard]] const std::string& text() const { return text_; }

private:
    ErrorKind kind_;
    std::string text_;
};

inline Error usage_error(std::string text) { return {ErrorKind::usage, std::move(text)}; }
inline Error host_error(std::string text) { return {ErrorKind::host, std::move(text)}; }
inline Error io_error(std::string text) { return {ErrorKind::io, std::move(text)}; }

// "cannot open /x: No such file or directory", from errno.
Error errno_error(ErrorKind kind, std::string_view what, int error_number);

}  // namespace doppel::base
