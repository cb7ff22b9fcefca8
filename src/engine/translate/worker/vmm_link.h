// The worker's end of the mailbox: requests in, replies out.
#pragma once

#include <string_view>

#include "engine/translate/link/mailbox.h"
#include "engine/translate/link/spin_budget.h"

namespace doppel::engine::translate {

// What goes with a reply in words; cut off where the mailbox ends.
void set_text(Mailbox& mailbox, std::string_view text);

// Threads: the vCPU thread alone.
class VmmLink {
public:
    // looks: for the next request, at most, before sleeping: looks_in().
    VmmLink(Mailbox& mailbox, std::uint32_t looks) : mailbox_(mailbox), looks_(looks), budget_(looks)
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
    std::uint32_t looks_;
    SpinBudget budget_;
    std::uint32_t turn_ = 0;
};

}  // namespace doppel::engine::translate
