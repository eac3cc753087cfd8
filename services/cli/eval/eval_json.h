// Fields of data set files, read with their limits. Errors are CONFIG_INVALID and say which entry
// is wrong; `where` names it.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/cli/eval/eval_metrics.h"

namespace chord::cli::eval_json {

using Json = nlohmann::json;

inline constexpr size_t kMaxPrompts = 2'000'000;
inline constexpr size_t kMaxBoxes = 4096;  // of one prompt

absl::Status Bad(absl::string_view what);

// Without outlines and masks, which are most of a COCO file and not used here.
absl::StatusOr<Json> Parse(absl::string_view text);

// The first field of `names` that there is, or null.
const Json* Find(const Json& object, std::initializer_list<const char*> names);

// Ids are integers, in some files texts.
absl::StatusOr<std::string> Id(const Json* json, absl::string_view where);
// A path below the image folder.
absl::StatusOr<std::string> FileName(const Json* json, absl::string_view where);
absl::StatusOr<std::string> Prompt(const Json* json, absl::string_view where);
// A short text, or `fallback`.
std::string TextOr(const Json* json, std::string fallback);

// `corners`: [x1, y1, x2, y2], else [x, y, width, height]; with an area.
absl::StatusOr<Rect> Box(const Json& json, bool corners, absl::string_view where);
absl::StatusOr<std::vector<Rect>> Boxes(const Json& json, bool corners, absl::string_view where);
// Four numbers in range, whatever their area.
bool IsFlatBox(const Json& box);

// The group of a prompt by the number of its boxes.
std::string CountGroup(size_t truth);

}  // namespace chord::cli::eval_json
