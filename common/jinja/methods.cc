// Methods of Python's strings, dictionaries and lists, as far as templates may call them: those
// that change an object are not among them, as in transformers' sandbox.
#include <algorithm>

#include "absl/strings/match.h"
#include "common/base/status_macros.h"
#include "common/jinja/catalogue.h"
#include "common/jinja/runtime.h"
#include "common/jinja/string_ops.h"
#include "common/text/unicode.h"

namespace chord::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status CheckString(const Runtime& rt, const Value* value, absl::string_view method) {
  if (value == nullptr || value->is(Value::kString)) return absl::OkStatus();
  return rt.Fail(method, " needs a string, not ", value->TypeName());
}

template <Case to>
Result ChangeCaseOf(Runtime& rt, const Text& self, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("the method", std::move(args), {}).status());
  return rt.NewString(ChangeCase(self, to));
}

template <bool left, bool right>
Result StripOf(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("strip", std::move(args), {"chars"}));
  if (bound[0] == nullptr || bound[0]->is(Value::kNone)) {
    return rt.NewString(Strip(self, nullptr, left, right));
  }
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "strip"));
  CHORD_RETURN_IF_ERROR(rt.ChargeSearch(self, bound[0]->text()));
  return rt.NewString(Strip(self, &bound[0]->text(), left, right));
}

Result NewTexts(Runtime& rt, std::vector<Text> parts) {
  std::vector<Value> items;
  for (Text& part : parts) {
    CHORD_ASSIGN_OR_RETURN(Value item, rt.NewString(std::move(part)));
    items.push_back(std::move(item));
  }
  return rt.NewList(std::move(items));
}

Result Split(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("split", std::move(args), {"sep", "maxsplit"}));
  int64_t limit = -1;
  if (bound[1] != nullptr) {
    CHORD_ASSIGN_OR_RETURN(limit, rt.Whole(*bound[1], "maxsplit"));
  }
  CHORD_RETURN_IF_ERROR(rt.ChargeBytes(self.size()));
  if (bound[0] == nullptr || bound[0]->is(Value::kNone)) {
    return NewTexts(rt, SplitAtSpace(self, limit));
  }
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "split"));
  const Text& separator = bound[0]->text();
  if (separator.empty()) return rt.Fail("split got an empty separator");
  CHORD_RETURN_IF_ERROR(rt.ChargeSearch(self, separator));
  return NewTexts(rt, SplitAt(self, separator.bytes(), limit));
}

Result RightSplit(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("rsplit", std::move(args), {"sep", "maxsplit"}, 2));
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "rsplit"));
  CHORD_ASSIGN_OR_RETURN(const int64_t limit, rt.Whole(*bound[1], "maxsplit"));
  const Text& separator = bound[0]->text();
  if (separator.empty()) return rt.Fail("rsplit got an empty separator");
  CHORD_RETURN_IF_ERROR(rt.ChargeSearch(self, separator));
  std::vector<Text> parts;
  size_t end = self.size();
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    if (end < separator.size()) break;
    const size_t found = self.bytes().rfind(separator.bytes(), end - separator.size());
    if (found == std::string::npos) break;
    parts.push_back(self.Sub(found + separator.size(), end));
    end = found;
  }
  parts.push_back(self.Sub(0, end));
  std::reverse(parts.begin(), parts.end());
  return NewTexts(rt, std::move(parts));
}

Result Lines(Runtime& rt, const Text& self, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("splitlines", std::move(args), {}).status());
  CHORD_RETURN_IF_ERROR(rt.ChargeBytes(self.size()));
  return NewTexts(rt, SplitLines(self));
}

// startswith and endswith take one string or a tuple of them.
template <bool at_end>
Result Affix(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("startswith", std::move(args), {"affix"}, 1));
  std::vector<Value> affixes = {*bound[0]};
  if (bound[0]->is(Value::kList) && bound[0]->list().kind == List::kTuple) {
    CHORD_ASSIGN_OR_RETURN(affixes, rt.Iterate(*bound[0]));
  }
  for (const Value& affix : affixes) {
    CHORD_RETURN_IF_ERROR(CheckString(rt, &affix, at_end ? "endswith" : "startswith"));
    CHORD_RETURN_IF_ERROR(rt.ChargeBytes(affix.text().size()));
    const std::string& bytes = affix.text().bytes();
    if (at_end ? absl::EndsWith(self.bytes(), bytes) : absl::StartsWith(self.bytes(), bytes)) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

template <bool at_end>
Result RemoveAffix(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("removeprefix", std::move(args), {"affix"}, 1));
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "removeprefix"));
  const std::string& affix = bound[0]->text().bytes();
  const bool there =
      at_end ? absl::EndsWith(self.bytes(), affix) : absl::StartsWith(self.bytes(), affix);
  if (!there) return rt.NewString(self);
  return rt.NewString(at_end ? self.Sub(0, self.size() - affix.size())
                             : self.Sub(affix.size(), self.size()));
}

Result ReplaceOf(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("replace", std::move(args), {"old", "new", "count"}, 2));
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "replace"));
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[1], "replace"));
  int64_t count = -1;
  if (bound[2] != nullptr) {
    CHORD_ASSIGN_OR_RETURN(count, rt.Whole(*bound[2], "count"));
  }
  CHORD_ASSIGN_OR_RETURN(Text out, Replace(rt, self, bound[0]->text(), bound[1]->text(), count));
  return rt.NewString(std::move(out));
}

template <bool from_right>
Result Find(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("find", std::move(args), {"sub"}, 1));
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "find"));
  const Text& what = bound[0]->text();
  CHORD_RETURN_IF_ERROR(rt.ChargeSearch(self, what));
  const size_t at = from_right ? self.bytes().rfind(what.bytes()) : self.bytes().find(what.bytes());
  if (at == std::string::npos) return Value::Integer(-1);
  return Value::Integer(
      static_cast<int64_t>(CountCharacters(absl::string_view(self.bytes()).substr(0, at))));
}

Result Count(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("count", std::move(args), {"sub"}, 1));
  CHORD_RETURN_IF_ERROR(CheckString(rt, bound[0], "count"));
  const Text& what = bound[0]->text();
  CHORD_RETURN_IF_ERROR(rt.ChargeSearch(self, what));
  if (what.empty()) return Value::Integer(static_cast<int64_t>(CountCharacters(self.bytes())) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = self.bytes().find(what.bytes(), at)) != std::string::npos; ++count) {
    at += what.size();
  }
  return Value::Integer(count);
}

Result JoinOf(Runtime& rt, const Text& self, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind("join", std::move(args), {"iterable"}, 1));
  CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, rt.Iterate(*bound[0]));
  for (const Value& item : items) CHORD_RETURN_IF_ERROR(CheckString(rt, &item, "join"));
  Arguments separator;
  separator.positional.push_back(Value::String(self));
  CHORD_ASSIGN_OR_RETURN(const Value list, rt.NewList(items));
  return ApplyFilter(rt, "join", list, std::move(separator));
}

template <bool (*holds)(int32_t)>
Result AllCharacters(Runtime& rt, const Text& self, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("the method", std::move(args), {}).status());
  CHORD_RETURN_IF_ERROR(rt.ChargeBytes(self.size()));
  for (size_t at = 0; at < self.size();) {
    const text::Rune rune = text::FirstRune(absl::string_view(self.bytes()).substr(at));
    if (!holds(rune.code_point)) return Value::Bool(false);
    at += rune.bytes;
  }
  return Value::Bool(!self.empty());
}
bool IsLetter(int32_t c) { return text::ClassOf(c) == text::CharClass::kLetter; }
bool IsAsciiDigit(int32_t c) { return c >= '0' && c <= '9'; }

template <bool (*holds)(const Text&)>
Result CaseIs(Runtime& rt, const Text& self, Arguments args) {
  CHORD_RETURN_IF_ERROR(rt.Bind("the method", std::move(args), {}).status());
  return Value::Bool(holds(self));
}

struct StringMethod {
  absl::string_view name;
  Result (*call)(Runtime&, const Text&, Arguments);
};
constexpr StringMethod kStringMethods[] = {
    {"capitalize", ChangeCaseOf<Case::kCapitalize>},
    {"count", Count},
    {"endswith", Affix<true>},
    {"find", Find<false>},
    {"isalpha", AllCharacters<IsLetter>},
    {"isdigit", AllCharacters<IsAsciiDigit>},
    {"islower", CaseIs<IsLowerCase>},
    {"isspace", AllCharacters<IsSpace>},
    {"isupper", CaseIs<IsUpperCase>},
    {"join", JoinOf},
    {"lower", ChangeCaseOf<Case::kLower>},
    {"lstrip", StripOf<true, false>},
    {"removeprefix", RemoveAffix<false>},
    {"removesuffix", RemoveAffix<true>},
    {"replace", ReplaceOf},
    {"rfind", Find<true>},
    {"rsplit", RightSplit},
    {"rstrip", StripOf<false, true>},
    {"split", Split},
    {"splitlines", Lines},
    {"startswith", Affix<false>},
    {"strip", StripOf<true, true>},
    {"title", ChangeCaseOf<Case::kPythonTitle>},
    {"upper", ChangeCaseOf<Case::kUpper>},
};

Result CallDict(Runtime& rt, const Value& self, absl::string_view name, Arguments args) {
  const Dict& dict = self.dict();
  if (name == "get") {
    CHORD_ASSIGN_OR_RETURN(const Bound bound,
                           rt.Bind("get", std::move(args), {"key", "default"}, 1));
    const Value* found =
        bound[0]->is(Value::kString) ? dict.Find(bound[0]->text().bytes()) : nullptr;
    if (found != nullptr) return *found;
    return bound[1] != nullptr ? *bound[1] : Value::None();
  }
  CHORD_RETURN_IF_ERROR(rt.Bind(name, std::move(args), {}).status());
  if (name == "copy") return self;
  if (name != "items" && name != "keys" && name != "values") {
    return rt.Fail("a dictionary has no method \"", name, "\"");
  }
  std::vector<Value> out;
  for (const auto& [key, value] : dict.items()) {
    CHORD_ASSIGN_OR_RETURN(Value text, rt.NewString(key));
    if (name == "keys") {
      out.push_back(std::move(text));
    } else if (name == "values") {
      out.push_back(value);
    } else {
      CHORD_ASSIGN_OR_RETURN(Value pair, rt.NewList({text, value}, List::kTuple));
      out.push_back(std::move(pair));
    }
  }
  return rt.NewList(std::move(out), List::kView);
}

Result CallList(Runtime& rt, const Value& self, absl::string_view name, Arguments args) {
  if (name == "copy") return self;
  if (name != "count" && name != "index") return rt.Fail("a list has no method \"", name, "\"");
  CHORD_ASSIGN_OR_RETURN(const Bound bound, rt.Bind(name, std::move(args), {"value"}, 1));
  int64_t count = 0;
  const std::vector<Value>& items = self.list().items;
  for (size_t i = 0; i < items.size(); ++i) {
    CHORD_ASSIGN_OR_RETURN(const bool equal, rt.Equal(items[i], *bound[0]));
    if (equal && name == "index") return Value::Integer(static_cast<int64_t>(i));
    count += equal ? 1 : 0;
  }
  if (name == "index") return rt.Fail("the list does not have the value");
  return Value::Integer(count);
}

constexpr absl::string_view kDictMethods[] = {"clear",      "copy",   "fromkeys", "get",
                                              "items",      "keys",   "pop",      "popitem",
                                              "setdefault", "update", "values"};
constexpr absl::string_view kListMethods[] = {"append", "clear",   "copy",   "count",
                                              "extend", "index",   "insert", "pop",
                                              "remove", "reverse", "sort"};

template <typename Names>
bool Has(const Names& names, absl::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

const StringMethod* FindStringMethod(absl::string_view name) {
  const auto* found = std::find_if(std::begin(kStringMethods), std::end(kStringMethods),
                                   [name](const StringMethod& m) { return m.name == name; });
  return found == std::end(kStringMethods) ? nullptr : found;
}

}  // namespace

bool IsMethod(absl::string_view name) {
  static constexpr absl::string_view kOthers[] = {"get",  "items", "keys",  "values",
                                                  "copy", "index", "cycle", "changed"};
  return FindStringMethod(name) != nullptr || Has(kOthers, name);
}

bool HasMethod(const Value& object, absl::string_view name) {
  if (object.is(Value::kDict)) return Has(kDictMethods, name);
  if (object.is(Value::kList)) return Has(kListMethods, name);
  return object.is(Value::kString) && FindStringMethod(name) != nullptr;
}

absl::StatusOr<Value> CallMethod(Runtime& runtime, const Value& object, absl::string_view name,
                                 Arguments arguments) {
  CHORD_RETURN_IF_ERROR(runtime.Charge(1));
  if (object.is(Value::kString)) {
    const StringMethod* method = FindStringMethod(name);
    if (method == nullptr) return runtime.Fail("a string has no method \"", name, "\"");
    CHORD_RETURN_IF_ERROR(runtime.ChargeBytes(object.text().size()));
    return method->call(runtime, object.text(), std::move(arguments));
  }
  if (object.is(Value::kDict)) return CallDict(runtime, object, name, std::move(arguments));
  if (object.is(Value::kList) && object.list().kind != List::kView &&
      object.list().kind != List::kGenerator) {
    return CallList(runtime, object, name, std::move(arguments));
  }
  return runtime.Fail(object.TypeName(), " has no method \"", name, "\"");
}

}  // namespace chord::jinja
