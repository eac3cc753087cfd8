// The global functions: Jinja's range, dict and namespace, transformers' raise_exception and
// strftime_now.
#include <ctime>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/jinja/catalogue.h"
#include "common/jinja/runtime.h"
#include "common/text/unicode.h"

namespace chord::jinja {
namespace {

using Result = absl::StatusOr<Value>;

constexpr int64_t kMaxRange = 100'000;  // as in Jinja's sandbox
constexpr size_t kMaxFormatBytes = 256;

Result Range(Runtime& rt, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("range", std::move(args), {"start", "stop", "step"}, 1));
  int64_t begin = 0, step = 1;
  CHORD_ASSIGN_OR_RETURN(int64_t end, rt.Whole(*bound[0], "an argument of range"));
  if (bound[1] != nullptr) {
    begin = end;
    CHORD_ASSIGN_OR_RETURN(end, rt.Whole(*bound[1], "an argument of range"));
  }
  if (bound[2] != nullptr) {
    CHORD_ASSIGN_OR_RETURN(step, rt.Whole(*bound[2], "an argument of range"));
  }
  if (step == 0) return rt.Fail("the step of range is 0");
  const int64_t count =
      step > 0 ? (end - begin + step - 1) / step : (begin - end - step - 1) / -step;
  if (count > kMaxRange) return rt.Fail("range has more than ", kMaxRange, " items");
  std::vector<Value> items;
  for (int64_t i = 0; i < count; ++i) items.push_back(Value::Integer(begin + i * step));
  return rt.NewList(std::move(items), List::kRange);
}

absl::StatusOr<Dict> DictOf(Runtime& rt, Arguments args) {
  Dict dict;
  if (args.positional.size() > 1) return rt.Fail("dict takes one dictionary");
  if (!args.positional.empty()) {
    if (!args.positional[0].is(Value::kDict)) return rt.Fail("dict needs a dictionary");
    dict = args.positional[0].dict();
  }
  for (auto& [name, value] : args.named) dict.Set(Text(name), std::move(value));
  return dict;
}

Result DictFunction(Runtime& rt, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(Dict dict, DictOf(rt, std::move(args)));
  return rt.NewDict(std::move(dict));
}

Result NamespaceFunction(Runtime& rt, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Dict dict, DictOf(rt, std::move(args)));
  CHORD_RETURN_IF_ERROR(rt.Charge(1 + dict.items().size()));
  const std::shared_ptr<Namespace> ns = rt.NewNamespace();
  for (const auto& [name, value] : dict.items()) ns->attributes[name.bytes()] = value;
  return Value::Of(ns);
}

Result RaiseException(Runtime& rt, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("raise_exception", std::move(args), {"message"}, 1));
  CHORD_ASSIGN_OR_RETURN(const Text text, rt.ToText(*bound[0]));
  return absl::FailedPreconditionError(text.bytes());
}

Result StrftimeNow(Runtime& rt, Arguments args) {
  CHORD_ASSIGN_OR_RETURN(const Bound bound,
                         rt.Bind("strftime_now", std::move(args), {"format"}, 1));
  if (!bound[0]->is(Value::kString) || bound[0]->text().size() > kMaxFormatBytes) {
    return rt.Fail("strftime_now needs a short string");
  }
  // A format that writes nothing cannot be told from one that does not fit, but for a mark.
  const std::string format = bound[0]->text().bytes() + "|";
  const std::time_t now = absl::ToTimeT(rt.now());
  std::tm local{};
  localtime_r(&now, &local);
  char buffer[16 * kMaxFormatBytes];
  const size_t size = std::strftime(buffer, sizeof buffer, format.c_str(), &local);
  if (size == 0) return rt.Fail("strftime_now has a format that is too long");
  return rt.NewString(Text(text::ToValidUtf8(absl::string_view(buffer, size - 1))));
}

struct Function {
  absl::string_view name;
  Result (*call)(Runtime&, Arguments);
};
constexpr Function kFunctions[] = {
    {"dict", DictFunction}, {"namespace", NamespaceFunction}, {"raise_exception", RaiseException},
    {"range", Range},       {"strftime_now", StrftimeNow},
};

}  // namespace

bool IsFunction(absl::string_view name) {
  for (const Function& function : kFunctions) {
    if (function.name == name) return true;
  }
  return false;
}

absl::StatusOr<Value> CallFunction(Runtime& runtime, absl::string_view name, Arguments arguments) {
  for (const Function& function : kFunctions) {
    if (function.name == name) return function.call(runtime, std::move(arguments));
  }
  return runtime.Fail("the function \"", name, "\" is not supported");
}

}  // namespace chord::jinja
