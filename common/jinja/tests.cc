// The tests of Jinja 3.1 ("is ...").
#include <algorithm>
#include <cmath>

#include "common/base/status_macros.h"
#include "common/jinja/catalogue.h"
#include "common/jinja/runtime.h"
#include "common/jinja/string_ops.h"

namespace chord::jinja {
namespace {

// What the test says of a value alone; nullptr functions below take an argument.
using Unary = bool (*)(const Value&);

bool IsIterable(const Value& v) {
  return v.is(Value::kUndefined) || v.is(Value::kString) || v.is(Value::kList) ||
         v.is(Value::kDict);
}
bool IsSequence(const Value& v) {
  if (v.is(Value::kList)) {
    return v.list().kind != List::kView && v.list().kind != List::kGenerator;
  }
  return IsIterable(v);
}
bool IsCallable(const Value& v) {
  return v.is(Value::kUndefined) || v.IsObject(Object::kMacro) || v.IsObject(Object::kFunction);
}

struct UnaryTest {
  absl::string_view name;
  Unary holds;
};
constexpr UnaryTest kUnary[] = {
    {"boolean", [](const Value& v) { return v.is(Value::kBool); }},
    {"callable", IsCallable},
    {"defined", [](const Value& v) { return !v.is(Value::kUndefined); }},
    {"escaped", [](const Value& v) { return v.is(Value::kString) && v.text().markup(); }},
    {"false", [](const Value& v) { return v.is(Value::kBool) && !v.boolean(); }},
    {"float", [](const Value& v) { return v.is(Value::kFloat); }},
    {"integer", [](const Value& v) { return v.is(Value::kInteger); }},
    {"iterable", IsIterable},
    {"mapping", [](const Value& v) { return v.is(Value::kDict); }},
    {"none", [](const Value& v) { return v.is(Value::kNone); }},
    {"number", [](const Value& v) { return v.IsNumber(); }},
    {"sequence", IsSequence},
    {"string", [](const Value& v) { return v.is(Value::kString); }},
    {"true", [](const Value& v) { return v.is(Value::kBool) && v.boolean(); }},
    {"undefined", [](const Value& v) { return v.is(Value::kUndefined); }},
};

enum class Other {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kSame,
  kDivisible,
  kEven,
  kOdd,
  kLower,
  kUpper
};
struct OtherTest {
  absl::string_view name;
  Other test;
};
constexpr OtherTest kOther[] = {
    {"==", Other::kEqual},
    {"eq", Other::kEqual},
    {"equalto", Other::kEqual},
    {"!=", Other::kNotEqual},
    {"ne", Other::kNotEqual},
    {"<", Other::kLess},
    {"lt", Other::kLess},
    {"lessthan", Other::kLess},
    {"<=", Other::kLessEqual},
    {"le", Other::kLessEqual},
    {">", Other::kGreater},
    {"gt", Other::kGreater},
    {"greaterthan", Other::kGreater},
    {">=", Other::kGreaterEqual},
    {"ge", Other::kGreaterEqual},
    {"in", Other::kIn},
    {"sameas", Other::kSame},
    {"divisibleby", Other::kDivisible},
    {"even", Other::kEven},
    {"odd", Other::kOdd},
    {"lower", Other::kLower},
    {"upper", Other::kUpper},
};

template <typename Table>
auto* Find(const Table& table, absl::string_view name) {
  const auto* found = std::find_if(std::begin(table), std::end(table),
                                   [name](const auto& t) { return t.name == name; });
  return found == std::end(table) ? nullptr : found;
}

absl::StatusOr<bool> Remainder(Runtime& rt, const Value& value, int64_t divisor, bool zero) {
  if (!value.IsWhole()) return rt.Fail("the test needs an integer");
  if (divisor == 0) return rt.Fail("division by zero");
  return divisor == -1 ? zero : (value.integer() % divisor == 0) == zero;
}

absl::StatusOr<bool> OneArgument(Runtime& rt, Other test, const Value& a, const Value& b) {
  switch (test) {
    case Other::kEqual:
      return rt.Equal(a, b);
    case Other::kNotEqual: {
      CHORD_ASSIGN_OR_RETURN(const bool equal, rt.Equal(a, b));
      return !equal;
    }
    case Other::kIn:
      return rt.Contains(b, a);
    case Other::kSame:
      return a.SameAs(b);
    case Other::kDivisible: {
      CHORD_ASSIGN_OR_RETURN(const int64_t divisor, rt.Whole(b, "divisibleby"));
      return Remainder(rt, a, divisor, true);
    }
    default:
      break;
  }
  CHORD_ASSIGN_OR_RETURN(const int order, rt.Compare(a, b));
  switch (test) {
    case Other::kLess:
      return order < 0;
    case Other::kLessEqual:
      return order <= 0;
    case Other::kGreater:
      return order > 0;
    default:
      return order >= 0;
  }
}

absl::StatusOr<bool> NoArgument(Runtime& rt, Other test, const Value& subject) {
  if (test == Other::kEven || test == Other::kOdd) {
    return Remainder(rt, subject, 2, test == Other::kEven);
  }
  CHORD_ASSIGN_OR_RETURN(const Text text, rt.ToText(subject));
  return test == Other::kLower ? IsLowerCase(text) : IsUpperCase(text);
}

}  // namespace

bool IsTest(absl::string_view name) {
  return Find(kUnary, name) != nullptr || Find(kOther, name) != nullptr;
}

absl::StatusOr<bool> ApplyTest(Runtime& runtime, absl::string_view name, const Value& subject,
                               Arguments arguments) {
  if (const auto* unary = Find(kUnary, name)) {
    CHORD_RETURN_IF_ERROR(runtime.Bind(name, std::move(arguments), {}).status());
    return unary->holds(subject);
  }
  const auto* other = Find(kOther, name);
  if (other == nullptr) return runtime.Fail("the test \"", name, "\" is not supported");
  if (other->test >= Other::kEven) {
    CHORD_RETURN_IF_ERROR(runtime.Bind(name, std::move(arguments), {}).status());
    return NoArgument(runtime, other->test, subject);
  }
  CHORD_ASSIGN_OR_RETURN(const Bound bound, runtime.Bind(name, std::move(arguments), {"other"}, 1));
  return OneArgument(runtime, other->test, subject, *bound[0]);
}

}  // namespace chord::jinja
