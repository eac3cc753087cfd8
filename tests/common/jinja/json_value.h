// JSON -> values of a template, the way the tests write conversations.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "common/jinja/value.h"

namespace chord::jinja {

inline Value FromJson(const nlohmann::ordered_json& json, Origin origin = Origin::kTemplate) {
  if (json.is_boolean()) return Value::Bool(json.get<bool>());
  if (json.is_number_integer()) return Value::Integer(json.get<int64_t>());
  if (json.is_number()) return Value::Float(json.get<double>());
  if (json.is_string()) return Value::String(json.get<std::string>(), origin);
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& item : json) items.push_back(FromJson(item, origin));
    return Value::MakeList(std::move(items));
  }
  if (!json.is_object()) return Value::None();
  Dict dict;
  for (const auto& [key, item] : json.items()) {
    dict.Set(Text(key), FromJson(item, key == "text" ? Origin::kUser : Origin::kTemplate));
  }
  return Value::MakeDict(std::move(dict));
}

// The variables of transformers' renderer.
inline std::vector<std::pair<std::string, Value>> Variables(
    const nlohmann::ordered_json& messages) {
  return {{"messages", FromJson(messages)},
          {"tools", Value::None()},
          {"documents", Value::None()},
          {"add_generation_prompt", Value::Bool(true)},
          {"eos_token", Value::String("<|im_end|>")},
          {"pad_token", Value::String("<|endoftext|>")}};
}

}  // namespace chord::jinja
