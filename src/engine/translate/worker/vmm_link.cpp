#include "engine/translate/worker/vmm_link.h"

#include <unistd.h>

#include <algorithm>

#include "base/assert.h"
#include "engine/translate/link/futex.h"

namespace doppel::engine::translate {

void set_text(Mailbox& mailbox, std::string_view text)
{
    const std::size_t size = std::min(text.size(), sizeof mailbox.text - 1);
    std::copy_n(text.data(), size, mailbox.text);
    mailbox.text[size] = '\0';
}

Request VmmLink::next()
{
    std::uint32_t turn = turn_;
    const bool asked = look_for(budget_, looks_, mailbox_.vmm_processor, [&] {
        turn = mailbox_.request_turn.load(std::memory_order_acquire);
        return turn != turn_;
    });
    if (!asked) {
        // The VMM writes the turn first and looks at the flag second.
        mailbox_.worker_waiting.store(1, std::memory_order_seq_cst);
        while ((turn = mailbox_.request_turn.load(std::memory_order_seq_cst)) == turn_) {
            futex_wait(mailbox_.request_turn, turn_, nullptr);
        }
        mailbox_.worker_waiting.store(0, std::memory_order_relaxed);
    }
    turn_ = turn;
    mailbox_.worker_processor.store(this_processor(), std::memory_order_relaxed);
    return static_cast<Request>(mailbox_.request);
}

void VmmLink::answer(Reply reply)
{
    mailbox_.reply = static_cast<std::uint32_t>(reply);
    mailbox_.reply_turn.store(turn_, std::memory_order_seq_cst);
    if (mailbox_.vmm_waiting.load(std::memory_order_seq_cst) != 0) futex_wake(mailbox_.reply_turn);
}

void VmmLink::answer(Reply reply, std::string_view text)
{
    set_text(mailbox_, text);
    answer(reply);
}

std::uint64_t VmmLink::ask(Reply what, std::uint64_t value)
{
    mailbox_.reply_value = value;
    answer(what);
    const Request request = next();
    if (request == Request::exit) ::_exit(0);
    ASSERT(request == Request::source_answer);
    return mailbox_.value;
}

}  // namespace doppel::engine::translate
