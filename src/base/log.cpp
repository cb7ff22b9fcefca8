#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace doppel::base {

void set_up_logging(const char* level)
{
    auto logger = std::make_shared<spdlog::logger>(
        "doppel", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_pattern("doppel: %v");
    logger->set_level(spdlog::level::from_str(level));
    spdlog::set_default_logger(std::move(logger));
}

}  // namespace doppel::base
