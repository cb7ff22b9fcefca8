// Sleeping until another process writes a word, or ends.
#pragma once

#include <atomic>
#include <cstdint>

#include "engine/translate/link/spin_budget.h"

namespace doppel::engine::translate
{

// Sleeps until the word, in shared memory, is woken while it is `value`, or until *attention is
// woken while it is 0 (nullptr: not watched), a signal, or 50 ms. May return early. False: the
// time is over, so look whether the other side still lives.
bool wait_on_word(const std::uint32_t& word, std::uint32_t value,
                  const std::atomic<std::uint32_t>* attention);
void wake_word(std::uint32_t& word);

bool process_ended(int pidfd);

}  // namespace doppel::engine::translate
