// Options that carry others: "FILE,key=value,key", as --disk and --net take them.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace doppel::base {

// Takes the part up to the first comma off the text. A doubled comma stands for one in the part.
std::string take_option_part(std::string_view& text);

struct KeyValue {
    std::string key;
    std::string value;  // without '=': empty
};
KeyValue split_key(std::string_view part);

// "key=value: expected ...".
Error bad_value(std::string_view key, std::string_view value, std::string_view wanted);
// The key alone means on.
Result<bool> on_or_off(std::string_view key, std::string_view value);

}  // namespace doppel::base
