#include "common/jinja/lexer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/jinja/text.h"
#include "common/text/ascii.h"
#include "common/text/unicode.h"

namespace chord::jinja {
namespace {

bool IsNameStart(char c) { return absl::ascii_isalpha(static_cast<uint8_t>(c)) || c == '_'; }
bool IsNameByte(char c) { return IsNameStart(c) || absl::ascii_isdigit(static_cast<uint8_t>(c)); }

// The two-character operators come before their beginnings.
constexpr absl::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

class Lexer {
 public:
  Lexer(absl::string_view source, size_t max_tokens) : source_(source), max_tokens_(max_tokens) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) CHORD_RETURN_IF_ERROR(DataThenTag());
    CHORD_RETURN_IF_ERROR(Add(Token::kEnd, at_, at_));
    return std::move(tokens_);
  }

 private:
  absl::Status Fail(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", what));
  }
  absl::string_view Rest() const { return source_.substr(at_); }

  absl::Status Add(Token::Kind kind, size_t begin, size_t end) {
    if (tokens_.size() >= max_tokens_) {
      return Fail(absl::StrCat("the template has more than ", max_tokens_, " tokens"));
    }
    tokens_.push_back({kind, line_, source_.substr(begin, end - begin)});
    return absl::OkStatus();
  }
  // Moves on to `end`; the only way in which the position changes.
  void MoveTo(size_t end) {
    line_ += static_cast<int32_t>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                             source_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    if (end > at_) line_starting_ = source_[end - 1] == '\n';
    at_ = end;
  }
  void SkipSpace() {
    size_t end = at_;
    for (size_t n; (n = LeadingSpace(source_.substr(end))) > 0;) end += n;
    MoveTo(end);
  }

  // Where literal text ends before a tag that opens with `sign` after its two characters.
  size_t Stripped(size_t begin, size_t end, char sign, bool is_variable) const {
    absl::string_view text = source_.substr(begin, end - begin);
    if (sign == '-') {
      for (size_t n; (n = TrailingSpace(text)) > 0;) text.remove_suffix(n);
      return begin + text.size();
    }
    if (sign == '+' || is_variable) return end;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == text.npos ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return end;
    for (absl::string_view blank = text.substr(line); !blank.empty();) {
      const size_t n = LeadingSpace(blank);
      if (n == 0) return end;
      blank.remove_prefix(n);
    }
    return begin + line;
  }

  absl::Status DataThenTag() {
    size_t open = at_;
    while ((open = source_.find('{', open)) != source_.npos) {
      const char next = open + 1 < source_.size() ? source_[open + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++open;
    }
    if (open == source_.npos) {
      CHORD_RETURN_IF_ERROR(Add(Token::kData, at_, source_.size()));
      MoveTo(source_.size());
      return absl::OkStatus();
    }
    const char kind = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    const size_t end = Stripped(at_, open, sign, kind == '{');
    if (end > at_) CHORD_RETURN_IF_ERROR(Add(Token::kData, at_, end));
    MoveTo(open + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    if (kind == '#') return Comment();
    if (kind == '%' && AtRaw()) return Raw();
    return Tag(kind == '{');
  }

  absl::Status Comment() {
    const size_t close = source_.find("#}", at_);
    if (close == source_.npos) return Fail("a comment does not end");
    // "{#-#}" ends with the sign that already opened it; there is nothing to trim then.
    const char sign = close > at_ ? source_[close - 1] : '\0';
    MoveTo(close + 2);
    AfterTag(sign);
    return absl::OkStatus();
  }

  // After a block or a comment: "-" takes all white space, "+" none, else one newline goes.
  void AfterTag(char sign) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && absl::StartsWith(Rest(), "\n")) {
      MoveTo(at_ + 1);
    }
  }

  // Whether what follows "{%" is "raw %}" or "raw -%}"; on the whole tag alone, in its length.
  size_t TagLength(absl::string_view rest, absl::string_view name, char* sign) const {
    const size_t all = rest.size();
    for (size_t n; (n = LeadingSpace(rest)) > 0;) rest.remove_prefix(n);
    if (!absl::ConsumePrefix(&rest, name)) return 0;
    for (size_t n; (n = LeadingSpace(rest)) > 0;) rest.remove_prefix(n);
    *sign = rest.empty() ? '\0' : rest[0];
    if (*sign == '-' || *sign == '+') rest.remove_prefix(1);
    return absl::ConsumePrefix(&rest, "%}") ? all - rest.size() : 0;
  }
  bool AtRaw() const {
    char sign = 0;
    return TagLength(Rest().substr(0, kMaxRawTag), "raw", &sign) > 0 && sign != '+';
  }

  absl::Status Raw() {
    char sign = 0;
    MoveTo(at_ + TagLength(Rest().substr(0, kMaxRawTag), "raw", &sign));
    if (sign == '-') SkipSpace();
    for (size_t open = at_; (open = source_.find("{%", open)) != source_.npos; ++open) {
      size_t inside = open + 2;
      const char opening = inside < source_.size() ? source_[inside] : '\0';
      if (opening == '-' || opening == '+') ++inside;
      const size_t length = TagLength(source_.substr(inside, kMaxRawTag), "endraw", &sign);
      if (length == 0) continue;
      const size_t end = Stripped(at_, open, opening, /*is_variable=*/false);
      if (end > at_) CHORD_RETURN_IF_ERROR(Add(Token::kData, at_, end));
      MoveTo(inside + length);
      AfterTag(sign);
      return absl::OkStatus();
    }
    return Fail("a raw block does not end");
  }

  absl::Status Tag(bool variable) {
    CHORD_RETURN_IF_ERROR(Add(variable ? Token::kVariableBegin : Token::kBlockBegin, at_, at_));
    const absl::string_view close = variable ? "}}" : "%}";
    std::string open;  // brackets
    while (true) {
      SkipSpace();
      if (at_ == source_.size()) return Fail("a tag does not end");
      if (open.empty()) {
        const absl::string_view rest = Rest();
        const bool signed_close = (rest[0] == '-' || (rest[0] == '+' && !variable)) &&
                                  absl::StartsWith(rest.substr(1), close);
        if (signed_close || absl::StartsWith(rest, close)) {
          CHORD_RETURN_IF_ERROR(Add(variable ? Token::kVariableEnd : Token::kBlockEnd, at_, at_));
          MoveTo(at_ + close.size() + (signed_close ? 1 : 0));
          if (!variable || signed_close) AfterTag(signed_close ? rest[0] : '\0');
          return absl::OkStatus();
        }
      }
      CHORD_RETURN_IF_ERROR(OneToken(open));
    }
  }

  absl::Status Take(Token::Kind kind, size_t length) {
    CHORD_RETURN_IF_ERROR(Add(kind, at_, at_ + length));
    MoveTo(at_ + length);
    return absl::OkStatus();
  }

  absl::Status OneToken(std::string& open) {
    const char c = source_[at_];
    if (IsNameStart(c)) {
      size_t n = 1;
      while (at_ + n < source_.size() && IsNameByte(source_[at_ + n])) ++n;
      return Take(Token::kName, n);
    }
    if (text::IsDigit(c)) return Number();
    if (c == '\'' || c == '"') {
      size_t end = at_ + 1;
      while (end < source_.size() && source_[end] != c) end += source_[end] == '\\' ? 2 : 1;
      if (end >= source_.size()) return Fail("a string does not end");
      return Take(Token::kString, end + 1 - at_);
    }
    for (const absl::string_view op : kOperators) {
      if (!absl::StartsWith(Rest(), op)) continue;
      if (op == "(" || op == "[" || op == "{") open.push_back(op[0]);
      if (op == ")" || op == "]" || op == "}") {
        const char opening = op == ")" ? '(' : op == "]" ? '[' : '{';
        if (open.empty() || open.back() != opening) {
          return Fail(absl::StrCat("unexpected \"", op, "\""));
        }
        open.pop_back();
      }
      return Take(Token::kOperator, op.size());
    }
    return Fail(absl::StrCat("unexpected character \"",
                             Rest().substr(0, text::FirstRune(Rest()).bytes), "\""));
  }

  size_t Digits(size_t at) const {  // digits with single underscores between them
    size_t end = at;
    while (end < source_.size() &&
           (text::IsDigit(source_[end]) ||
            (source_[end] == '_' && end > at && end + 1 < source_.size() &&
             text::IsDigit(source_[end - 1]) && text::IsDigit(source_[end + 1])))) {
      ++end;
    }
    return end;
  }
  absl::Status Number() {
    size_t end = Digits(at_);
    Token::Kind kind = Token::kInteger;
    // "messages.0.role" is an item of an item, not a fraction.
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (!after_dot && end + 1 < source_.size() && source_[end] == '.' &&
        text::IsDigit(source_[end + 1])) {
      end = Digits(end + 1);
      kind = Token::kFloat;
    }
    if (!after_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t digits = end + 1;
      if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-')) ++digits;
      if (digits < source_.size() && text::IsDigit(source_[digits])) {
        end = Digits(digits);
        kind = Token::kFloat;
      }
    }
    return Take(kind, end - at_);
  }

  static constexpr size_t kMaxRawTag = 256;  // white space inside "{% raw %}" included

  const absl::string_view source_;
  const size_t max_tokens_;
  size_t at_ = 0;
  int32_t line_ = 1;
  bool line_starting_ = true;  // the last thing before `at_` ended with a newline
  std::vector<Token> tokens_;
};

// Appends the character of `count` hexadecimal digits; false when they name none.
bool AppendCharacter(absl::string_view digits, size_t count, std::string& out) {
  uint32_t code = 0;
  if (digits.size() < count ||
      !std::all_of(digits.begin(), digits.begin() + static_cast<ptrdiff_t>(count),
                   [](char c) { return absl::ascii_isxdigit(static_cast<uint8_t>(c)); }) ||
      !absl::SimpleHexAtoi(digits.substr(0, count), &code)) {
    return false;
  }
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
  text::AppendUtf8(static_cast<int32_t>(code), &out);
  return true;
}

// One escape, `rest` begins behind the backslash. Returns how many bytes it took, or 0.
size_t Escape(absl::string_view rest, std::string& out) {
  static constexpr absl::string_view kLetters = "abfnrtv\\'\"";
  static constexpr absl::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  const char c = rest[0];
  if (const size_t letter = kLetters.find(c); letter != kLetters.npos) {
    out.push_back(kMeanings[letter]);
    return 1;
  }
  if (c == '\n') return 1;  // a line continued
  if (c == 'x' || c == 'u' || c == 'U') {
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    return AppendCharacter(rest.substr(1), digits, out) ? 1 + digits : 0;
  }
  if (c >= '0' && c <= '7') {
    size_t n = 0;
    int32_t code = 0;
    while (n < 3 && n < rest.size() && rest[n] >= '0' && rest[n] <= '7') {
      code = code * 8 + (rest[n++] - '0');
    }
    text::AppendUtf8(code, &out);
    return n;
  }
  if (c == 'N') return 0;  // names of characters
  out.push_back('\\');     // an escape that is none stands for itself
  if (static_cast<int8_t>(c) >= 0) {
    out.push_back(c);
    return 1;
  }
  // Jinja writes other characters as escapes before it reads them, so this one is read in part.
  const text::Rune rune = text::FirstRune(rest);
  const auto code = static_cast<uint32_t>(rune.code_point);
  const absl::string_view kind = code < 0x100 ? "x" : code < 0x10000 ? "u" : "U";
  absl::StrAppend(&out, kind,
                  absl::Hex(code, code < 0x100     ? absl::kZeroPad2
                                  : code < 0x10000 ? absl::kZeroPad4
                                                   : absl::kZeroPad8));
  return rune.bytes;
}

}  // namespace

std::string NormalizeSource(absl::string_view source) {
  std::string out = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source, size_t max_tokens) {
  return Lexer(source, max_tokens).Run();
}

absl::StatusOr<std::string> StringValue(const Token& token) {
  const absl::string_view inner = token.text.substr(1, token.text.size() - 2);
  std::string out;
  out.reserve(inner.size());
  for (size_t i = 0; i < inner.size();) {
    if (inner[i] != '\\') {
      out.push_back(inner[i++]);
      continue;
    }
    const size_t taken = i + 1 < inner.size() ? Escape(inner.substr(i + 1), out) : 0;
    if (taken == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", token.line, ": a string has an escape that names no character"));
    }
    i += 1 + taken;
  }
  return out;
}

}  // namespace chord::jinja
