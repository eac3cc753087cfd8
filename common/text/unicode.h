// The little of Unicode that a byte-level tokenizer needs: well-formedness, NFC, three categories.
// NFC and categories answer as the reference tokenizer library does (normalisation data of Unicode
// 9, categories of Unicode 16), whatever version the system's utf8proc has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace chord::text {

// One step through UTF-8. Ill-formed input yields U+FFFD for each maximal subpart (WHATWG), so
// `bytes` is at least 1 whenever text was not empty.
struct Rune {
  int32_t code_point = 0;
  uint8_t bytes = 0;
  bool valid = false;
};
Rune FirstRune(absl::string_view text);

// Appends the UTF-8 form of a code point (not a surrogate, at most U+10FFFF).
void AppendUtf8(int32_t code_point, std::string* out);

// `text` with every maximal ill-formed subpart replaced by U+FFFD.
std::string ToValidUtf8(absl::string_view text);

// Length in bytes (0..3) of a suffix that is the beginning of a character still incomplete.
size_t IncompleteTail(absl::string_view text);

// Normalization form C in O(n log n), also on floods of combining marks. `text` is valid UTF-8.
std::string Nfc(absl::string_view text);

// The classes that the split pattern of spec §5.2 distinguishes.
enum class CharClass : uint8_t {
  kOther,
  kLetter,   // \p{L}
  kNumber,   // \p{N}
  kSpace,    // White_Space apart from CR and LF
  kNewline,  // CR, LF
};
CharClass ClassOf(int32_t code_point);

// \w of the reference's regular expressions: letters, marks, decimal digits, connectors and
// joiners.
bool IsWordCharacter(int32_t code_point);

}  // namespace chord::text
