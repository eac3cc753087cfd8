#include "common/text/utf8.h"

#include "common/text/unicode.h"

namespace chord::text {

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const Rune rune = FirstRune(text);
    if (!rune.valid) return false;
    text.remove_prefix(rune.bytes);
  }
  return true;
}

absl::string_view CutUtf8(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  text = text.substr(0, max_bytes);
  return text.substr(0, text.size() - IncompleteTail(text));
}

}  // namespace chord::text
