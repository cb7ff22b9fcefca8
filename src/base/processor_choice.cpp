#include "base/processor_choice.h"

namespace doppel::base {

void ProcessorChoice::choose(Rule rule, std::uint32_t processor) noexcept
{
    if (processor == chosen_ || processor > CPU_SETSIZE) return;
    cpu_set_t now;
    if (::sched_getaffinity(0, sizeof now, &now) != 0) return;
    if (chosen_ == 0 || !CPU_EQUAL(&now, &made_)) allowed_ = now;
    cpu_set_t wanted = allowed_;
    if (processor != 0 && rule == Rule::only) {
        CPU_ZERO(&wanted);
        CPU_SET(processor - 1, &wanted);
    } else if (processor != 0) {
        CPU_CLR(processor - 1, &wanted);
    }
    // An empty set is refused.
    if (::sched_setaffinity(0, sizeof wanted, &wanted) != 0) return;
    chosen_ = processor;
    made_ = wanted;
}

}  // namespace doppel::base
