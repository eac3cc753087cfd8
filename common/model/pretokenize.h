// The split of spec §5.2 as a hand-written scanner, without a regex engine:
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*
//   |\s*[\r\n]+|\s+(?!\S)|\s+
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace chord::model {

// Pieces of `text` (valid UTF-8, already in NFC), in order and without gaps. Views into `text`.
// Linear in the length of `text`, whatever it contains.
std::vector<absl::string_view> SplitIntoPieces(absl::string_view text);

// True when `regex` is that expression in one of the spellings known to be equivalent.
bool IsKnownSplitRegex(absl::string_view regex);

}  // namespace chord::model
