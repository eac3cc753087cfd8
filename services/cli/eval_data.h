// Data sets with known boxes -> questions. Files come from anywhere: nothing in them is trusted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/cli/measures.h"

namespace chord::cli {

struct EvalItem {
  std::string file;  // relative, below the picture folder; slashes, no ".."
  std::string prompt;
  std::vector<Rect> truth;      // upright px; empty: it is not there
  std::string group;            // kind of question, for tables
  bool first_box_only = false;  // referring expressions: the answer's first box is the answer
};

struct EvalOptions {
  std::string split = "";    // RefCOCO: only this split; empty: all
  int absent_per_image = 1;  // COCO without questions: asked for what is not there; 0 - 10
};

// Three forms, told apart by what the JSON holds:
// * scenes: a list of {"file", "prompt", "boxes": [[x1, y1, x2, y2], ...]} (tools/train_nano),
//   grouped by "hard", else "kind", when it is there;
// * COCO: {"images", "annotations", "categories"}. Without "questions" each category of a picture
// is
//   asked for ("find the dog", "find every dog" when there are several), and absent_per_image
//   categories that it lacks; a category with crowds is left out. With "questions", each is
//   {"image_id", "prompt"} ("question", "sentence" and "text" are taken too) and its truth:
//   "annotation_ids", "boxes" ([x1, y1, x2, y2]), "bboxes" ([x, y, width, height]) or
//   "category_id";
// * RefCOCO: {"refs", "images", "annotations"}, or a list of refs, which then takes images and
//   annotations from `instances`. A ref has "image_id" or "file_name", "ann_id" or "bbox" ([x, y,
//   width, height]) and "sentences", a list of {"sent" or "raw"} or of texts; each is a question.
//
// Items come in the order of the file. CONFIG_INVALID says what is wrong, and where.
absl::StatusOr<std::vector<EvalItem>> ParseEvalData(absl::string_view json,
                                                    absl::string_view instances,
                                                    const EvalOptions& options);

struct EvalData {
  std::string name;    // of the annotation file
  std::string bytes;   // what it holds
  std::string images;  // folder of the pictures
  std::vector<EvalItem> items;
};
// `path`: the file, or a folder with scenes.json, annotations.json, refs.json or instances.json.
// `images`: empty: the file's folder. A file that is not there is looked for in its images/ too.
absl::StatusOr<EvalData> LoadEvalData(const std::string& path, const std::string& images,
                                      const EvalOptions& options);

// The whole of a file of at most `limit` bytes; CONFIG_INVALID names it.
absl::StatusOr<std::string> ReadWhole(const std::string& path, int64_t limit);

}  // namespace chord::cli
