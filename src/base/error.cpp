#include "base/error.h"

#include <system_error>

namespace doppel::base {

Error errno_error(ErrorKind kind, std::string_view what, int error_number)
{
    return {kind, std::string{what} + ": " + std::generic_category().message(error_number)};
}

}  // namespace doppel::base
