// The variable "loop" of a for statement.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/jinja/value.h"

namespace chord::jinja {

struct Loop : Object {
  explicit Loop(std::vector<Value> all, int nesting)
      : Object(kLoop), items(std::move(all)), depth(nesting) {}

  Value Attribute(absl::string_view name) const {
    const auto size = static_cast<int64_t>(items.size()), at = static_cast<int64_t>(index);
    if (name == "index") return Value::Integer(at + 1);
    if (name == "index0") return Value::Integer(at);
    if (name == "revindex") return Value::Integer(size - at);
    if (name == "revindex0") return Value::Integer(size - at - 1);
    if (name == "first") return Value::Bool(at == 0);
    if (name == "last") return Value::Bool(at + 1 == size);
    if (name == "length") return Value::Integer(size);
    if (name == "depth") return Value::Integer(depth);
    if (name == "depth0") return Value::Integer(depth - 1);
    if (name == "previtem" && at > 0) return items[index - 1];
    if (name == "nextitem" && at + 1 < size) return items[index + 1];
    return Value::Undefined(name);
  }

  const std::vector<Value> items;
  const int depth;
  size_t index = 0;
  Value changed_last;  // what loop.changed() saw last, when it was called
  bool changed_called = false;
};

}  // namespace chord::jinja
