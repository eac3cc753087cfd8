// `response_format` of a chat request: which JSON schemas the service can keep. Pure.
//
// An answer to a JSON schema is the list of boxes, or of points, in pixels of the original image:
//
//   [{"bbox_2d": [x1, y1, x2, y2], "label": "cup"}, …]     {"bbox_2d"} alone or with {"label"}
//   [{"point_2d": [x, y], "label": "cup"}, …]
//
// or an object whose only property is such a list: {"objects": [ … ]}.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/grounding/points.h"
#include "services/gateway/ground.h"

namespace chord::gateway::openai {

struct AnswerSchema {
  enum class Kind { kNone, kBoxes, kPoints };
  Kind kind = Kind::kNone;  // kNone: the answer is the model's own text
  std::string property;     // of the object that holds the list; empty: the list itself
  bool labels = false;      // items have a "label"
};

// `format`: the value of response_format. PARAMETER_UNSUPPORTED with the param at fault for a type
// other than text and json_schema, and for a schema of another form. Local references
// ("#/$defs/…") are followed.
absl::StatusOr<AnswerSchema> ParseAnswerSchema(const nlohmann::json& format);

// The pieces of a content that keeps `schema`: ListBegin, items separated by ", ", ListEnd.
std::string ListBegin(const AnswerSchema& schema);
std::string ListItem(const AnswerSchema& schema, const GroundObject& object);
std::string ListItem(const AnswerSchema& schema, const GroundPoint& point);
std::string ListEnd(const AnswerSchema& schema);

}  // namespace chord::gateway::openai
