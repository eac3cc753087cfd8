// What filters, tests, methods and the evaluator share: the budget of one rendering, arguments, and
// access to items and attributes as Python has it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/jinja/value.h"

namespace chord::jinja {

// Arguments of a call, evaluated.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments by the order of a list of parameter names; nullptr for what was not given.
class Bound {
 public:
  explicit Bound(size_t count) : values_(count) {}
  const Value* operator[](size_t i) const { return values_[i] ? &*values_[i] : nullptr; }
  std::optional<Value>& at(size_t i) { return values_[i]; }

 private:
  std::vector<std::optional<Value>> values_;
};

// One rendering. Not thread-safe. Every error is InvalidArgument with the line at the front, but
// for raise_exception, which is FailedPrecondition with the template's own words.
class Runtime {
 public:
  // `max_steps` bounds time and memory: a step is a node evaluated, an item made, or 32 bytes made.
  Runtime(int64_t max_steps, absl::Time now) : steps_left_(max_steps), now_(now) {}
  Runtime(const Runtime&) = delete;
  ~Runtime();  // breaks cycles between namespaces

  int line = 0;  // where the evaluation is

  template <typename... Parts>
  absl::Status Fail(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", parts...));
  }
  absl::Status Charge(size_t steps);
  absl::Status ChargeBytes(size_t bytes) { return Charge(1 + bytes / 32); }
  absl::Status ChargeSearch(const Text& where, const Text& what);

  absl::StatusOr<Value> NewString(Text text);
  absl::StatusOr<Value> NewList(std::vector<Value> items, List::Kind kind = List::kList);
  absl::StatusOr<Value> NewDict(Dict dict);
  std::shared_ptr<Namespace> NewNamespace();

  absl::StatusOr<Bound> Bind(absl::string_view callee, Arguments arguments,
                             std::initializer_list<absl::string_view> parameters,
                             size_t required = 0) const;
  // The value as a whole number within int range; Fail names `what`.
  absl::StatusOr<int64_t> Whole(const Value& value, absl::string_view what) const;

  // The items that a loop over the value sees. Reads a generator to its end.
  absl::StatusOr<std::vector<Value>> Iterate(const Value& value);
  absl::StatusOr<int64_t> Length(const Value& value) const;
  absl::StatusOr<Value> GetAttribute(const Value& object, absl::string_view name);
  absl::StatusOr<Value> GetItem(const Value& object, const Value& key);
  absl::StatusOr<Value> GetSlice(const Value& object, const Value& begin, const Value& end,
                                 const Value& step);
  // "a.b.0" as the filters with an attribute read it.
  absl::StatusOr<Value> GetPath(const Value& object, const Value& path);
  absl::StatusOr<Text> ToText(const Value& value);
  absl::StatusOr<bool> Equal(const Value& a, const Value& b);
  absl::StatusOr<int> Compare(const Value& a, const Value& b);
  absl::StatusOr<bool> Contains(const Value& container, const Value& item);
  absl::Time now() const { return now_; }

 private:
  int64_t steps_left_;
  const absl::Time now_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

absl::StatusOr<Value> ApplyFilter(Runtime& runtime, absl::string_view name, const Value& input,
                                  Arguments arguments);
absl::StatusOr<bool> ApplyTest(Runtime& runtime, absl::string_view name, const Value& subject,
                               Arguments arguments);
// Of strings, dictionaries and lists.
absl::StatusOr<Value> CallMethod(Runtime& runtime, const Value& object, absl::string_view name,
                                 Arguments arguments);
absl::StatusOr<Value> CallFunction(Runtime& runtime, absl::string_view name, Arguments arguments);
// Python's names of methods of the value's type, whether or not there is an implementation.
bool HasMethod(const Value& object, absl::string_view name);

}  // namespace chord::jinja
