// Data sets with known boxes -> prompts. Files come from anywhere: nothing in them is trusted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/cli/eval/eval_metrics.h"

namespace chord::cli {

struct EvalItem {
  std::string file;  // relative, below the image folder; slashes, no ".."
  std::string prompt;
  std::vector<Rect> truth;      // upright px; empty: it is not there
  std::string group;            // kind of prompt, for tables
  bool first_box_only = false;  // referring expressions: the answer's first box is the answer
};

struct EvalOptions {
  std::string split = "";    // RefCOCO: only this split; empty: all
  int absent_per_image = 1;  // COCO without prompts: asked for what is not there; 0 - 10
};

// Four forms, told apart by what the JSON holds:
// * scenes: a list of {"file", "prompt", "boxes": [[x1, y1, x2, y2], ...]} (tools/train_nano),
//   grouped by "hard", else "kind", when it is there;
// * COCO: {"images", "annotations", "categories"}. Without "questions" each category of an image
//   is asked for ("find the dog", "find every dog" when there are several), and absent_per_image
//   categories that it lacks; a category with crowds is left out. With "questions", each is
//   {"image_id", "prompt"} ("question", "sentence" and "text" are taken too) and its truth:
//   "annotation_ids", "boxes" ([x1, y1, x2, y2]), "bboxes" ([x, y, width, height]) or
//   "category_id";
// * COCO whose images have a "caption": each is a prompt, and its truth all boxes of its image, of
//   which a referring expression ("dataset_name" begins with "ref") has one;
// * RefCOCO: {"refs", "images", "annotations"}, or a list of refs, which then takes images and
//   annotations from `instances`. A ref has "image_id" or "file_name", "ann_id" or "bbox" ([x, y,
//   width, height]) and "sentences", a list of {"sent" or "raw"} or of texts; each is a prompt.
//
// Items come in the order of the file. CONFIG_INVALID says what is wrong, and where.
absl::StatusOr<std::vector<EvalItem>> ParseEvalData(absl::string_view json,
                                                    absl::string_view instances,
                                                    const EvalOptions& options);

struct EvalData {
  std::string name;    // of the annotation file
  std::string bytes;   // what it holds
  std::string images;  // folder of the images
  std::vector<EvalItem> items;
};
// `path`: the file, or a folder with scenes.json, annotations.json, refs.json or instances.json, or
// with one file refs*.json or instances*.json. `images`: empty: the file's folder. Images that
// are not there are looked for in its images/ too; CONFIG_INVALID when none of the first is
// anywhere.
absl::StatusOr<EvalData> LoadEvalData(const std::string& path, const std::string& images,
                                      const EvalOptions& options);

// RefCOCO is published as Python pickles, and loading one runs what is in it. CONFIG_INVALID says
// how to make JSON of it; OK when `bytes` is none.
absl::Status RefusePickle(const std::string& path, absl::string_view bytes);

// The folder of the images of a data file: where the first of `files` that is anywhere is.
// CONFIG_INVALID as of LoadEvalData.
absl::StatusOr<std::string> ImageFolder(const std::string& data_file, const std::string& images,
                                        absl::Span<const std::string> files);

}  // namespace chord::cli
