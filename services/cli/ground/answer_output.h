// An answer as `chord ground` shows it: text for people, JSON, an annotated image.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "chord/v1/grounding.pb.h"

namespace chord::cli {

// Whether max_new_tokens ended the answer: objects that were complete are in it, others may be
// missing, and an empty list does not say that the thing is absent.
bool IsTruncated(const v1::GroundResponse& answer);

// One line for each object ("x1 y1 x2 y2  confidence  label"), or what an answer without objects
// means; then the advice.
std::string AnswerText(const v1::GroundResponse& answer);

// The form of a failure with --json.
std::string ErrorJson(const absl::Status& status, int indent);

// `object` (one JSON object) with a first member "file".
std::string WithFileName(const std::string& file, const std::string& object);

// Draws the objects with label and confidence on the upright image, or that nothing was found, and
// writes it: JPEG for .jpg and .jpeg, PNG otherwise. `bytes` is the file that was asked about.
absl::Status WriteAnnotated(absl::string_view bytes, const v1::GroundResponse& answer,
                            const std::string& path);

}  // namespace chord::cli
