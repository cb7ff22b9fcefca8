// Sleeping until another process writes a word, or ends.
#pragma once

#include <atomic>
#include <cstdint>

namespace doppel::engine::translate {

// Sleeps until the word, in shared memory, is woken while it is `value`, or until *attention is
// woken while it is 0 (nullptr: not watched), a signal, or 50 ms. May return early. False: the
// time is over, so look whether the other side still lives.
bool wait_on_word(const std::uint32_t& word, std::uint32_t value,
                  const std::atomic<std::uint32_t>* attention);
void wake_word(std::uint32_t& word);

bool process_ended(int pidfd);

// How many looks with a PAUSE between them take so many nanoseconds; 0 when this process may
// use one processor only, where looking cannot make anything happen.
std::uint32_t looks_in(std::uint64_t ns);

}  // namespace doppel::engine::translate
