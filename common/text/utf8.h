// UTF-8: the one check of well-formedness, and cuts that leave characters whole.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace chord::text {

// Well-formed UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF.
bool IsUtf8(absl::string_view text);

// The longest prefix of at most `max_bytes` bytes that does not end inside a character.
absl::string_view CutUtf8(absl::string_view text, size_t max_bytes);

}  // namespace chord::text
