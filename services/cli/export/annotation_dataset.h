// Answers as a data set of annotated images: what every export format is written from.
// Mirrored by clients/python/src/chord_client/export/dataset.py.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "chord/v1/grounding.pb.h"

namespace chord::cli {

struct Annotation {
  int category = 0;  // index into categories()
  v1::Box box;       // pixels of the upright original
  double confidence = 0;
  bool needs_review = false;
};

struct AnnotatedImage {
  std::string file_name;  // relative to the folder of the images
  int width = 0;          // px, upright
  int height = 0;         // px, upright
  std::string model;
  double score = 0;  // the lowest confidence of its answers; one that has none counts as 0
  std::vector<Annotation> annotations;
};

// Images, boxes and categories in the order in which they were added. Not thread-safe.
class AnnotationDataset {
 public:
  // Adds the boxes of one answer; several prompts about one file make one image. `category` names
  // all of its boxes. Where it is empty, a box has the label of the request that it matches, else
  // the label that the model gave to it, else the prompt.
  // CONFIG_INVALID: the answer has no image size, or the file was added with another one.
  absl::Status Add(const std::string& file_name, const std::string& prompt,
                   const std::string& category, const v1::GroundResponse& answer);

  const std::vector<AnnotatedImage>& images() const { return images_; }
  const std::vector<std::string>& categories() const { return categories_; }

 private:
  int Category(const std::string& name);

  std::vector<AnnotatedImage> images_;
  std::vector<std::string> categories_;
  std::map<std::string, size_t> image_at_;
  std::map<std::string, int> category_at_;
};

}  // namespace chord::cli
