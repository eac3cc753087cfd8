// COCO and RefCOCO files -> prompts with their boxes. (eval_data.h describes the forms.)
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/eval/eval_data.h"
#include "services/cli/eval/eval_json.h"

namespace chord::cli::coco {

using eval_json::Json;

struct Annotation {
  std::string image, category;
  Rect box;
  bool crowd = false;
};

struct Caption {
  std::string text;
  bool referring = false;  // it means one thing
};

struct Instances {
  std::vector<std::string> order;            // image ids as in the file
  std::map<std::string, std::string> files;  // by image id
  std::map<std::string, Caption> captions;   // likewise
  std::map<std::string, Annotation> annotations;
  std::map<std::string, std::vector<std::string>> of_image;  // annotation ids in order
};

absl::StatusOr<Instances> ReadInstances(const Json& json);

// The prompts of a list of "questions"; of the images' captions; of the images' categories; of a
// list of referring expressions.
absl::StatusOr<std::vector<EvalItem>> Prompts(const Json& prompts, const Instances& known);
std::vector<EvalItem> Captions(const Instances& known);
absl::StatusOr<std::vector<EvalItem>> Categories(const Json& json, const Instances& known,
                                                 const EvalOptions& options);
absl::StatusOr<std::vector<EvalItem>> Refs(const Json& refs, const Instances& known,
                                           const EvalOptions& options);

}  // namespace chord::cli::coco
