#include "common/grounding/json_objects.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "common/text/ascii.h"
#include "common/text/unicode.h"

namespace chord::grounding::internal {

using text::IsBlank;
using text::IsDigit;
using text::IsWordByte;

namespace {

constexpr size_t kMaxBoxNumbers = 4096;  // under one key
constexpr size_t kMaxDepth = 64;
// How far a label may reach beyond a quote that is not followed by what ends a value.
constexpr size_t kMaxStrayQuoteReach = 256;

// Four hex digits after "\u", or -1.
int32_t Hex4(absl::string_view s) {
  if (s.size() < 4) return -1;
  int32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    const char c = absl::ascii_tolower(static_cast<unsigned char>(s[i]));
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return -1;
    value = value << 4 | (IsDigit(c) ? c - '0' : c - 'a' + 10);
  }
  return value;
}

// The character of the escape "\u", whose digits begin at s[i]; a pair of surrogates is one
// character, a lone one U+FFFD. Moves `i` to the last byte it took. False: there are no four
// digits.
bool UnicodeEscape(absl::string_view s, size_t& i, std::string& out) {
  int32_t code = Hex4(s.substr(i));
  if (code < 0) return false;
  i += 3;
  if (code >= 0xD800 && code < 0xDC00 && absl::StartsWith(s.substr(i + 1), "\\u")) {
    const int32_t low = Hex4(s.substr(i + 3));
    if (low >= 0xDC00 && low < 0xE000) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      i += 6;
    }
  }
  if (code >= 0xD800 && code < 0xE000) code = 0xFFFD;
  text::AppendUtf8(code, &out);
  return true;
}

// JSON escapes -> text; an unknown escape stands for itself.
std::string Unescape(absl::string_view s) {
  static constexpr absl::string_view kLetters = "ntrbf";
  static constexpr absl::string_view kMeanings = "\n\t\r\b\f";
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\' || i + 1 == s.size()) {
      out.push_back(s[i]);
      continue;
    }
    const char c = s[++i];
    if (const size_t letter = kLetters.find(c); letter != kLetters.npos) {
      out.push_back(kMeanings[letter]);
      continue;
    }
    size_t digits = i + 1;
    if (c == 'u' && UnicodeEscape(s, digits, out)) {
      i = digits;
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

JsonObjects::Key JsonObjects::KindOfKey(absl::string_view key) {
  const std::string lower = absl::AsciiStrToLower(key);
  for (const absl::string_view k : {"bbox_2d", "bbox", "box_2d", "bbox2d", "box", "bounding_box",
                                    "bboxes", "boxes", "bbox_2ds"}) {
    if (lower == k) return Key::kBox;
  }
  for (const absl::string_view k : {"label", "name", "category", "class", "object"}) {
    if (lower == k) return Key::kLabel;
  }
  return Key::kOther;
}

size_t JsonObjects::Read(size_t begin) {
  at_ = begin;
  stack_.clear();
  numbers_in_ = kNone;
  emitted_until_ = begin;
  const Outcome outcome = ReadJson();
  if (outcome == Outcome::kDone) return at_;
  if (outcome == Outcome::kEnd && !stack_.empty()) {
    scan_->truncated = true;
    for (const Container& c : stack_) {
      if (c.object && scan_->cut == absl::string_view::npos) scan_->cut = c.begin;
    }
  }
  const size_t again = std::max(begin + 1, emitted_until_);
  const size_t cost = at_ - begin;
  if (cost <= fuel_) {
    fuel_ -= cost;
    at_ = again;
  }
  return at_;
}

JsonObjects::Outcome JsonObjects::ReadJson() {
  do {
    while (at_ < text_.size() && (IsBlank(text_[at_]) || text_[at_] == ',')) ++at_;
    if (at_ == text_.size()) return Outcome::kEnd;
    const char c = text_[at_];
    if (c == '}' || c == ']') {
      if (!Close(c == '}')) return Outcome::kFailed;
      continue;
    }
    if (!stack_.empty() && stack_.back().object && !stack_.back().wants_value) {
      const Outcome outcome = ReadKey();
      if (outcome != Outcome::kDone) return outcome;
      continue;
    }
    const Outcome outcome = ReadValue(c);
    if (outcome != Outcome::kDone) return outcome;
  } while (!stack_.empty());
  return Outcome::kDone;
}

JsonObjects::Outcome JsonObjects::ReadKey() {
  Container& object = stack_.back();
  absl::string_view key;
  const char c = text_[at_];
  if (c == '"' || c == '\'') {
    const size_t close = ClosingQuote(at_, /*is_value=*/false);
    if (close == absl::string_view::npos) {
      at_ = text_.size();
      return Outcome::kEnd;
    }
    key = text_.substr(at_ + 1, close - at_ - 1);
    at_ = close + 1;
  } else if (IsWordByte(c) && !IsDigit(c)) {
    const size_t begin = at_;
    while (at_ < text_.size() && IsWordByte(text_[at_])) ++at_;
    key = text_.substr(begin, at_ - begin);
  } else {
    return Outcome::kFailed;
  }
  while (at_ < text_.size() && IsBlank(text_[at_])) ++at_;
  if (at_ == text_.size()) return Outcome::kEnd;
  if (text_[at_] != ':') return Outcome::kFailed;
  ++at_;
  object.key = KindOfKey(key.substr(0, 32));
  object.wants_value = true;
  object.empty = false;
  return Outcome::kDone;
}

JsonObjects::Outcome JsonObjects::ReadValue(char c) {
  if (c == '{' || c == '[') {
    if (stack_.size() == kMaxDepth) return Outcome::kFailed;
    Open(c == '{');
    return Outcome::kDone;
  }
  if (stack_.empty()) return Outcome::kFailed;
  Number number;
  if (c == '"' || c == '\'') {
    const size_t close = ClosingQuote(at_, /*is_value=*/stack_.back().object);
    if (close == absl::string_view::npos) {
      at_ = text_.size();
      return Outcome::kEnd;
    }
    StringValue(at_ + 1, close);
    at_ = close + 1;
  } else if (ReadNumber(text_, at_, number)) {
    at_ = number.end;
    NumberValue(number);
  } else if (IsWordByte(c) || c == '-') {
    const Outcome outcome = ReadWord();
    if (outcome != Outcome::kDone) return outcome;
  } else {
    return Outcome::kFailed;
  }
  ValueDone();
  return Outcome::kDone;
}

// null, true, NaN and the like: a value, but no coordinate.
JsonObjects::Outcome JsonObjects::ReadWord() {
  static constexpr absl::string_view kWords[] = {"null", "none",     "true",      "false",
                                                 "nan",  "infinity", "-infinity", "-nan"};
  const size_t begin = at_++;
  while (at_ < text_.size() && IsWordByte(text_[at_])) ++at_;
  const std::string word =
      absl::AsciiStrToLower(text_.substr(begin, std::min<size_t>(at_ - begin, 16)));
  if (at_ == text_.size()) return Outcome::kEnd;
  if (std::find(std::begin(kWords), std::end(kWords), word) == std::end(kWords)) {
    return Outcome::kFailed;
  }
  Spoil();
  return Outcome::kDone;
}

// Index of the quote that ends the string which starts at `open`, npos when the text ends first.
// A value's quote that is not followed by what may follow a value (19" monitor, 'girl's hat')
// belongs to the text, unless no better one comes soon on the same line.
size_t JsonObjects::ClosingQuote(size_t open, bool is_value) const {
  const char quote = text_[open];
  size_t first = absl::string_view::npos;
  for (size_t i = open + 1; i < text_.size(); ++i) {
    if (text_[i] == '\\') {
      ++i;
      continue;
    }
    if (first != absl::string_view::npos && (text_[i] == '\n' || i - first > kMaxStrayQuoteReach)) {
      return first;
    }
    if (text_[i] != quote) continue;
    if (!is_value || EndsValue(i + 1)) return i;
    if (first == absl::string_view::npos) first = i;
  }
  return first;
}

bool JsonObjects::EndsValue(size_t i) const {
  const size_t limit = std::min(text_.size(), i + 64);
  while (i < limit && (text_[i] == ' ' || text_[i] == '\t')) ++i;
  return i >= text_.size() ||
         absl::string_view(",}]:\r\n`<\"").find(text_[i]) != absl::string_view::npos;
}

void JsonObjects::Open(bool object) {
  const bool in_box = InBox();
  Container c{};
  c.begin = at_++;
  c.object = object;
  c.outer_numbers_in = numbers_in_;
  if (!stack_.empty()) stack_.back().empty = false;
  if (in_box) {
    if (object) {
      Spoil();
    } else {
      Owner().groups.push_back(0);
      if (numbers_in_ == kNone) numbers_in_ = stack_.size() - 1;
    }
  }
  if (object) numbers_in_ = kNone;
  stack_.push_back(std::move(c));
}

// The object whose box key's value is being read, through any depth of lists.
bool JsonObjects::InBox() const {
  if (numbers_in_ != kNone) return true;
  return !stack_.empty() && stack_.back().object && stack_.back().wants_value &&
         stack_.back().key == Key::kBox;
}

void JsonObjects::Spoil() {
  if (InBox()) Owner().spoiled = true;
}

void JsonObjects::NumberValue(const Number& number) {
  if (InBox()) {
    Container& owner = Owner();
    if (owner.groups.empty() || owner.numbers.size() >= kMaxBoxNumbers) {
      owner.spoiled = true;
      return;
    }
    owner.numbers.push_back(number);
    ++owner.groups.back();
  } else if (stack_.back().object && stack_.back().key == Key::kLabel) {
    SetLabel(std::string(text_.substr(number.begin, number.end - number.begin)));
  }
}

void JsonObjects::StringValue(size_t begin, size_t end) {
  if (InBox()) {  // one number, or all of them: "12", "12, 34, 56, 78"
    Container& owner = Owner();
    if (owner.groups.empty()) owner.groups.push_back(0);
    for (size_t i = begin; i < end;) {
      Number number;
      if (ReadNumber(text_.substr(0, end), i, number)) {
        NumberValue(number);
        i = number.end;
      } else if (IsBetweenCoordinates(text_[i])) {
        ++i;
      } else {
        owner.spoiled = true;
        return;
      }
    }
  } else if (stack_.back().object && stack_.back().key == Key::kLabel) {
    SetLabel(Unescape(text_.substr(begin, end - begin)));
  }
}

void JsonObjects::SetLabel(absl::string_view label) {
  Container& object = stack_.back();
  if (object.has_label) return;
  object.has_label = true;
  // Models begin words with a blank, also the first one behind a quote.
  object.label = std::string(absl::StripAsciiWhitespace(label));
}

void JsonObjects::ValueDone() {
  Container& c = stack_.back();
  c.empty = false;
  if (c.object) c.wants_value = false;
}

// A bracket closes. One that closes the container around the innermost closes both: the model
// forgot one.
bool JsonObjects::Close(bool object) {
  if (stack_.empty()) return false;
  if (stack_.back().object != object) {
    if (stack_.size() < 2 || stack_[stack_.size() - 2].object != object) return false;
    Pop(at_);
  }
  ++at_;
  Pop(at_);
  return true;
}

void JsonObjects::Pop(size_t end) {
  Container done = std::move(stack_.back());
  stack_.pop_back();
  numbers_in_ = done.outer_numbers_in;
  if (done.object) {
    Emit(done, end);
  } else {
    if (done.empty) scan_->empty_list = true;
    // Numbers that come after an inner list are a group of their own.
    if (numbers_in_ != kNone) stack_[numbers_in_].groups.push_back(0);
  }
  if (!stack_.empty()) ValueDone();
}

// Four numbers are a box; so are two lists of two; several lists of four are several boxes.
void JsonObjects::Emit(Container& object, size_t end) {
  auto& sizes = object.groups;
  sizes.erase(std::remove(sizes.begin(), sizes.end(), size_t{0}), sizes.end());
  const auto& n = object.numbers;
  if (object.spoiled || n.empty()) return;
  const bool corners = sizes.size() == 2 && sizes[0] == 2 && sizes[1] == 2;
  if (!corners && !std::all_of(sizes.begin(), sizes.end(), [](size_t s) { return s == 4; })) {
    return;
  }
  for (size_t i = 0; i + 4 <= n.size(); i += 4) {
    Found found{{}, Form::kJson};
    found.object.box = {n[i].value, n[i + 1].value, n[i + 2].value, n[i + 3].value};
    found.object.label = object.label;
    found.object.begin = i == 0 ? object.begin : end;  // the first one stands for the whole
    found.object.end = end;
    found.object.coords_begin = n[i].begin;
    found.object.coords_end = n[i + 3].end;
    scan_->found.push_back(std::move(found));
  }
  emitted_until_ = end;
}

}  // namespace chord::grounding::internal
