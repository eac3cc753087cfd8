#include "common/jinja/string_ops.h"

#include <utf8proc.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "common/text/unicode.h"

namespace chord::jinja {
namespace {

// Characters whose upper (title) case is several characters, as in Unicode's SpecialCasing.txt.
struct Special {
  int32_t code_point;
  absl::string_view upper, title;
};
constexpr Special kSpecial[] = {
    {0xDF, "SS", "Ss"},
    {0x149, "\u02BCN", "\u02BCN"},
    {0x1F0, "J\u030C", "J\u030C"},
    {0x587, "\u0535\u0552", "\u0535\u0582"},
    {0x1E96, "H\u0331", "H\u0331"},
    {0x1E97, "T\u0308", "T\u0308"},
    {0x1E98, "W\u030A", "W\u030A"},
    {0x1E99, "Y\u030A", "Y\u030A"},
    {0x1E9A, "A\u02BE", "A\u02BE"},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
};

bool IsCased(int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:
      return utf8proc_tolower(c) != c || utf8proc_toupper(c) != c;
  }
}

enum class To { kUpper, kTitle, kLower };

class CaseWriter {
 public:
  explicit CaseWriter(const Text& text) : text_(text) {}

  template <typename Choose>  // To choose(code_point)
  Text Run(Choose choose) {
    const absl::string_view bytes = text_.bytes();
    size_t at = 0;
    for (const Text::Run& run : text_.runs()) {
      while (at < run.end) {
        const text::Rune rune = text::FirstRune(bytes.substr(at));
        Write(rune.code_point, choose(rune.code_point), at, at + rune.bytes, run.origin);
        at += rune.bytes;
      }
    }
    out_.set_markup(text_.markup());
    return std::move(out_);
  }

 private:
  void Write(int32_t c, To to, size_t begin, size_t end, Origin origin) {
    if (to == To::kLower) {
      if (c == 0x130) return out_.Append("i\u0307", origin);
      if (c == 0x3A3) return Put(IsFinal(begin, end) ? 0x3C2 : 0x3C3, origin);
      return Put(utf8proc_tolower(c), origin);
    }
    for (const Special& special : kSpecial) {
      if (special.code_point != c) continue;
      return out_.Append(to == To::kUpper ? special.upper : special.title, origin);
    }
    Put(to == To::kUpper ? utf8proc_toupper(c) : utf8proc_totitle(c), origin);
  }
  void Put(int32_t c, Origin origin) {
    std::string bytes;
    text::AppendUtf8(c, &bytes);
    out_.Append(bytes, origin);
  }
  // A sigma at [begin, end) ends a word.
  bool IsFinal(size_t begin, size_t end) const {
    const absl::string_view bytes = text_.bytes();
    if (begin == 0) return false;
    size_t before = begin - 1;
    while (before > 0 && (static_cast<uint8_t>(bytes[before]) & 0xC0) == 0x80) --before;
    if (!IsCased(text::FirstRune(bytes.substr(before)).code_point)) return false;
    return end == bytes.size() || !IsCased(text::FirstRune(bytes.substr(end)).code_point);
  }

  const Text& text_;
  Text out_;
};

// Whether all cased characters are `wanted`, and there is one.
bool AllCased(const Text& text, utf8proc_category_t wanted) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const text::Rune rune = text::FirstRune(absl::string_view(text.bytes()).substr(at));
    at += rune.bytes;
    if (!IsCased(rune.code_point)) continue;
    const auto category = utf8proc_category(rune.code_point);
    if (category != wanted) return false;
    any = true;
  }
  return any;
}

bool IsLineEnd(int32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

Text ChangeCase(const Text& text, Case to) {
  bool inside = false;  // a word
  return CaseWriter(text).Run([&](int32_t c) {
    switch (to) {
      case Case::kUpper:
        return To::kUpper;
      case Case::kLower:
        return To::kLower;
      case Case::kCapitalize:
        return std::exchange(inside, true) ? To::kLower : To::kTitle;
      case Case::kPythonTitle: {
        const bool cased = IsCased(c);
        return std::exchange(inside, cased) ? To::kLower : To::kTitle;
      }
      case Case::kJinjaTitle:
        break;
    }
    const bool between = c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || IsSpace(c);
    return std::exchange(inside, !between) ? To::kLower : To::kUpper;
  });
}

bool IsLowerCase(const Text& text) { return AllCased(text, UTF8PROC_CATEGORY_LL); }
bool IsUpperCase(const Text& text) { return AllCased(text, UTF8PROC_CATEGORY_LU); }

Text Strip(const Text& text, const Text* chars, bool left, bool right) {
  absl::string_view rest = text.bytes();
  size_t begin = 0;
  const auto listed = [chars](absl::string_view character) {
    return absl::StrContains(chars->bytes(), character);
  };
  while (left && !rest.empty()) {
    const size_t size = CharacterBytes(rest[0]);
    const size_t n = chars == nullptr               ? LeadingSpace(rest)
                     : listed(rest.substr(0, size)) ? size
                                                    : 0;
    if (n == 0) break;
    rest.remove_prefix(n);
    begin += n;
  }
  while (right && !rest.empty()) {
    size_t last = rest.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(rest[last]) & 0xC0) == 0x80) --last;
    const size_t n = chars == nullptr            ? TrailingSpace(rest)
                     : listed(rest.substr(last)) ? rest.size() - last
                                                 : 0;
    if (n == 0) break;
    rest.remove_suffix(n);
  }
  return text.Sub(begin, begin + rest.size());
}

std::vector<Text> SplitAtSpace(const Text& text, int64_t limit) {
  std::vector<Text> out;
  const absl::string_view bytes = text.bytes();
  size_t at = 0;
  while (true) {
    for (size_t n; (n = LeadingSpace(bytes.substr(at))) > 0;) at += n;
    if (at == bytes.size()) return out;
    if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) break;
    size_t end = at;
    while (end < bytes.size() && LeadingSpace(bytes.substr(end)) == 0) end = Advance(bytes, end, 1);
    out.push_back(text.Sub(at, end));
    at = end;
  }
  out.push_back(Strip(text.Sub(at, text.size()), nullptr, false, true));
  return out;
}

std::vector<Text> SplitAt(const Text& text, absl::string_view separator, int64_t limit) {
  std::vector<Text> out;
  const absl::string_view bytes = text.bytes();
  size_t at = 0;
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t found = bytes.find(separator, at);
    if (found == bytes.npos) break;
    out.push_back(text.Sub(at, found));
    at = found + separator.size();
  }
  out.push_back(text.Sub(at, text.size()));
  return out;
}

std::vector<Text> SplitLines(const Text& text) {
  std::vector<Text> out;
  const absl::string_view bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const text::Rune rune = text::FirstRune(bytes.substr(at));
    const size_t end = at;
    at += rune.bytes;
    if (!IsLineEnd(rune.code_point)) continue;
    if (rune.code_point == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    out.push_back(text.Sub(begin, end));
    begin = at;
  }
  if (begin < bytes.size()) out.push_back(text.Sub(begin, bytes.size()));
  return out;
}

absl::StatusOr<Text> Replace(Runtime& runtime, const Text& text, const Text& from, const Text& to,
                             int64_t limit) {
  CHORD_RETURN_IF_ERROR(runtime.ChargeSearch(text, from));
  Text out;
  const absl::string_view bytes = text.bytes();
  size_t at = 0;
  for (int64_t n = 0; limit < 0 || n < limit; ++n) {
    const size_t found =
        from.empty() ? (n == 0 ? 0 : Advance(bytes, at, 1)) : bytes.find(from.bytes(), at);
    if (found == bytes.npos || (from.empty() && n > 0 && at == bytes.size())) break;
    out.Append(text, at, found);
    CHORD_RETURN_IF_ERROR(runtime.ChargeBytes(to.size()));
    out.Append(to);
    at = found + from.size();
  }
  out.Append(text, at, text.size());
  return out;
}

Text Reverse(const Text& text) {
  Text out;
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<uint8_t>(text.bytes()[begin]) & 0xC0) == 0x80) --begin;
    out.Append(text, begin, end);
    end = begin;
  }
  return out;
}

Text EscapeHtml(const Text& text) {
  if (text.markup()) return text;
  static constexpr absl::string_view kFrom = "&<>\"'";
  static constexpr absl::string_view kTo[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
  Text out;
  size_t at = 0;
  const absl::string_view bytes = text.bytes();
  for (size_t found; (found = bytes.find_first_of(kFrom, at)) != bytes.npos;) {
    out.Append(text, at, found);
    out.Append(kTo[kFrom.find(bytes[found])], text.OriginAt(found));
    at = found + 1;
  }
  out.Append(text, at, text.size());
  out.set_markup(true);
  return out;
}

}  // namespace chord::jinja
