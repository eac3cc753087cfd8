// JSON of a request body as a tree, with bounds that hold while it is read. Pure.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace chord::gateway::openai {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

struct JsonLimits {
  size_t max_depth = 24;       // of nested arrays and objects
  size_t max_values = 20'000;  // of all kinds together, keys not counted
};

// nullopt when `body` is not one JSON value in UTF-8 (RFC 8259), holds a NUL byte, names a key of
// an object twice, or exceeds a limit; reading ends where that shows. Strings are bounded by the
// body alone: at most one copy of it is held.
std::optional<Json> ParseJson(const std::string& body, const JsonLimits& limits = {});

// One line; ill-formed UTF-8 is replaced.
std::string Dump(const OrderedJson& json);

}  // namespace chord::gateway::openai
