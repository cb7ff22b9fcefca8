// The worker's end of the mailbox: requests in, replies out.
#pragma once

#include <string_view>

#include "engine/translate/link/mailbox.h"

namespace doppel::engine::translate {

// What goes with a reply in words; cut off where the mailbox ends.
void set_text(Mailbox& mailbox, std::string_view text);

// Threads: the vCPU thread alone.
class VmmLink {
public:
    // spin_ticks: how long to look for the next request before sleeping, in host TSC ticks.
    VmmLink(Mailbox& mailbox, std::uint64_t spin_ticks) : mailbox_(mailbox), spin_ticks_(spin_ticks)
    {
    }

    // Waits for the next request.
    [[nodiscard]] Request next();
    // Answers it. The reply's other fields are in the mailbox already.
    void answer(Reply reply);
    void answer(Reply reply, std::string_view text);
    // In the middle of Request::run: has the VMM do something (acknowledge, end_of_interrupt).
    // Returns what it says.
    std::uint64_t ask(Reply what, std::uint64_t value);

private:
    Mailbox& mailbox_;
    std::uint64_t spin_ticks_;
    std::uint32_t turn_ = 0;
};

}  // namespace doppel::engine::translate
