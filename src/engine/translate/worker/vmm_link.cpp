#include "engine/translate/worker/vmm_link.h"

#include <unistd.h>
#include <x86intrin.h>

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
    const std::uint64_t start = __rdtsc();
    std::uint32_t turn = mailbox_.request_turn.load(std::memory_order_acquire);
    while (turn == turn_ && __rdtsc() - start < spin_ticks_) {
        _mm_pause();
        turn = mailbox_.request_turn.load(std::memory_order_acquire);
    }
    if (turn == turn_) {
        // The VMM writes the turn first and looks at the flag second.
        mailbox_.worker_waiting.store(1, std::memory_order_seq_cst);
        while ((turn = mailbox_.request_turn.load(std::memory_order_seq_cst)) == turn_) {
            futex_wait(mailbox_.request_turn, turn_, nullptr);
        }
        mailbox_.worker_waiting.store(0, std::memory_order_relaxed);
    }
    turn_ = turn;
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
