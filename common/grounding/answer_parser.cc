#include "common/grounding/answer_parser.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace chord::grounding {
namespace {

constexpr size_t kMaxNumberBytes = 64;
constexpr size_t kMaxBoxNumbers = 4096;  // under one key
constexpr size_t kMaxDepth = 64;
// How far a label may reach beyond a quote that is not followed by what ends a value.
constexpr size_t kMaxStrayQuoteReach = 256;

bool IsBlank(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }
bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }
bool IsWord(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

struct Number {
  double value = 0;
  size_t begin = 0, end = 0;
};

// The number that starts at text[at], finite, followed by no letter. False when there is none.
bool ReadNumber(absl::string_view text, size_t at, Number& out) {
  size_t end = at;
  if (end < text.size() && (text[end] == '-' || text[end] == '+')) ++end;
  const size_t digits = end;
  text = text.substr(0, std::min(text.size(), at + kMaxNumberBytes + 1));
  while (end < text.size() && (IsDigit(text[end]) || text[end] == '.')) ++end;
  if (end == digits) return false;
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    size_t exponent = end + 1;
    if (exponent < text.size() && (text[exponent] == '-' || text[exponent] == '+')) ++exponent;
    if (exponent < text.size() && IsDigit(text[exponent])) {
      end = exponent;
      while (end < text.size() && IsDigit(text[end])) ++end;
    }
  }
  if (end - at > kMaxNumberBytes || (end < text.size() && IsWord(text[end]))) return false;
  absl::string_view token = text.substr(at, end - at);
  absl::ConsumePrefix(&token, "+");
  out = {0, at, end};
  return absl::SimpleAtod(token, &out.value) && std::isfinite(out.value);
}

void AppendUtf8(uint32_t c, std::string& out) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.append({static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))});
  } else if (c < 0x10000) {
    out.append({static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                static_cast<char>(0x80 | (c & 0x3F))});
  } else {
    out.append({static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
                static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))});
  }
}

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

// JSON escapes -> text; a lone surrogate becomes U+FFFD, an unknown escape stands for itself.
std::string Unescape(absl::string_view s) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '\\' || i + 1 == s.size()) {
      out.push_back(s[i]);
      continue;
    }
    switch (const char c = s[++i]; c) {
      case 'n':
        out.push_back('\n');
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'r':
        out.push_back('\r');
        break;
      case 'b':
        out.push_back('\b');
        break;
      case 'f':
        out.push_back('\f');
        break;
      case 'u': {
        int32_t code = Hex4(s.substr(i + 1));
        if (code < 0) {
          out.push_back(c);
          break;
        }
        i += 4;
        if (code >= 0xD800 && code < 0xDC00 && absl::StartsWith(s.substr(i + 1), "\\u")) {
          const int32_t low = Hex4(s.substr(i + 3));
          if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            i += 6;
          }
        }
        if (code >= 0xD800 && code < 0xE000) code = 0xFFFD;
        AppendUtf8(static_cast<uint32_t>(code), out);
        break;
      }
      default:
        out.push_back(c);
    }
  }
  return out;
}

enum class Key { kOther, kBox, kLabel };

Key KindOfKey(absl::string_view key) {
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

enum class Form { kJson, kTag };
struct Found {
  RawObject object;
  Form form;
};

// Everything that a text says, duplicates included.
struct Scan {
  std::vector<Found> found;  // by begin
  bool empty_list = false;
  bool truncated = false;
  size_t cut = absl::string_view::npos;  // where the object begins that the text's end cuts
};

// One pass over the text. Prose is skipped character by character; a bracket starts an attempt to
// read JSON, which ends at its closing bracket, at something that is no JSON, or at the end of the
// text. A failed attempt is given up for the next character, as long as there is fuel for reading
// again what it has read; so the work is linear in the length of the text.
class Scanner {
 public:
  explicit Scanner(absl::string_view text) : text_(text), fuel_(8 * text.size() + 65536) {}

  Scan Run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '{' || c == '[') {
        Attempt();
      } else if (c == '<') {
        Tag();
      } else {
        ++at_;
      }
    }
    if (in_ref_) {
      scan_.truncated = true;
      scan_.cut = std::min(scan_.cut, ref_begin_);
    }
    std::stable_sort(scan_.found.begin(), scan_.found.end(), [](const Found& a, const Found& b) {
      return a.object.begin < b.object.begin;
    });
    return std::move(scan_);
  }

 private:
  static constexpr size_t kNone = absl::string_view::npos;

  // --- JSON
  // ---------------------------------------------------------------------------------------
  struct Container {
    size_t begin;
    bool object;
    bool empty = true;
    // Of objects only:
    bool wants_value = false;  // after "key:"
    Key key = Key::kOther;     // of the value that comes
    bool has_label = false;
    std::string label;
    std::vector<Number> numbers;      // under a box key
    std::vector<size_t> groups;       // sizes of the lists of numbers, in order
    bool spoiled = false;             // the box key held something that is no coordinate
    size_t outer_numbers_in = kNone;  // to restore when this one closes
  };
  enum class Outcome { kDone, kFailed, kEnd };

  void Attempt() {
    const size_t begin = at_;
    stack_.clear();
    numbers_in_ = kNone;
    emitted_until_ = begin;
    const Outcome outcome = ReadJson();
    if (outcome == Outcome::kDone) return;
    if (outcome == Outcome::kEnd && !stack_.empty()) {
      scan_.truncated = true;
      for (const Container& c : stack_) {
        if (c.object && scan_.cut == absl::string_view::npos) scan_.cut = c.begin;
      }
    }
    const size_t again = std::max(begin + 1, emitted_until_);
    const size_t cost = at_ - begin;
    if (cost <= fuel_) {
      fuel_ -= cost;
      at_ = again;
    }
  }

  Outcome ReadJson() {
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

  Outcome ReadKey() {
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
    } else if (IsWord(c) && !IsDigit(c)) {
      const size_t begin = at_;
      while (at_ < text_.size() && IsWord(text_[at_])) ++at_;
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

  Outcome ReadValue(char c) {
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
    } else if (IsWord(c) || c == '-') {
      const size_t begin = at_++;
      while (at_ < text_.size() && IsWord(text_[at_])) ++at_;
      const std::string word =
          absl::AsciiStrToLower(text_.substr(begin, std::min<size_t>(at_ - begin, 16)));
      if (at_ == text_.size()) return Outcome::kEnd;
      if (word != "null" && word != "none" && word != "true" && word != "false" && word != "nan" &&
          word != "infinity" && word != "-infinity" && word != "-nan") {
        return Outcome::kFailed;
      }
      Spoil();
    } else {
      return Outcome::kFailed;
    }
    ValueDone();
    return Outcome::kDone;
  }

  // Index of the quote that ends the string which starts at `open`, npos when the text ends first.
  // A value's quote that is not followed by what may follow a value (19" monitor, 'girl's hat')
  // belongs to the text, unless no better one comes soon on the same line.
  size_t ClosingQuote(size_t open, bool is_value) const {
    const char quote = text_[open];
    size_t first = absl::string_view::npos;
    for (size_t i = open + 1; i < text_.size(); ++i) {
      if (text_[i] == '\\') {
        ++i;
        continue;
      }
      if (first != absl::string_view::npos &&
          (text_[i] == '\n' || i - first > kMaxStrayQuoteReach)) {
        return first;
      }
      if (text_[i] != quote) continue;
      if (!is_value || EndsValue(i + 1)) return i;
      if (first == absl::string_view::npos) first = i;
    }
    return first;
  }
  bool EndsValue(size_t i) const {
    const size_t limit = std::min(text_.size(), i + 64);
    while (i < limit && (text_[i] == ' ' || text_[i] == '\t')) ++i;
    return i >= text_.size() ||
           absl::string_view(",}]:\r\n`<\"").find(text_[i]) != absl::string_view::npos;
  }

  void Open(bool object) {
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
  bool InBox() const {
    if (numbers_in_ != kNone) return true;
    return !stack_.empty() && stack_.back().object && stack_.back().wants_value &&
           stack_.back().key == Key::kBox;
  }
  Container& Owner() { return numbers_in_ != kNone ? stack_[numbers_in_] : stack_.back(); }
  void Spoil() {
    if (InBox()) Owner().spoiled = true;
  }

  void NumberValue(const Number& number) {
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

  void StringValue(size_t begin, size_t end) {
    if (InBox()) {  // one number, or all of them: "12", "12, 34, 56, 78"
      Container& owner = Owner();
      if (owner.groups.empty()) owner.groups.push_back(0);
      for (size_t i = begin; i < end;) {
        Number number;
        if (ReadNumber(text_.substr(0, end), i, number)) {
          NumberValue(number);
          i = number.end;
        } else if (IsBlank(text_[i]) || text_[i] == ',' || text_[i] == '(' || text_[i] == ')' ||
                   text_[i] == '[' || text_[i] == ']') {
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
  void SetLabel(absl::string_view label) {
    Container& object = stack_.back();
    if (object.has_label) return;
    object.has_label = true;
    // Models begin words with a blank, also the first one behind a quote.
    object.label = std::string(absl::StripAsciiWhitespace(label));
  }

  void ValueDone() {
    Container& c = stack_.back();
    c.empty = false;
    if (c.object) c.wants_value = false;
  }

  // A bracket closes. One that closes the container around the innermost closes both: the model
  // forgot one.
  bool Close(bool object) {
    if (stack_.empty()) return false;
    if (stack_.back().object != object) {
      if (stack_.size() < 2 || stack_[stack_.size() - 2].object != object) return false;
      Pop(at_);
    }
    ++at_;
    Pop(at_);
    return true;
  }

  void Pop(size_t end) {
    Container done = std::move(stack_.back());
    stack_.pop_back();
    numbers_in_ = done.outer_numbers_in;
    if (done.object) {
      Emit(done, end);
    } else {
      if (done.empty) scan_.empty_list = true;
      // Numbers that come after an inner list are a group of their own.
      if (numbers_in_ != kNone) stack_[numbers_in_].groups.push_back(0);
    }
    if (!stack_.empty()) ValueDone();
  }

  // Four numbers are a box; so are two lists of two; several lists of four are several boxes.
  void Emit(Container& object, size_t end) {
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
      scan_.found.push_back(std::move(found));
    }
    emitted_until_ = end;
  }

  // --- tags
  // ---------------------------------------------------------------------------------------
  bool Take(absl::string_view tag) {
    if (!absl::StartsWith(text_.substr(at_), tag)) return false;
    at_ += tag.size();
    return true;
  }

  void Tag() {
    const size_t begin = at_;
    if (Take("<ref>") || Take("<|object_ref_start|>")) {
      ref_begin_ = begin;
      name_begin_ = at_;
      in_ref_ = true;
    } else if (Take("</ref>") || Take("<|object_ref_end|>")) {
      if (in_ref_) {
        label_ =
            std::string(absl::StripAsciiWhitespace(text_.substr(name_begin_, begin - name_begin_)));
        label_until_ = at_;
        object_begin_ = ref_begin_;
      }
      in_ref_ = false;
    } else if (Take("<box>") || Take("<|box_start|>")) {
      TaggedBox(begin);
    } else {
      ++at_;
    }
  }

  // A name holds for the boxes that follow it with nothing but blanks and commas between.
  bool LabelHolds(size_t begin) const {
    if (label_until_ == kNone) return false;
    for (size_t i = label_until_; i < begin; ++i) {
      if (!IsBlank(text_[i]) && text_[i] != ',') return false;
    }
    return true;
  }

  void TaggedBox(size_t begin) {
    const size_t inside = at_;
    std::array<Number, 4> n;
    size_t count = 0, i = at_;
    while (i < text_.size() && i - inside < 8 * kMaxNumberBytes) {
      const char c = text_[i];
      if (count < 4 && ReadNumber(text_, i, n[count])) {
        i = n[count++].end;
      } else if (IsBlank(c) || c == ',' || c == '(' || c == ')' || c == '[' || c == ']') {
        ++i;
      } else {
        break;
      }
    }
    const absl::string_view rest = text_.substr(i);
    size_t close = 0;
    for (const absl::string_view tag : {"</box>", "<|box_end|>"}) {
      if (absl::StartsWith(rest, tag)) {
        close = tag.size();
      } else if (absl::StartsWith(tag, rest)) {  // the text ends here, or within the closing tag
        scan_.truncated = true;
        scan_.cut = std::min(scan_.cut, LabelHolds(begin) ? object_begin_ : begin);
        at_ = text_.size();
        return;
      }
    }
    if (close == 0 || count != 4) return;  // prose that looks like a tag
    at_ = i + close;
    Found found{{}, Form::kTag};
    found.object.box = {n[0].value, n[1].value, n[2].value, n[3].value};
    found.object.begin = begin;
    if (LabelHolds(begin)) {
      found.object.label = label_;
      found.object.begin = object_begin_;
      label_until_ = object_begin_ = at_;
    } else {
      label_until_ = kNone;
    }
    found.object.end = at_;
    found.object.coords_begin = n[0].begin;
    found.object.coords_end = n[3].end;
    scan_.found.push_back(std::move(found));
  }

  absl::string_view text_;
  size_t fuel_;
  size_t at_ = 0;
  Scan scan_;
  std::vector<Container> stack_;
  size_t numbers_in_ = kNone;  // index in stack_ of the object whose box lists are open
  size_t emitted_until_ = 0;
  bool in_ref_ = false;
  size_t ref_begin_ = 0, name_begin_ = 0, object_begin_ = 0;
  size_t label_until_ = kNone;
  std::string label_;
};

// Sets apart what was said for the first time. Calls visit(found, is_first).
template <typename Visit>
void ForEachFound(const Scan& scan, Visit visit) {
  absl::flat_hash_set<std::tuple<double, double, double, double, absl::string_view>> seen;
  for (const Found& found : scan.found) {
    const image::BoxF& b = found.object.box;
    visit(found, seen.emplace(b.x1, b.y1, b.x2, b.y2, found.object.label).second);
  }
}

// --- rendering
// -------------------------------------------------------------------------------------

// What JSON leaves around its objects: blanks, commas, brackets, fences. Cut off the front of what
// follows an object and off the back of what precedes one.
void StripGlueFront(absl::string_view& gap) {
  for (size_t before = gap.size() + 1; gap.size() < before;) {
    before = gap.size();
    gap = absl::StripLeadingAsciiWhitespace(gap);
    for (const absl::string_view glue : {",", "]", "[", "}", "```json", "```"}) {
      absl::ConsumePrefix(&gap, glue);
    }
  }
}
void StripGlueBack(absl::string_view& gap) {
  for (size_t before = gap.size() + 1; gap.size() < before;) {
    before = gap.size();
    gap = absl::StripTrailingAsciiWhitespace(gap);
    for (const absl::string_view glue : {",", "[", "]", "```json", "```JSON", "```"}) {
      absl::ConsumeSuffix(&gap, glue);
    }
    if (!gap.empty() && gap.back() == ':') {  // {"objects":
      const size_t brace = gap.rfind('{');
      if (brace != absl::string_view::npos && gap.size() - brace < 40 &&
          gap.find_first_not_of(
              "{}\"':_ \n\tabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
              brace) == absl::string_view::npos) {
        gap = gap.substr(0, brace);
      }
    }
  }
}

class Renderer {
 public:
  explicit Renderer(absl::string_view text) : text_(text) {}

  // Appends what stands between the last object and the next, or the end.
  void Gap(size_t end, bool before_json) {
    absl::string_view gap = text_.substr(at_, end > at_ ? end - at_ : 0);
    const bool at_end = end == text_.size();
    absl::string_view front = gap;
    StripGlueFront(front);
    if (at_ > 0 && (front.empty() || front == ".")) {  // nothing but glue after an object
      out_.append(front.data(), front.size());
      return;
    }
    if (at_ > 0 && after_json_) {
      if (front.size() < gap.size()) Separate(gap.substr(0, gap.size() - front.size()));
      gap = front;
    }
    if (before_json) {
      absl::string_view back = gap;
      StripGlueBack(back);
      if (!back.empty()) was_box_ = false;
      out_.append(back.data(), back.size());
      if (!at_end && !back.empty() && back.size() < gap.size()) Separate(gap.substr(back.size()));
      return;
    }
    if (!gap.empty()) was_box_ = false;
    if (at_end) gap = absl::StripTrailingAsciiWhitespace(gap);
    out_.append(gap.data(), gap.size());
  }

  void Object(const Found& found, const image::Box* box) {
    at_ = found.object.end;
    after_json_ = found.form == Form::kJson;
    if (box == nullptr) return;
    if (was_box_) out_.append(", ");
    if (!found.object.label.empty()) absl::StrAppend(&out_, found.object.label, " ");
    absl::StrAppend(&out_, "<box>(", box->x1, ",", box->y1, "),(", box->x2, ",", box->y2,
                    ")</box>");
    was_box_ = true;
  }

  size_t at() const { return at_; }
  std::string Take() { return std::move(out_); }

 private:
  void Separate(absl::string_view stripped) {
    if (out_.empty()) return;
    out_.push_back(stripped.find('\n') == absl::string_view::npos ? ' ' : '\n');
  }

  absl::string_view text_;
  size_t at_ = 0;
  bool after_json_ = false, was_box_ = false;
  std::string out_;
};

}  // namespace

ParsedAnswer ParseAnswer(absl::string_view text) {
  const Scan scan = Scanner(text).Run();
  ParsedAnswer out;
  ForEachFound(scan, [&out](const Found& found, bool first) {
    if (first) out.objects.push_back(found.object);
  });
  out.explicit_empty = scan.empty_list && scan.found.empty();
  out.truncated = scan.truncated;
  return out;
}

std::string RenderText(absl::string_view text, const ParsedAnswer& parsed,
                       absl::Span<const std::optional<image::Box>> boxes) {
  // Reads the text again: duplicates, which `parsed` no longer has, must vanish from it too.
  const Scan scan = Scanner(text).Run();
  text = text.substr(0, scan.cut);
  Renderer renderer(text);
  size_t next = 0;
  ForEachFound(scan, [&](const Found& found, bool first) {
    const size_t i = first ? next++ : boxes.size();
    const bool nested = found.object.begin < renderer.at();
    if (nested || found.object.end > text.size()) return;
    renderer.Gap(found.object.begin, found.form == Form::kJson);
    renderer.Object(found, i < boxes.size() && boxes[i].has_value() ? &*boxes[i] : nullptr);
  });
  renderer.Gap(text.size(), /*before_json=*/scan.cut != absl::string_view::npos);
  return renderer.Take();
}

double ObjectProbability(const RawObject& object, absl::Span<const size_t> token_ends,
                         absl::Span<const double> logprobs) {
  const size_t n = std::min(token_ends.size(), logprobs.size());
  // Token i covers [token_ends[i - 1], token_ends[i]).
  size_t i = static_cast<size_t>(
      std::upper_bound(token_ends.begin(), token_ends.begin() + n, object.coords_begin) -
      token_ends.begin());
  double sum = 0;
  int count = 0;
  for (; i < n && (i == 0 || token_ends[i - 1] < object.coords_end); ++i) {
    if (i > 0 && token_ends[i] == token_ends[i - 1]) continue;  // wrote nothing
    sum += logprobs[i];
    ++count;
  }
  return count == 0 ? 0.0 : std::exp(sum / count);
}

}  // namespace chord::grounding
