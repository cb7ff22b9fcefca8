// The worker's end of the mailbox, with the VMM's end as link/mailbox.h has it on another thread.
#include "engine/translate/worker/vmm_link.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "engine/translate/link/futex.h"

namespace doppel::engine::translate {
namespace {

constexpr std::uint64_t turns = 5000;

class VmmLinkTest : public testing::TestWithParam<std::uint32_t> {
protected:
    void send(Request request, std::uint64_t value)
    {
        mailbox_->request = static_cast<std::uint32_t>(request);
        mailbox_->value = value;
        mailbox_->request_turn.store(++turn_, std::memory_order_seq_cst);
        if (mailbox_->worker_waiting.load(std::memory_order_seq_cst) != 0) {
            futex_wake(mailbox_->request_turn);
        }
    }
    Reply await()
    {
        mailbox_->vmm_waiting.store(1, std::memory_order_seq_cst);
        std::uint32_t seen = 0;
        while ((seen = mailbox_->reply_turn.load(std::memory_order_seq_cst)) != turn_) {
            futex_wait(mailbox_->reply_turn, seen, nullptr);
        }
        mailbox_->vmm_waiting.store(0, std::memory_order_relaxed);
        return static_cast<Reply>(mailbox_->reply);
    }
    // What a worker does: each request's value comes back plus one. A run asks the VMM for a value
    // in the middle and adds it.
    void serve()
    {
        VmmLink link{*mailbox_, GetParam()};
        for (;;) {
            const Request request = link.next();
            std::uint64_t value = mailbox_->value;
            if (request == Request::exit) return link.answer(Reply::done, "end");
            if (request == Request::run) value += link.ask(Reply::acknowledge, value);
            mailbox_->reply_value = value + 1;
            link.answer(Reply::done);
        }
    }

    std::unique_ptr<Mailbox> mailbox_ = std::make_unique<Mailbox>();
    std::uint32_t turn_ = 0;
};

TEST_P(VmmLinkTest, EachRequestHasItsOwnReply)
{
    std::thread worker{[this] { serve(); }};
    std::uint64_t wrong = 0;
    for (std::uint64_t i = 0; i < turns; ++i) {
        if (i % 3 == 0) {
            send(Request::run, i);
            if (await() != Reply::acknowledge || mailbox_->reply_value != i) ++wrong;
            send(Request::source_answer, 1000);
            if (await() != Reply::done || mailbox_->reply_value != i + 1001) ++wrong;
        } else {
            send(Request::complete_read, i);
            if (await() != Reply::done || mailbox_->reply_value != i + 1) ++wrong;
        }
    }
    send(Request::exit, 0);
    EXPECT_EQ(await(), Reply::done);
    worker.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_STREQ(mailbox_->text, "end");
}

// Asleep at once, and looking first.
INSTANTIATE_TEST_SUITE_P(Looks, VmmLinkTest, testing::Values(0u, 2000u));

}  // namespace
}  // namespace doppel::engine::translate
