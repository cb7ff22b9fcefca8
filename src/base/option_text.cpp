#include "base/option_text.h"

#include <algorithm>

namespace doppel::base {

std::string take_option_part(std::string_view& text)
{
    std::string part;
    while (!text.empty()) {
        if (text.front() == ',') {
            text.remove_prefix(1);
            if (!text.starts_with(',')) break;
        }
        part += text.front();
        text.remove_prefix(1);
    }
    return part;
}

KeyValue split_key(std::string_view part)
{
    const auto equals = std::min(part.find('='), part.size());
    return {std::string{part.substr(0, equals)},
            std::string{part.substr(std::min(equals + 1, part.size()))}};
}

Error bad_value(std::string_view key, std::string_view value, std::string_view wanted)
{
    return usage_error(std::string{key} + "=" + std::string{value} + ": expected " +
                       std::string{wanted});
}

Result<bool> on_or_off(std::string_view key, std::string_view value)
{
    if (value.empty() || value == "on") return true;
    if (value == "off") return false;
    return bad_value(key, value, "on or off");
}

}  // namespace doppel::base
