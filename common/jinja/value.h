// The values of a template: Python's, as far as chat templates see them. All are immutable but for
// namespaces, and all are bounded in nesting, so that no walk over a value recurses without end.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "common/jinja/text.h"

namespace chord::jinja {

class Value;

struct List {
  enum Kind : uint8_t {
    kList,
    kTuple,
    kRange,      // of range()
    kView,       // of dict.items() and the like: no index
    kGenerator,  // of map, select, ...: always true, no length, no index, read once
  };
  Kind kind = kList;
  std::vector<Value> items;
  int depth = 1;                // of nesting, this list included
  size_t weight = 1;            // what a walk over it costs, items seen twice counted twice
  mutable size_t consumed = 0;  // of a generator: items read already
};

// In order of insertion; keys are strings.
class Dict {
 public:
  void Set(const Text& key, Value value);
  const Value* Find(absl::string_view key) const;  // nullptr when absent
  const std::vector<std::pair<Text, Value>>& items() const { return items_; }
  int depth() const { return depth_; }
  size_t weight() const { return weight_; }

 private:
  std::vector<std::pair<Text, Value>> items_;
  absl::flat_hash_map<std::string, size_t> index_;
  int depth_ = 1;
  size_t weight_ = 1;
};

// What has identity: namespaces, macros, loops and functions.
struct Object {
  enum Kind : uint8_t { kNamespace, kMacro, kLoop, kFunction };
  explicit Object(Kind k) : kind(k) {}
  virtual ~Object() = default;
  const Kind kind;
};

struct Namespace : Object {
  Namespace() : Object(kNamespace) {}
  absl::flat_hash_map<std::string, Value> attributes;
};

class Value {
 public:
  enum Kind : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInteger,
    kFloat,
    kString,
    kList,
    kDict,
    kObject,
  };

  Value() = default;  // undefined, without a name
  static Value Undefined(absl::string_view name);
  static Value None() { return Value(std::monostate{}); }
  static Value Bool(bool v) { return Value(v); }
  static Value Integer(int64_t v) { return Value(v); }
  static Value Float(double v) { return Value(v); }
  static Value String(Text text) { return Value(std::make_shared<const Text>(std::move(text))); }
  static Value String(absl::string_view text, Origin origin = Origin::kTemplate) {
    return String(Text(std::string(text), origin));
  }
  static Value MakeList(std::vector<Value> items, List::Kind kind = List::kList);
  static Value MakeDict(Dict dict) { return Value(std::make_shared<const Dict>(std::move(dict))); }
  static Value Of(std::shared_ptr<Object> object) { return Value(std::move(object)); }

  Kind kind() const { return static_cast<Kind>(v_.index()); }
  bool is(Kind k) const { return kind() == k; }
  bool IsNumber() const { return is(kBool) || is(kInteger) || is(kFloat); }
  bool IsWhole() const { return is(kBool) || is(kInteger); }

  // Each for its kind only.
  bool boolean() const { return std::get<bool>(v_); }
  int64_t integer() const { return is(kBool) ? int64_t{boolean()} : std::get<int64_t>(v_); }
  double number() const {
    return is(kFloat) ? std::get<double>(v_) : static_cast<double>(integer());
  }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(v_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(v_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(v_); }
  const std::shared_ptr<Object>& object() const { return std::get<std::shared_ptr<Object>>(v_); }
  bool IsObject(Object::Kind k) const { return is(kObject) && object()->kind == k; }
  // Of an undefined value: what was asked for, or "".
  absl::string_view name() const;

  bool IsTrue() const;
  int depth() const;      // 0 for what nests nothing
  size_t weight() const;  // an upper bound of what a walk over it costs
  // "'str' object", "list", ...: for messages.
  absl::string_view TypeName() const;
  // The same object in memory, or the same None, bool or small number.
  bool SameAs(const Value& other) const;

 private:
  struct Missing {
    std::shared_ptr<const std::string> name;
  };
  template <typename T>
  explicit Value(T v) : v_(std::move(v)) {}

  std::variant<Missing, std::monostate, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Object>>
      v_;
};

// Bounds of lists and dictionaries. The code that builds one checks them.
inline constexpr int kMaxValueDepth = 64;
inline constexpr size_t kMaxValueWeight = 1 << 20;

bool Equal(const Value& a, const Value& b);
// <0, 0, >0 as in Python; nullopt when the two have no order.
std::optional<int> Compare(const Value& a, const Value& b);

// str(value): what {{ value }} writes. nullopt for what has no text of its own (objects, views).
std::optional<Text> ToText(const Value& value);
std::string FloatText(double value);  // repr of a float

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<int> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// json.dumps(value); nullopt for what JSON has no form for.
std::optional<Text> ToJson(const Value& value, const JsonStyle& style);

}  // namespace chord::jinja
