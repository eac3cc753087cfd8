#include "services/gateway/openai/answer_schema.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/http/problem.h"
#include "services/gateway/openai/error.h"

namespace chord::gateway::openai {
namespace {

using Json = nlohmann::json;
using nlohmann::ordered_json;

constexpr int kMaxReferences = 8;  // in a row
constexpr absl::string_view kSchema = "response_format.json_schema.schema";

absl::Status Unsupported(absl::string_view param) {
  return WithParam(
      errors::ParameterUnsupported(
          param,
          "a list of objects with \"bbox_2d\" (4 numbers) or \"point_2d\" (2 numbers) and "
          "optionally \"label\", or an object whose only property is such a list"),
      param);
}

// Follows {"$ref": "#/$defs/Name"}; null when it leads nowhere.
const Json* Resolve(const Json* schema, const Json& root) {
  for (int i = 0; i < kMaxReferences && schema != nullptr && schema->is_object(); ++i) {
    const auto ref = schema->find("$ref");
    if (ref == schema->end()) return schema;
    if (!ref->is_string()) return nullptr;
    const auto& text = ref->get_ref<const std::string&>();
    absl::string_view name = text;
    const Json* next = nullptr;
    for (const char* defs : {"$defs", "definitions"}) {
      name = text;
      if (!absl::ConsumePrefix(&name, absl::StrCat("#/", defs, "/"))) continue;
      const auto found = root.find(defs);
      if (found == root.end() || !found->is_object()) return nullptr;
      const auto target = found->find(std::string(name));
      if (target == found->end()) return nullptr;
      next = &*target;
      break;
    }
    schema = next;
  }
  return nullptr;
}

// Whether `schema` is an object of that type whose other keys restrict nothing that we do not keep.
bool IsPlain(const Json* schema, const char* type, std::initializer_list<const char*> keys) {
  if (schema == nullptr || !schema->is_object()) return false;
  const auto found = schema->find("type");
  if (found == schema->end() || *found != type) return false;
  for (const auto& [key, value] : schema->items()) {
    if (key == "type" || key == "title" || key == "description" || key == "$defs" ||
        key == "definitions" || key == "$schema") {
      continue;
    }
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) return false;
  }
  return true;
}

const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

bool IsNumber(const Json* schema) {
  return IsPlain(schema, "integer", {"minimum"}) || IsPlain(schema, "number", {"minimum"});
}

// An array of `count` numbers.
bool IsNumbers(const Json* schema, size_t count, const Json& root) {
  schema = Resolve(schema, root);
  if (!IsPlain(schema, "array", {"items", "prefixItems", "minItems", "maxItems"})) return false;
  for (const char* bound : {"minItems", "maxItems"}) {
    if (const Json* value = Find(*schema, bound); value != nullptr && *value != count) return false;
  }
  if (const Json* prefix = Find(*schema, "prefixItems")) {
    return prefix->is_array() && prefix->size() == count &&
           std::all_of(prefix->begin(), prefix->end(),
                       [&root](const Json& item) { return IsNumber(Resolve(&item, root)); });
  }
  const Json* items = Find(*schema, "items");
  return items != nullptr && IsNumber(Resolve(items, root));
}

// Whether every name that must be there is there.
bool RequiresOnly(const Json& schema, const Json& properties) {
  const Json* required = Find(schema, "required");
  return required == nullptr ||
         (required->is_array() &&
          std::all_of(required->begin(), required->end(), [&](const Json& name) {
            return name.is_string() && properties.contains(name.get_ref<const std::string&>());
          }));
}

// The properties of an object schema; null when it is none.
const Json* Properties(const Json* schema) {
  if (!IsPlain(schema, "object", {"properties", "required", "additionalProperties"})) {
    return nullptr;
  }
  const Json* properties = Find(*schema, "properties");
  if (properties == nullptr || !properties->is_object()) return nullptr;
  return RequiresOnly(*schema, *properties) ? properties : nullptr;
}

// Fills kind and labels of `out` from the list's schema.
bool ReadList(const Json* schema, const Json& root, AnswerSchema& out) {
  schema = Resolve(schema, root);
  if (!IsPlain(schema, "array", {"items"})) return false;
  const Json* item = Find(*schema, "items");
  if (item == nullptr) return false;
  const Json* properties = Properties(Resolve(item, root));
  if (properties == nullptr) return false;
  for (const auto& [name, value] : properties->items()) {
    if (name == "label") {
      out.labels = true;
      if (!IsPlain(Resolve(&value, root), "string", {})) return false;
    } else if (name == "bbox_2d" && out.kind == AnswerSchema::Kind::kNone) {
      out.kind = AnswerSchema::Kind::kBoxes;
      if (!IsNumbers(&value, 4, root)) return false;
    } else if (name == "point_2d" && out.kind == AnswerSchema::Kind::kNone) {
      out.kind = AnswerSchema::Kind::kPoints;
      if (!IsNumbers(&value, 2, root)) return false;
    } else {
      return false;
    }
  }
  return out.kind != AnswerSchema::Kind::kNone;
}

std::string Item(const AnswerSchema& schema, const char* key, ordered_json numbers,
                 const std::string& label) {
  ordered_json out;
  out[key] = std::move(numbers);
  if (schema.labels) out["label"] = label;
  return http::Dump(out);
}

}  // namespace

absl::StatusOr<AnswerSchema> ParseAnswerSchema(const Json& format) {
  AnswerSchema out;
  if (!format.is_object()) {
    return WithParam(errors::ParameterInvalid("response_format", "an object"), "response_format");
  }
  const Json* type = Find(format, "type");
  if (type != nullptr && *type == "text") return out;
  if (type == nullptr || *type != "json_schema") {
    return WithParam(
        errors::ParameterUnsupported("response_format.type", "\"text\" or \"json_schema\""),
        "response_format.type");
  }
  const Json* named = Find(format, "json_schema");
  const Json* root = named != nullptr && named->is_object() ? Find(*named, "schema") : nullptr;
  if (root == nullptr || !root->is_object()) return Unsupported(kSchema);
  const Json* schema = Resolve(root, *root);
  if (const Json* properties = Properties(schema);
      properties != nullptr && properties->size() == 1) {
    out.property = properties->begin().key();
    schema = &*properties->begin();
  }
  if (!ReadList(schema, *root, out)) return Unsupported(kSchema);
  return out;
}

std::string ListBegin(const AnswerSchema& schema) {
  if (schema.property.empty()) return "[";
  return absl::StrCat("{", http::Dump(ordered_json(schema.property)), ": [");
}

std::string ListItem(const AnswerSchema& schema, const GroundObject& object) {
  return Item(schema, "bbox_2d", {object.box.x1, object.box.y1, object.box.x2, object.box.y2},
              object.label);
}

std::string ListItem(const AnswerSchema& schema, const GroundPoint& point) {
  return Item(schema, "point_2d", {point.at.x, point.at.y}, point.label);
}

std::string ListEnd(const AnswerSchema& schema) { return schema.property.empty() ? "]" : "]}"; }

}  // namespace chord::gateway::openai
