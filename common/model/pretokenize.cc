#include "common/model/pretokenize.h"

#include "absl/strings/str_cat.h"
#include "common/text/unicode.h"

namespace chord::model {
namespace {

struct Char {
  size_t begin;  // byte offset
  int32_t code_point;
  text::CharClass kind;
};

bool EqualsIgnoringCase(int32_t code_point, char lower) {
  if (code_point == lower || code_point == lower - 'a' + 'A') return true;
  return lower == 's' && code_point == 0x17F;  // ſ folds to s
}

class Scanner {
 public:
  explicit Scanner(absl::string_view text) {
    chars_.reserve(text.size() + 1);
    for (size_t at = 0; at < text.size();) {
      const text::Rune rune = text::FirstRune(text.substr(at));
      chars_.push_back({at, rune.code_point, text::ClassOf(rune.code_point)});
      at += rune.bytes;
    }
    size_ = chars_.size();
    chars_.push_back({text.size(), 0, text::CharClass::kOther});
  }

  size_t size() const { return size_; }
  size_t Offset(size_t i) const { return chars_[i].begin; }

  // End of the piece that starts at `i`: the first alternative that matches wins.
  size_t PieceEnd(size_t i) {
    if (const size_t end = Contraction(i); end != 0) return end;
    switch (KindAt(i)) {
      case text::CharClass::kLetter:
        return Skip(i, text::CharClass::kLetter);
      case text::CharClass::kNumber:
        return i + 1;
      case text::CharClass::kOther:
        if (Is(i + 1, text::CharClass::kLetter)) return Skip(i + 1, text::CharClass::kLetter);
        return Skip(Skip(i, text::CharClass::kOther), text::CharClass::kNewline);
      case text::CharClass::kSpace:
        if (Is(i + 1, text::CharClass::kLetter)) return Skip(i + 1, text::CharClass::kLetter);
        if (chars_[i].code_point == ' ' && Is(i + 1, text::CharClass::kOther)) {
          return Skip(Skip(i + 1, text::CharClass::kOther), text::CharClass::kNewline);
        }
        return Blank(i);
      case text::CharClass::kNewline:
        return Blank(i);
    }
    return i + 1;
  }

 private:
  text::CharClass KindAt(size_t i) const { return chars_[i].kind; }
  bool Is(size_t i, text::CharClass kind) const { return i < size_ && chars_[i].kind == kind; }
  bool Letter(size_t i, char lower) const {
    return i < size_ && EqualsIgnoringCase(chars_[i].code_point, lower);
  }
  size_t Skip(size_t i, text::CharClass kind) const {
    while (Is(i, kind)) ++i;
    return i;
  }

  size_t Contraction(size_t i) const {
    if (chars_[i].code_point != '\'') return 0;
    for (const char c : {'s', 't', 'm', 'd'}) {
      if (Letter(i + 1, c)) return i + 2;
    }
    for (const absl::string_view pair : {"re", "ve", "ll"}) {
      if (Letter(i + 1, pair[0]) && Letter(i + 2, pair[1])) return i + 3;
    }
    return 0;
  }

  // A run of white space, alternatives 5 to 7.
  size_t Blank(size_t i) const {
    size_t end = i, after_newline = 0;
    for (; Is(end, text::CharClass::kSpace) || Is(end, text::CharClass::kNewline); ++end) {
      if (KindAt(end) == text::CharClass::kNewline) after_newline = end + 1;
    }
    if (after_newline != 0) return after_newline;
    if (end == size_ || end == i + 1) return end;
    return end - 1;
  }

  std::vector<Char> chars_;  // and one sentinel
  size_t size_ = 0;
};

}  // namespace

std::vector<absl::string_view> SplitIntoPieces(absl::string_view text) {
  Scanner scanner(text);
  std::vector<absl::string_view> pieces;
  for (size_t i = 0; i < scanner.size();) {
    const size_t end = scanner.PieceEnd(i);
    pieces.push_back(text.substr(scanner.Offset(i), scanner.Offset(end) - scanner.Offset(i)));
    i = end;
  }
  return pieces;
}

bool IsKnownSplitRegex(absl::string_view regex) {
  static constexpr absl::string_view kContractions[] = {
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
      "(?i:'s|'t|'re|'ve|'m|'d|'ll)",
      "'(?i:[sdmt]|ll|ve|re)",
      "(?i:'[sdmt]|'ll|'ve|'re)",
      "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
  };
  static constexpr absl::string_view kNewlines[] = {R"(\s*[\r\n]+)", R"(\s*[\r\n])"};
  for (const auto& head : kContractions) {
    for (const auto& newlines : kNewlines) {
      if (regex == absl::StrCat(head,
                                R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)",
                                newlines, R"(|\s+(?!\S)|\s+)")) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace chord::model
