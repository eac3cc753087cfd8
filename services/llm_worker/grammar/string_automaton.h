// The inside of a JSON string as two automata over bytes: UTF-8 and escapes.
#pragma once

#include <cstdint>

namespace chord::grammar {

inline constexpr uint8_t kBetween = 0;      // between two characters, or outside an escape
inline constexpr uint8_t kEscapeBegun = 1;  // after a backslash

// The state after the first byte of a character that is not ASCII; kBetween: no character begins
// so.
uint8_t AfterUtf8Lead(uint8_t byte);
// Moves on by a byte of the same character, to kBetween at its end; false where it may not follow.
bool StepUtf8(uint8_t& state, uint8_t byte);
// Moves on by a byte after the backslash, to kBetween at the end of the escape; false where it may
// not follow. Surrogates come only in pairs.
bool StepEscape(uint8_t& state, uint8_t byte);

}  // namespace chord::grammar
