#include "common/jinja/text.h"

#include <algorithm>
#include <utility>

#include "common/text/unicode.h"

namespace chord::jinja {
namespace {

bool IsAscii(absl::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](char c) { return static_cast<int8_t>(c) >= 0; });
}

}  // namespace

Text::Text(std::string bytes, Origin origin) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) runs_.push_back({bytes_.size(), origin});
  ascii_ = IsAscii(bytes_);
}

void Text::Append(absl::string_view bytes, Origin origin) {
  if (bytes.empty()) return;
  bytes_.append(bytes.data(), bytes.size());
  ascii_ = ascii_ && IsAscii(bytes);
  if (runs_.empty() || runs_.back().origin != origin) runs_.push_back({0, origin});
  runs_.back().end = bytes_.size();
}

void Text::Append(const Text& other, size_t begin, size_t end) {
  const absl::string_view bytes = other.bytes_;
  for (size_t run = other.RunAt(begin); begin < end; ++run) {
    const size_t stop = std::min(end, other.runs_[run].end);
    Append(bytes.substr(begin, stop - begin), other.runs_[run].origin);
    begin = stop;
  }
}

Text Text::Sub(size_t begin, size_t end) const {
  Text out;
  out.Append(*this, begin, end);
  out.markup_ = markup_;
  return out;
}

Origin Text::OriginAt(size_t byte) const {
  return byte < size() ? runs_[RunAt(byte)].origin : Origin::kTemplate;
}

size_t Text::RunAt(size_t byte) const {
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), byte,
                                    [](size_t b, const Run& r) { return b < r.end; });
  return static_cast<size_t>(run - runs_.begin());
}

bool IsSpace(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t LeadingSpace(absl::string_view text) {
  if (text.empty()) return 0;
  const text::Rune rune = text::FirstRune(text);
  return IsSpace(rune.code_point) ? rune.bytes : 0;
}

size_t TrailingSpace(absl::string_view text) {
  if (text.empty()) return 0;
  size_t at = text.size() - 1;
  while (at > 0 && text.size() - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  const text::Rune rune = text::FirstRune(text.substr(at));
  return IsSpace(rune.code_point) && at + rune.bytes == text.size() ? rune.bytes : 0;
}

size_t CharacterBytes(char lead) {
  const auto c = static_cast<uint8_t>(lead);
  return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

size_t Advance(absl::string_view text, size_t at, size_t count) {
  while (count > 0 && at < text.size()) {
    at += CharacterBytes(text[at]);
    --count;
  }
  return std::min(at, text.size());
}

size_t CountCharacters(absl::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

}  // namespace chord::jinja
