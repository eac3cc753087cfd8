// Classes of ASCII characters, one byte at a time. Bytes of other characters are in none of them.
#pragma once

#include "absl/strings/ascii.h"

namespace chord::text {

inline bool IsBlank(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }
// The white space of JSON: no vertical tab, no form feed.
constexpr bool IsJsonBlank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
inline bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }
// A letter, a digit or "_".
inline bool IsWordByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
}

}  // namespace chord::text
