#include "common/jinja/runtime.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/jinja/loop.h"

namespace chord::jinja {
namespace {

// Python's slice.indices: clamps `begin` and `end` to a sequence of `size` items.
struct Range {
  int64_t begin, end, step;
};
Range Clamp(std::optional<int64_t> begin, std::optional<int64_t> end, int64_t step, int64_t size) {
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  const auto clamp = [&](std::optional<int64_t> at, int64_t missing) {
    if (!at) return missing;
    const int64_t from_front = *at < 0 ? std::max<int64_t>(*at, -size - 1) + size : *at;
    return std::clamp(from_front, low, high);
  };
  return {clamp(begin, step > 0 ? low : high), clamp(end, step > 0 ? high : low), step};
}

// Byte offsets of the characters of `text`, and its end.
std::vector<size_t> Offsets(const Text& text) {
  std::vector<size_t> out;
  for (size_t at = 0; at < text.size(); at = Advance(text.bytes(), at, 1)) out.push_back(at);
  out.push_back(text.size());
  return out;
}

}  // namespace

Runtime::~Runtime() {
  for (const auto& ns : namespaces_) ns->attributes.clear();
}

absl::Status Runtime::Charge(size_t steps) {
  if (steps > static_cast<size_t>(steps_left_)) {
    steps_left_ = 0;
    return Fail("the template takes too many steps or makes too much text");
  }
  steps_left_ -= static_cast<int64_t>(steps);
  return absl::OkStatus();
}

absl::Status Runtime::ChargeSearch(const Text& where, const Text& what) {
  return Charge((1 + where.size() / 32) * (1 + what.size() / 256));
}

absl::StatusOr<Value> Runtime::NewString(Text text) {
  CHORD_RETURN_IF_ERROR(ChargeBytes(text.size()));
  return Value::String(std::move(text));
}

absl::StatusOr<Value> Runtime::NewList(std::vector<Value> items, List::Kind kind) {
  CHORD_RETURN_IF_ERROR(Charge(1 + items.size()));
  Value list = Value::MakeList(std::move(items), kind);
  if (list.depth() > kMaxValueDepth || list.weight() > kMaxValueWeight) {
    return Fail("a list is too large or nests too deeply");
  }
  return list;
}

absl::StatusOr<Value> Runtime::NewDict(Dict dict) {
  CHORD_RETURN_IF_ERROR(Charge(1 + dict.items().size()));
  if (dict.depth() > kMaxValueDepth || dict.weight() > kMaxValueWeight) {
    return Fail("a dictionary is too large or nests too deeply");
  }
  return Value::MakeDict(std::move(dict));
}

std::shared_ptr<Namespace> Runtime::NewNamespace() {
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

absl::StatusOr<Bound> Runtime::Bind(absl::string_view callee, Arguments arguments,
                                    std::initializer_list<absl::string_view> parameters,
                                    size_t required) const {
  Bound bound(parameters.size());
  if (arguments.positional.size() > parameters.size()) {
    return Fail(callee, " takes at most ", parameters.size(), " arguments");
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound.at(i) = std::move(arguments.positional[i]);
  }
  for (auto& [name, value] : arguments.named) {
    const auto at = std::find(parameters.begin(), parameters.end(), name);
    if (at == parameters.end()) {
      return Fail("the argument \"", name, "\" of ", callee, " is not supported");
    }
    const auto i = static_cast<size_t>(at - parameters.begin());
    if (bound[i] != nullptr) return Fail(callee, " got its argument \"", name, "\" twice");
    bound.at(i) = std::move(value);
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i] == nullptr) return Fail(callee, " lacks its argument ", i + 1);
  }
  return bound;
}

absl::StatusOr<int64_t> Runtime::Whole(const Value& value, absl::string_view what) const {
  if (!value.IsWhole()) return Fail(what, " must be an integer, not ", value.TypeName());
  return std::clamp<int64_t>(value.integer(), std::numeric_limits<int32_t>::min(),
                             std::numeric_limits<int32_t>::max());
}

absl::StatusOr<std::vector<Value>> Runtime::Iterate(const Value& value) {
  std::vector<Value> out;
  switch (value.kind()) {
    case Value::kUndefined:
      return out;
    case Value::kList: {
      const List& list = value.list();
      CHORD_RETURN_IF_ERROR(Charge(list.items.size()));
      const size_t from = list.kind == List::kGenerator ? list.consumed : 0;
      out.assign(list.items.begin() + static_cast<ptrdiff_t>(from), list.items.end());
      list.consumed = list.items.size();
      return out;
    }
    case Value::kDict:
      for (const auto& [key, item] : value.dict().items()) {
        CHORD_ASSIGN_OR_RETURN(Value name, NewString(key));
        out.push_back(std::move(name));
      }
      return out;
    case Value::kString: {
      const Text& text = value.text();
      for (size_t at = 0; at < text.size();) {
        const size_t next = Advance(text.bytes(), at, 1);
        CHORD_ASSIGN_OR_RETURN(Value character, NewString(text.Sub(at, next)));
        out.push_back(std::move(character));
        at = next;
      }
      return out;
    }
    default:
      return Fail(value.TypeName(), " cannot be looped over");
  }
}

absl::StatusOr<int64_t> Runtime::Length(const Value& value) const {
  switch (value.kind()) {
    case Value::kUndefined:
      return 0;
    case Value::kString:
      return static_cast<int64_t>(value.text().ascii() ? value.text().size()
                                                       : CountCharacters(value.text().bytes()));
    case Value::kList:
      if (value.list().kind == List::kGenerator) break;
      return static_cast<int64_t>(value.list().items.size());
    case Value::kDict:
      return static_cast<int64_t>(value.dict().items().size());
    default:
      break;
  }
  return Fail(value.TypeName(), " has no length");
}

absl::StatusOr<Value> Runtime::GetAttribute(const Value& object, absl::string_view name) {
  switch (object.kind()) {
    case Value::kUndefined:
      return Fail(object.name().empty() ? "a value" : absl::StrCat("\"", object.name(), "\""),
                  " is undefined, so it has no \"", name, "\"");
    case Value::kObject:
      if (object.IsObject(Object::kNamespace)) {
        const auto& attributes = static_cast<const Namespace&>(*object.object()).attributes;
        const auto found = attributes.find(name);
        return found == attributes.end() ? Value::Undefined(name) : found->second;
      }
      if (object.IsObject(Object::kLoop)) {
        return static_cast<const Loop&>(*object.object()).Attribute(name);
      }
      return Value::Undefined(name);
    default:
      break;
  }
  if (HasMethod(object, name)) {
    return Fail("the method \"", name, "\" is supported in a call only");
  }
  if (object.is(Value::kDict)) {
    const Value* found = object.dict().Find(name);
    if (found != nullptr) return *found;
  }
  return Value::Undefined(name);
}

absl::StatusOr<Value> Runtime::GetItem(const Value& object, const Value& key) {
  if (key.is(Value::kString)) {
    const std::string& name = key.text().bytes();
    if (object.is(Value::kDict)) {
      const Value* found = object.dict().Find(name);
      if (found != nullptr) return *found;
    }
    if (!name.empty() && name[0] == '_') return Value::Undefined(name);
    return GetAttribute(object, name);
  }
  if (object.is(Value::kUndefined)) return GetAttribute(object, "item");
  if (!key.IsWhole()) return Value::Undefined("item");
  int64_t index = key.integer();
  if (object.is(Value::kList)) {
    const List& list = object.list();
    const auto size = static_cast<int64_t>(list.items.size());
    if (list.kind == List::kView || list.kind == List::kGenerator) return Value::Undefined("item");
    if (index < 0) index += size;
    if (index < 0 || index >= size) return Value::Undefined("item");
    return list.items[static_cast<size_t>(index)];
  }
  if (object.is(Value::kString)) {
    const Text& text = object.text();
    CHORD_RETURN_IF_ERROR(text.ascii() ? Charge(1) : ChargeBytes(text.size()));
    CHORD_ASSIGN_OR_RETURN(const int64_t size, Length(object));
    if (index < 0) index += size;
    if (index < 0 || index >= size) return Value::Undefined("item");
    const auto at = static_cast<size_t>(index);
    const size_t begin = text.ascii() ? at : Advance(text.bytes(), 0, at);
    return NewString(text.Sub(begin, Advance(text.bytes(), begin, 1)));
  }
  return Value::Undefined("item");
}

absl::StatusOr<Value> Runtime::GetSlice(const Value& object, const Value& begin, const Value& end,
                                        const Value& step) {
  std::optional<int64_t> parts[3];
  const Value* const values[] = {&begin, &end, &step};
  for (int i = 0; i < 3; ++i) {
    if (values[i]->is(Value::kNone)) continue;
    CHORD_ASSIGN_OR_RETURN(parts[i], Whole(*values[i], "a part of a slice"));
  }
  const int64_t by = parts[2].value_or(1);
  if (by == 0) return Fail("the step of a slice is 0");
  if (object.is(Value::kList) && object.list().kind != List::kView &&
      object.list().kind != List::kGenerator) {
    const List& list = object.list();
    const Range r = Clamp(parts[0], parts[1], by, static_cast<int64_t>(list.items.size()));
    std::vector<Value> items;
    for (int64_t i = r.begin; by > 0 ? i < r.end : i > r.end; i += by) {
      items.push_back(list.items[static_cast<size_t>(i)]);
    }
    return NewList(std::move(items), list.kind);
  }
  if (object.is(Value::kString)) {
    const Text& text = object.text();
    CHORD_RETURN_IF_ERROR(ChargeBytes(text.size()));
    const std::vector<size_t> at = Offsets(text);
    const Range r = Clamp(parts[0], parts[1], by, static_cast<int64_t>(at.size()) - 1);
    if (by == 1) {
      const auto first = static_cast<size_t>(r.begin);
      const auto last = static_cast<size_t>(std::max(r.begin, r.end));
      return NewString(text.Sub(at[first], at[last]));
    }
    Text out;
    for (int64_t i = r.begin; by > 0 ? i < r.end : i > r.end; i += by) {
      out.Append(text, at[static_cast<size_t>(i)], at[static_cast<size_t>(i) + 1]);
    }
    return NewString(std::move(out));
  }
  return Fail(object.TypeName(), " cannot be sliced");
}

absl::StatusOr<Value> Runtime::GetPath(const Value& object, const Value& path) {
  if (path.IsWhole()) return GetItem(object, path);
  if (!path.is(Value::kString)) return Fail("an attribute must be a string");
  Value at = object;
  for (const absl::string_view part : absl::StrSplit(path.text().bytes(), '.')) {
    int64_t index = 0;
    const bool digits = !part.empty() && std::all_of(part.begin(), part.end(),
                                                     [](char c) { return c >= '0' && c <= '9'; });
    const Value key =
        digits && absl::SimpleAtoi(part, &index) ? Value::Integer(index) : Value::String(part);
    CHORD_ASSIGN_OR_RETURN(at, GetItem(at, key));
  }
  return at;
}

absl::StatusOr<Text> Runtime::ToText(const Value& value) {
  CHORD_RETURN_IF_ERROR(Charge(value.weight()));
  std::optional<Text> text = jinja::ToText(value);
  if (!text) return Fail(value.TypeName(), " of this kind has no text");
  return *std::move(text);
}

absl::StatusOr<bool> Runtime::Equal(const Value& a, const Value& b) {
  CHORD_RETURN_IF_ERROR(Charge(std::min(a.weight(), b.weight())));
  return jinja::Equal(a, b);
}

absl::StatusOr<int> Runtime::Compare(const Value& a, const Value& b) {
  CHORD_RETURN_IF_ERROR(Charge(std::min(a.weight(), b.weight())));
  const std::optional<int> order = jinja::Compare(a, b);
  if (!order) return Fail(a.TypeName(), " and ", b.TypeName(), " have no order");
  return *order;
}

absl::StatusOr<bool> Runtime::Contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Value::kUndefined:
      return false;
    case Value::kString:
      if (!item.is(Value::kString)) return Fail("only a string can be in a string");
      CHORD_RETURN_IF_ERROR(ChargeSearch(container.text(), item.text()));
      return container.text().bytes().find(item.text().bytes()) != std::string::npos;
    case Value::kDict:
      return item.is(Value::kString) && container.dict().Find(item.text().bytes()) != nullptr;
    case Value::kList: {
      CHORD_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(container));
      for (const Value& one : items) {
        CHORD_ASSIGN_OR_RETURN(const bool equal, Equal(one, item));
        if (equal) return true;
      }
      return false;
    }
    default:
      return Fail("nothing can be in ", container.TypeName());
  }
}

}  // namespace chord::jinja
