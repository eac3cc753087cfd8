#include "common/jinja/value.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/text/unicode.h"

namespace chord::jinja {
namespace {

size_t SaturatingAdd(size_t a, size_t b) {
  return b > std::numeric_limits<size_t>::max() - a ? std::numeric_limits<size_t>::max() : a + b;
}

bool IsPrintable(int32_t c) {  // str.isprintable of Python
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

std::string HexEscape(absl::string_view kind, int32_t code, absl::PadSpec pad) {
  return absl::StrCat("\\", kind, absl::Hex(static_cast<uint32_t>(code), pad));
}

// Appends each character of `text`, or what `escape` makes of it ("" : as it is).
template <typename Escape>
void AppendEscaped(const Text& text, Text& out, Escape escape) {
  const absl::string_view bytes = text.bytes();
  size_t at = 0;
  for (const Text::Run& run : text.runs()) {
    while (at < run.end) {
      const text::Rune rune = text::FirstRune(bytes.substr(at));
      const std::string escaped = escape(rune.code_point);
      out.Append(escaped.empty() ? bytes.substr(at, rune.bytes) : absl::string_view(escaped),
                 run.origin);
      at += rune.bytes;
    }
  }
}

void AppendRepr(const Text& text, Text& out) {
  const std::string& bytes = text.bytes();
  const bool other = bytes.find('\'') != bytes.npos && bytes.find('"') == bytes.npos;
  const char quote = other ? '"' : '\'';
  out.Append(absl::string_view(&quote, 1), Origin::kTemplate);
  AppendEscaped(text, out, [quote](int32_t c) -> std::string {
    if (c == quote || c == '\\') return {'\\', static_cast<char>(c)};
    if (c == '\n') return "\\n";
    if (c == '\r') return "\\r";
    if (c == '\t') return "\\t";
    if (IsPrintable(c)) return "";
    if (c < 0x100) return HexEscape("x", c, absl::kZeroPad2);
    if (c < 0x10000) return HexEscape("u", c, absl::kZeroPad4);
    return HexEscape("U", c, absl::kZeroPad8);
  });
  out.Append(absl::string_view(&quote, 1), Origin::kTemplate);
}

// repr(value) behind `out`; false when it has none.
bool AppendValue(const Value& value, bool repr, Text& out) {
  const auto literal = [&out](absl::string_view s) { out.Append(s, Origin::kTemplate); };
  switch (value.kind()) {
    case Value::kUndefined:
      if (repr) literal("Undefined");
      return true;
    case Value::kNone:
      literal("None");
      return true;
    case Value::kBool:
      literal(value.boolean() ? "True" : "False");
      return true;
    case Value::kInteger:
      literal(absl::StrCat(value.integer()));
      return true;
    case Value::kFloat:
      literal(FloatText(value.number()));
      return true;
    case Value::kString:
      if (repr) {
        AppendRepr(value.text(), out);
      } else {
        out.Append(value.text());
      }
      return true;
    case Value::kList: {
      const List& list = value.list();
      if (list.kind != List::kList && list.kind != List::kTuple) return false;
      const bool tuple = list.kind == List::kTuple;
      literal(tuple ? "(" : "[");
      for (size_t i = 0; i < list.items.size(); ++i) {
        if (i > 0) literal(", ");
        if (!AppendValue(list.items[i], true, out)) return false;
      }
      literal(tuple ? (list.items.size() == 1 ? ",)" : ")") : "]");
      return true;
    }
    case Value::kDict: {
      literal("{");
      bool first = true;
      for (const auto& [key, item] : value.dict().items()) {
        if (!std::exchange(first, false)) literal(", ");
        AppendRepr(key, out);
        literal(": ");
        if (!AppendValue(item, true, out)) return false;
      }
      literal("}");
      return true;
    }
    case Value::kObject:
      return false;
  }
  return false;
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Text& out) : style_(style), out_(out) {}

  bool Write(const Value& value, int level) {
    switch (value.kind()) {
      case Value::kNone:
        return Literal("null");
      case Value::kBool:
        return Literal(value.boolean() ? "true" : "false");
      case Value::kInteger:
        return Literal(absl::StrCat(value.integer()));
      case Value::kFloat:
        return Literal(std::isnan(value.number()) ? "NaN"
                       : std::isinf(value.number())
                           ? (value.number() < 0 ? "-Infinity" : "Infinity")
                           : FloatText(value.number()));
      case Value::kString:
        return String(value.text());
      case Value::kList:
        return Array(value.list(), level);
      case Value::kDict:
        return DictObject(value.dict(), level);
      default:
        return false;
    }
  }

 private:
  bool Literal(absl::string_view s) {
    out_.Append(s, Origin::kTemplate);
    return true;
  }
  void NewLine(int level) {
    if (!style_.indent) return;
    Literal("\n");
    Literal(std::string(static_cast<size_t>(*style_.indent) * static_cast<size_t>(level), ' '));
  }
  bool String(const Text& text) {
    Literal("\"");
    const bool ascii = style_.ensure_ascii;
    AppendEscaped(text, out_, [ascii](int32_t c) -> std::string {
      static constexpr absl::string_view kLetters = "\"\\\n\r\t\f\b";
      static constexpr absl::string_view kNames = "\"\\nrtfb";
      const size_t at = c < 0x80 ? kLetters.find(static_cast<char>(c)) : kLetters.npos;
      if (at != kLetters.npos) return {'\\', kNames[at]};
      if (c >= 0x20 && (c < 0x7F || !ascii)) return "";
      if (c == 0x7F) return "";
      if (c < 0x10000) return HexEscape("u", c, absl::kZeroPad4);
      const int32_t low = c - 0x10000;
      return HexEscape("u", 0xD800 + (low >> 10), absl::kZeroPad4) +
             HexEscape("u", 0xDC00 + (low & 0x3FF), absl::kZeroPad4);
    });
    return Literal("\"");
  }
  bool Array(const List& list, int level) {
    if (list.kind != List::kList && list.kind != List::kTuple) return false;
    if (list.items.empty()) return Literal("[]");
    Literal("[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) Literal(style_.item_separator);
      NewLine(level + 1);
      if (!Write(list.items[i], level + 1)) return false;
    }
    NewLine(level);
    return Literal("]");
  }
  bool DictObject(const Dict& dict, int level) {
    if (dict.items().empty()) return Literal("{}");
    std::vector<const std::pair<Text, Value>*> items;
    for (const auto& item : dict.items()) items.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [](const auto* a, const auto* b) {
        return a->first.bytes() < b->first.bytes();
      });
    }
    Literal("{");
    bool first = true;
    for (const auto* item : items) {
      if (!std::exchange(first, false)) Literal(style_.item_separator);
      NewLine(level + 1);
      String(item->first);
      Literal(style_.key_separator);
      if (!Write(item->second, level + 1)) return false;
    }
    NewLine(level);
    return Literal("}");
  }

  const JsonStyle& style_;
  Text& out_;
};

}  // namespace

void Dict::Set(const Text& key, Value value) {
  depth_ = std::max(depth_, value.depth() + 1);
  weight_ = SaturatingAdd(weight_, SaturatingAdd(value.weight(), 1 + key.size() / 16));
  const auto [at, added] = index_.emplace(key.bytes(), items_.size());
  if (added) {
    items_.emplace_back(key, std::move(value));
  } else {
    items_[at->second].second = std::move(value);
  }
}

const Value* Dict::Find(absl::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &items_[found->second].second;
}

Value Value::Undefined(absl::string_view name) {
  return Value(Missing{std::make_shared<const std::string>(name)});
}

Value Value::MakeList(std::vector<Value> items, List::Kind kind) {
  auto list = std::make_shared<List>();
  list->kind = kind;
  list->items = std::move(items);
  for (const Value& item : list->items) {
    list->depth = std::max(list->depth, item.depth() + 1);
    list->weight = SaturatingAdd(list->weight, item.weight());
  }
  return Value(std::shared_ptr<const List>(std::move(list)));
}

absl::string_view Value::name() const {
  const auto* missing = std::get_if<Missing>(&v_);
  return missing == nullptr || missing->name == nullptr ? absl::string_view() : *missing->name;
}

bool Value::IsTrue() const {
  switch (kind()) {
    case kUndefined:
    case kNone:
      return false;
    case kBool:
    case kInteger:
      return integer() != 0;
    case kFloat:
      return number() != 0;
    case kString:
      return !text().empty();
    case kList:
      return list().kind == List::kGenerator || !list().items.empty();
    case kDict:
      return !dict().items().empty();
    case kObject:
      return true;
  }
  return false;
}

int Value::depth() const {
  switch (kind()) {
    case kList:
      return list().depth;
    case kDict:
      return dict().depth();
    case kObject:
      return 1;
    default:
      return 0;
  }
}

size_t Value::weight() const {
  switch (kind()) {
    case kString:
      return 1 + text().size() / 16;
    case kList:
      return list().weight;
    case kDict:
      return dict().weight();
    default:
      return 1;
  }
}

absl::string_view Value::TypeName() const {
  static constexpr absl::string_view kNames[] = {
      "an undefined value", "None",   "a boolean",    "an integer", "a float",
      "a string",           "a list", "a dictionary", "an object"};
  return kNames[kind()];
}

bool Value::SameAs(const Value& other) const {
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case kString:
      return &text() == &other.text();
    case kList:
      return &list() == &other.list();
    case kDict:
      return &dict() == &other.dict();
    case kObject:
      return object() == other.object();
    case kFloat:
      return false;
    default:
      return Equal(*this, other);
  }
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    return a.IsWhole() && b.IsWhole() ? a.integer() == b.integer() : a.number() == b.number();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::kString:
      return a.text().bytes() == b.text().bytes();
    case Value::kList: {
      const List &x = a.list(), &y = b.list();
      if (x.kind == List::kGenerator || y.kind == List::kGenerator) return &x == &y;
      return x.kind == y.kind && x.items.size() == y.items.size() &&
             std::equal(x.items.begin(), x.items.end(), y.items.begin(), Equal);
    }
    case Value::kDict: {
      if (a.dict().items().size() != b.dict().items().size()) return false;
      for (const auto& [key, value] : a.dict().items()) {
        const Value* other = b.dict().Find(key.bytes());
        if (other == nullptr || !Equal(value, *other)) return false;
      }
      return true;
    }
    case Value::kObject:
      return a.object() == b.object();
    default:
      return true;  // undefined, None
  }
}

std::optional<int> Compare(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsWhole() && b.IsWhole()) {
      return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
    }
    return a.number() < b.number() ? -1 : a.number() > b.number() ? 1 : 0;
  }
  if (a.is(Value::kString) && b.is(Value::kString)) {
    return a.text().bytes().compare(b.text().bytes());  // order of bytes is order of code points
  }
  if (a.is(Value::kList) && b.is(Value::kList) && a.list().kind == b.list().kind &&
      a.list().kind != List::kGenerator) {
    const std::vector<Value>&x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!Equal(x[i], y[i])) return Compare(x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  }
  return std::nullopt;
}

std::optional<Text> ToText(const Value& value) {
  Text out;
  if (!AppendValue(value, /*repr=*/false, out)) return std::nullopt;
  return out;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  const double size = std::abs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value,
                                 fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string out(buffer, end.ptr);
  if (fixed && out.find('.') == out.npos) out += ".0";
  return out;
}

std::optional<Text> ToJson(const Value& value, const JsonStyle& style) {
  Text out;
  if (!JsonWriter(style, out).Write(value, 0)) return std::nullopt;
  return out;
}

}  // namespace chord::jinja
