// The filters of Jinja 3.1 that chat templates use, with transformers' own tojson.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "common/jinja/catalogue.h"
#include "common/jinja/runtime.h"
#include "common/jinja/string_ops.h"

namespace chord::jinja {
namespace {

using Result = absl::StatusOr<Value>;

bool Flag(const Value* value) { return value != nullptr && value->IsTrue(); }

// soft_str: strings keep their markup, everything else becomes text.
absl::StatusOr<Text> Soft(Runtime& rt, const Value& value) {
  if (value.is(Value::kString)) return value.text();
  return rt.ToText(value);
}

absl::StatusOr<int64_t> WholeOr(Runtime& rt, const Value* value, int64_t other,
                                absl::string_view what) {
  if (value == nullptr || value->is(Value::kNone)) return other;
  return rt.Whole(*value, what);
}

template <Case to>
Result CaseFilter(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("the filter", std::move(args), {}).status());
  CHORD_ASSIGN_OR_RETURN(const Text text, Soft(rt, input));
  return rt.NewString(ChangeCase(text, to));
}

Result Trim(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("trim", std::move(args), {"chars"}));
  CHORD_ASSIGN_OR_RETURN(const Text text, Soft(rt, input));
  if (bound[0] == nullptr || bound[0]->is(Value::kNone)) {
    return rt.NewString(Strip(text, nullptr, true, true));
  }
  if (!bound[0]->is(Value::kString)) return rt.Fail("trim takes a string");
  CHORD_RETURN_IF_ERROR(rt.ChargeSearch(text, bound[0]->text()));
  return rt.NewString(Strip(text, &bound[0]->text(), true, true));
}

Result ReplaceFilter(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("replace", std::move(args), {"old", "new", "count"}, 2));
  CHORD_ASSIGN_OR_RETURN(const Text text, rt.ToText(input));
  CHORD_ASSIGN_OR_RETURN(const Text from, rt.ToText(*bound[0]));
  CHORD_ASSIGN_OR_RETURN(const Text to, rt.ToText(*bound[1]));
  CHORD_ASSIGN_OR_RETURN(const int64_t count, WholeOr(rt, bound[2], -1, "count"));
  CHORD_ASSIGN_OR_RETURN(Text out, Replace(rt, text, from, to, count));
  return rt.NewString(std::move(out));
}

Result Indent(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("indent", std::move(args), {"width", "first", "blank"}));
  if (!input.is(Value::kString)) return rt.Fail("indent needs a string");
  Text text = input.text();
  Text indention(std::string(4, ' '));
  if (bound[0] != nullptr && bound[0]->is(Value::kString)) {
    indention = bound[0]->text();
  } else if (bound[0] != nullptr) {
    CHORD_ASSIGN_OR_RETURN(const int64_t width, rt.Whole(*bound[0], "width"));
    CHORD_RETURN_IF_ERROR(rt.ChargeBytes(static_cast<size_t>(std::max<int64_t>(width, 0))));
    indention = Text(std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' '));
  }
  text.Append("\n", Origin::kTemplate);
  const bool blank = Flag(bound[2]);
  Text out;
  if (Flag(bound[1])) out.Append(indention);
  bool first = true;
  for (const Text& line : SplitLines(text)) {
    CHORD_RETURN_IF_ERROR(rt.ChargeBytes(line.size() + indention.size()));
    if (!std::exchange(first, false)) {
      out.Append("\n", Origin::kTemplate);
      if (blank || !line.empty()) out.Append(indention);
    }
    out.Append(line);
  }
  return rt.NewString(std::move(out));
}

Result Escape(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("escape", std::move(args), {}).status());
  CHORD_ASSIGN_OR_RETURN(const Text text, Soft(rt, input));
  CHORD_RETURN_IF_ERROR(rt.ChargeBytes(6 * text.size()));
  return rt.NewString(EscapeHtml(text));
}

Result Safe(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("safe", std::move(args), {}).status());
  CHORD_ASSIGN_OR_RETURN(Text text, Soft(rt, input));
  text.set_markup(true);
  return rt.NewString(std::move(text));
}

Result String(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("string", std::move(args), {}).status());
  CHORD_ASSIGN_OR_RETURN(Text text, Soft(rt, input));
  return rt.NewString(std::move(text));
}

Result ToJsonFilter(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(
      const Bound bound,
      rt.Bind("tojson", std::move(args), {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = Flag(bound[0]);
  style.sort_keys = Flag(bound[3]);
  if (bound[1] != nullptr && !bound[1]->is(Value::kNone)) {
    CHORD_ASSIGN_OR_RETURN(const int64_t indent, rt.Whole(*bound[1], "indent"));
    if (indent < 0 || indent > 16) return rt.Fail("indent of tojson must be from 0 to 16");
    style.indent = static_cast<int>(indent);
    style.item_separator.resize(1);  // a line end follows
  }
  if (bound[2] != nullptr && !bound[2]->is(Value::kNone)) {
    CHORD_ASSIGN_OR_RETURN(const std::vector<Value> parts, rt.Iterate(*bound[2]));
    if (parts.size() != 2 || !parts[0].is(Value::kString) || !parts[1].is(Value::kString) ||
        parts[0].text().size() + parts[1].text().size() > 64) {
      return rt.Fail("separators of tojson must be two short strings");
    }
    style.item_separator = parts[0].text().bytes();
    style.key_separator = parts[1].text().bytes();
  }
  const size_t per_item = 4 + static_cast<size_t>(style.indent.value_or(0) * input.depth()) / 16;
  CHORD_RETURN_IF_ERROR(rt.Charge(input.weight() * per_item));
  std::optional<Text> json = ToJson(input, style);
  if (!json) return rt.Fail(input.TypeName(), " has no JSON form");
  return rt.NewString(*std::move(json));
}

// "%s" and "%d" of a format; anything else is refused.
Result Format(Runtime& rt, const Value& input, Arguments args) {
  if (!args.named.empty()) return rt.Fail("format with named arguments is not supported");
  CHORD_ASSIGN_OR_RETURN(const Text format, Soft(rt, input));
  Text out;
  size_t next = 0, at = 0;
  for (size_t found; (found = format.bytes().find('%', at)) != std::string::npos;) {
    out.Append(format, at, found);
    const char kind = found + 1 < format.size() ? format.bytes()[found + 1] : '\0';
    at = found + 2;
    if (kind == '%') {
      out.Append(format, found, found + 1);
      continue;
    }
    if (kind != 's' && kind != 'd') return rt.Fail("format supports %s, %d and %% only");
    if (next == args.positional.size()) return rt.Fail("format has too few arguments");
    const Value& value = args.positional[next++];
    if (kind == 'd' && !value.IsNumber()) return rt.Fail("%d needs a number");
    CHORD_ASSIGN_OR_RETURN(
        const Text part,
        rt.ToText(kind == 'd' ? Value::Integer(static_cast<int64_t>(value.number())) : value));
    CHORD_RETURN_IF_ERROR(rt.ChargeBytes(part.size()));
    out.Append(part);
  }
  if (next != args.positional.size()) return rt.Fail("format has too many arguments");
  out.Append(format, at, format.size());
  return rt.NewString(std::move(out));
}

std::optional<int64_t> ParseWhole(absl::string_view text) {
  int64_t value = 0;
  const std::string digits = absl::StrReplaceAll(absl::StripAsciiWhitespace(text), {{"_", ""}});
  if (!absl::SimpleAtoi(digits, &value)) return std::nullopt;
  return value;
}
std::optional<double> ParseFloat(absl::string_view text) {
  double value = 0;
  const absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  if (trimmed.empty() || absl::StartsWithIgnoreCase(trimmed, "0x") ||
      !absl::SimpleAtod(trimmed, &value)) {
    return std::nullopt;
  }
  return value;
}

Result Int(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("int", std::move(args), {"default"}));
  const Value other = bound[0] != nullptr ? *bound[0] : Value::Integer(0);
  if (input.is(Value::kUndefined)) return rt.GetAttribute(input, "int");  // fails
  std::optional<double> number;
  if (input.IsWhole()) return Value::Integer(input.integer());
  if (input.is(Value::kFloat)) number = input.number();
  if (input.is(Value::kString)) {
    if (const auto whole = ParseWhole(input.text().bytes())) return Value::Integer(*whole);
    number = ParseFloat(input.text().bytes());
  }
  if (!number || !(std::abs(*number) < 9e18)) return other;
  return Value::Integer(static_cast<int64_t>(*number));
}

Result Float(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("float", std::move(args), {"default"}));
  if (input.is(Value::kUndefined)) return rt.GetAttribute(input, "float");  // fails
  if (input.IsNumber()) return Value::Float(input.number());
  if (input.is(Value::kString)) {
    if (const auto value = ParseFloat(input.text().bytes())) return Value::Float(*value);
  }
  return bound[0] != nullptr ? *bound[0] : Value::Float(0.0);
}

Result Abs(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("abs", std::move(args), {}).status());
  if (input.is(Value::kFloat)) return Value::Float(std::abs(input.number()));
  if (!input.IsWhole()) return rt.Fail("abs needs a number");
  if (input.integer() == INT64_MIN) return rt.Fail("a number is too large");
  return Value::Integer(std::abs(input.integer()));
}

Result Round(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("round", std::move(args), {"precision", "method"}));
  CHORD_ASSIGN_OR_RETURN(const int64_t precision, WholeOr(rt, bound[0], 0, "precision"));
  if (!input.IsNumber()) return rt.Fail("round needs a number");
  if (precision < 0 || precision > 15) return rt.Fail("precision of round must be from 0 to 15");
  const std::string method =
      bound[1] != nullptr && bound[1]->is(Value::kString) ? bound[1]->text().bytes() : "common";
  if (method == "common") {
    char buffer[400];  // the longest double has 309 digits before the point
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), input.number());
    double value = 0;
    if (!absl::SimpleAtod(buffer, &value)) value = input.number();
    return input.IsWhole() ? Value::Integer(input.integer()) : Value::Float(value);
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value::Float(std::ceil(input.number() * scale) / scale);
  if (method == "floor") return Value::Float(std::floor(input.number() * scale) / scale);
  return rt.Fail("the method of round must be common, ceil or floor");
}

Result Length(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("length", std::move(args), {}).status());
  if (input.is(Value::kString)) CHORD_RETURN_IF_ERROR(rt.ChargeBytes(input.text().size()));
  CHORD_ASSIGN_OR_RETURN(const int64_t length, rt.Length(input));
  return Value::Integer(length);
}

Result First(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("first", std::move(args), {}).status());
  if (input.is(Value::kList) && input.list().kind == List::kGenerator) {
    const List& list = input.list();
    if (list.consumed == list.items.size()) return Value::Undefined("first item");
    return list.items[list.consumed++];
  }
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  return items.empty() ? Value::Undefined("first item") : items.front();
}

Result Last(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("last", std::move(args), {}).status());
  if (input.is(Value::kList) && input.list().kind == List::kGenerator) {
    return rt.Fail("last needs a list; add \"|list\" before it");
  }
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  return items.empty() ? Value::Undefined("last item") : items.back();
}

Result ListFilter(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("list", std::move(args), {}).status());
  CHORD_ASSIGN_OR_RETURN(std::vector<Value> items, rt.Iterate(input));
  return rt.NewList(std::move(items));
}

Result ReverseFilter(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("reverse", std::move(args), {}).status());
  if (input.is(Value::kString)) return rt.NewString(Reverse(input.text()));
  CHORD_ASSIGN_OR_RETURN(std::vector<Value> items, rt.Iterate(input));
  std::reverse(items.begin(), items.end());
  return rt.NewList(std::move(items), List::kGenerator);
}

Result Join(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("join", std::move(args), {"d", "attribute"}));
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  Text separator;
  if (bound[0] != nullptr) {
    CHORD_ASSIGN_OR_RETURN(separator, rt.ToText(*bound[0]));
  }
  Text out;
  bool first = true;
  for (const Value& item : items) {
    Value part = item;
    if (bound[1] != nullptr && !bound[1]->is(Value::kNone)) {
      CHORD_ASSIGN_OR_RETURN(part, rt.GetPath(item, *bound[1]));
    }
    CHORD_ASSIGN_OR_RETURN(const Text text, rt.ToText(part));
    CHORD_RETURN_IF_ERROR(rt.ChargeBytes(separator.size() + text.size()));
    if (!std::exchange(first, false)) out.Append(separator);
    out.Append(text);
  }
  return rt.NewString(std::move(out));
}

// What sort, unique, min and max compare: an attribute, without case unless asked.
absl::StatusOr<Value> SortKey(Runtime& rt, const Value& item, const Value* path, bool fold) {
  Value key = item;
  if (path != nullptr && !path->is(Value::kNone)) {
    CHORD_ASSIGN_OR_RETURN(key, rt.GetPath(item, *path));
  }
  if (!fold || !key.is(Value::kString)) return key;
  return rt.NewString(ChangeCase(key.text(), Case::kLower));
}

using Keyed = std::pair<Value, Value>;  // key, item

absl::StatusOr<std::vector<Keyed>> WithKeys(Runtime& rt, const Value& input, const Value* path,
                                            bool fold) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  std::vector<Keyed> out;
  for (const Value& item : items) {
    CHORD_ASSIGN_OR_RETURN(Value key, SortKey(rt, item, path, fold));
    out.emplace_back(std::move(key), item);
  }
  return out;
}

// Stable, by merging: a comparison may fail, which std::sort has no way to say.
absl::Status SortKeyed(Runtime& rt, std::vector<Keyed>& items, bool reverse) {
  std::vector<Keyed> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t low = 0; low < items.size(); low += 2 * width) {
      const size_t middle = std::min(low + width, items.size());
      const size_t high = std::min(low + 2 * width, items.size());
      size_t a = low, b = middle;
      for (size_t out = low; out < high; ++out) {
        bool take_right = a == middle;
        if (a < middle && b < high) {
          CHORD_ASSIGN_OR_RETURN(const int order, rt.Compare(items[b].first, items[a].first));
          take_right = reverse ? order > 0 : order < 0;
        }
        merged[out] = std::move(items[take_right ? b++ : a++]);
      }
    }
    items.swap(merged);
  }
  return absl::OkStatus();
}

Result Sort(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("sort", std::move(args),
                                                    {"reverse", "case_sensitive", "attribute"}));
  CHORD_ASSIGN_OR_RETURN(std::vector<Keyed> keyed, WithKeys(rt, input, bound[2], !Flag(bound[1])));
  CHORD_RETURN_IF_ERROR(SortKeyed(rt, keyed, Flag(bound[0])));
  std::vector<Value> items;
  for (Keyed& k : keyed) items.push_back(std::move(k.second));
  return rt.NewList(std::move(items));
}

Result DictSort(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("dictsort", std::move(args), {"case_sensitive", "by", "reverse"}));
  if (!input.is(Value::kDict)) return rt.Fail("dictsort needs a dictionary");
  const bool by_value =
      bound[1] != nullptr && bound[1]->is(Value::kString) && bound[1]->text().bytes() == "value";
  CHORD_ASSIGN_OR_RETURN(const Value pairs, CallMethod(rt, input, "items", {}));
  const Value index = Value::Integer(by_value ? 1 : 0);
  CHORD_ASSIGN_OR_RETURN(std::vector<Keyed> keyed, WithKeys(rt, pairs, &index, !Flag(bound[0])));
  CHORD_RETURN_IF_ERROR(SortKeyed(rt, keyed, Flag(bound[2])));
  std::vector<Value> items;
  for (Keyed& k : keyed) items.push_back(std::move(k.second));
  return rt.NewList(std::move(items));
}

Result Unique(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("unique", std::move(args), {"case_sensitive", "attribute"}));
  CHORD_ASSIGN_OR_RETURN(const std::vector<Keyed> keyed,
                         WithKeys(rt, input, bound[1], !Flag(bound[0])));
  std::vector<Value> items, seen;
  for (const auto& [key, item] : keyed) {
    bool known = false;
    for (size_t i = 0; i < seen.size() && !known; ++i) {
      CHORD_ASSIGN_OR_RETURN(known, rt.Equal(seen[i], key));
    }
    if (known) continue;
    seen.push_back(key);
    items.push_back(item);
  }
  return rt.NewList(std::move(items), List::kGenerator);
}

template <int sign>
Result Extreme(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("min", std::move(args), {"case_sensitive", "attribute"}));
  CHORD_ASSIGN_OR_RETURN(const std::vector<Keyed> keyed,
                         WithKeys(rt, input, bound[1], !Flag(bound[0])));
  if (keyed.empty()) return Value::Undefined("item of an empty list");
  size_t best = 0;
  for (size_t i = 1; i < keyed.size(); ++i) {
    CHORD_ASSIGN_OR_RETURN(const int order, rt.Compare(keyed[i].first, keyed[best].first));
    if (order * sign > 0) best = i;
  }
  return keyed[best].second;
}

Result Batch(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("batch", std::move(args), {"linecount", "fill_with"}, 1));
  CHORD_ASSIGN_OR_RETURN(const int64_t count, rt.Whole(*bound[0], "linecount"));
  if (count < 1) return rt.Fail("batch needs a positive number");
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  std::vector<Value> batches;
  for (size_t at = 0; at < items.size(); at += static_cast<size_t>(count)) {
    const size_t end = std::min(items.size(), at + static_cast<size_t>(count));
    std::vector<Value> batch(items.begin() + static_cast<ptrdiff_t>(at),
                             items.begin() + static_cast<ptrdiff_t>(end));
    if (bound[1] != nullptr && !bound[1]->is(Value::kNone)) {
      CHORD_RETURN_IF_ERROR(rt.Charge(static_cast<size_t>(count)));
      batch.resize(static_cast<size_t>(count), *bound[1]);
    }
    CHORD_ASSIGN_OR_RETURN(Value list, rt.NewList(std::move(batch)));
    batches.push_back(std::move(list));
  }
  return rt.NewList(std::move(batches), List::kGenerator);
}

Result Items(Runtime& rt, const Value& input, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("items", std::move(args), {}).status());
  if (input.is(Value::kUndefined)) return rt.NewList({}, List::kGenerator);
  if (!input.is(Value::kDict)) return rt.Fail("items needs a dictionary");
  CHORD_ASSIGN_OR_RETURN(const Value view, CallMethod(rt, input, "items", {}));
  return rt.NewList(view.list().items, List::kGenerator);
}

Result Map(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  std::vector<Value> out;
  if (args.positional.empty()) {
    CHORD_ASSIGN_OR_RETURN(const Bound bound,
                           rt.Bind("map", std::move(args), {"attribute", "default"}, 1));
    for (const Value& item : items) {
      CHORD_ASSIGN_OR_RETURN(Value value, rt.GetPath(item, *bound[0]));
      if (value.is(Value::kUndefined) && bound[1] != nullptr) value = *bound[1];
      out.push_back(std::move(value));
    }
    return rt.NewList(std::move(out), List::kGenerator);
  }
  if (!args.positional[0].is(Value::kString)) return rt.Fail("map needs the name of a filter");
  const std::string name = args.positional[0].text().bytes();
  args.positional.erase(args.positional.begin());
  for (const Value& item : items) {
    CHORD_RETURN_IF_ERROR(rt.Charge(1));
    CHORD_ASSIGN_OR_RETURN(Value value, ApplyFilter(rt, name, item, args));
    out.push_back(std::move(value));
  }
  return rt.NewList(std::move(out), List::kGenerator);
}

template <bool wanted, bool of_attribute>
Result Select(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(input));
  Value path;
  if (of_attribute) {
    if (args.positional.empty()) return rt.Fail("selectattr needs the name of an attribute");
    path = args.positional[0];
    args.positional.erase(args.positional.begin());
  }
  std::string test;
  if (!args.positional.empty()) {
    if (!args.positional[0].is(Value::kString)) return rt.Fail("select needs the name of a test");
    test = args.positional[0].text().bytes();
    args.positional.erase(args.positional.begin());
  }
  std::vector<Value> out;
  for (const Value& item : items) {
    CHORD_RETURN_IF_ERROR(rt.Charge(1));
    Value subject = item;
    if (of_attribute) {
      CHORD_ASSIGN_OR_RETURN(subject, rt.GetPath(item, path));
    }
    bool holds = subject.IsTrue();
    if (!test.empty()) {
      CHORD_ASSIGN_OR_RETURN(holds, ApplyTest(rt, test, subject, args));
    }
    if (holds == wanted) out.push_back(item);
  }
  return rt.NewList(std::move(out), List::kGenerator);
}

Result Default(Runtime& rt, const Value& input, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("default", std::move(args), {"default_value", "boolean"}));
  if (!input.is(Value::kUndefined) && (!Flag(bound[1]) || input.IsTrue())) return input;
  return bound[0] != nullptr ? *bound[0] : Value::String("");
}

struct Filter {
  absl::string_view name;
  Result (*apply)(Runtime&, const Value&, Arguments);
};
constexpr Filter kFilters[] = {
    {"abs", Abs},
    {"batch", Batch},
    {"capitalize", CaseFilter<Case::kCapitalize>},
    {"count", Length},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"e", Escape},
    {"escape", Escape},
    {"first", First},
    {"float", Float},
    {"format", Format},
    {"indent", Indent},
    {"int", Int},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", Length},
    {"list", ListFilter},
    {"lower", CaseFilter<Case::kLower>},
    {"map", Map},
    {"max", Extreme<1>},
    {"min", Extreme<-1>},
    {"reject", Select<false, false>},
    {"rejectattr", Select<false, true>},
    {"replace", ReplaceFilter},
    {"reverse", ReverseFilter},
    {"round", Round},
    {"safe", Safe},
    {"select", Select<true, false>},
    {"selectattr", Select<true, true>},
    {"sort", Sort},
    {"string", String},
    {"title", CaseFilter<Case::kJinjaTitle>},
    {"tojson", ToJsonFilter},
    {"trim", Trim},
    {"unique", Unique},
    {"upper", CaseFilter<Case::kUpper>},
};

const Filter* FindFilter(absl::string_view name) {
  const auto* found = std::find_if(std::begin(kFilters), std::end(kFilters),
                                   [name](const Filter& f) { return f.name == name; });
  return found == std::end(kFilters) ? nullptr : found;
}

}  // namespace

bool IsFilter(absl::string_view name) { return FindFilter(name) != nullptr; }

absl::StatusOr<Value> ApplyFilter(Runtime& runtime, absl::string_view name, const Value& input,
                                  Arguments arguments) {
  const Filter* filter = FindFilter(name);
  if (filter == nullptr) return runtime.Fail("the filter \"", name, "\" is not supported");
  return filter->apply(runtime, input, std::move(arguments));
}

}  // namespace chord::jinja
