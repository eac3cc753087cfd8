#include "services/cli/export/annotation_dataset.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::cli {

absl::Status AnnotationDataset::Add(const std::string& file_name, const std::string& prompt,
                                    const std::string& category, const v1::GroundResponse& answer) {
  const int width = answer.image_size().width(), height = answer.image_size().height();
  if (width < 1 || height < 1) {
    return errors::ConfigInvalid(absl::StrCat("The answer about ", file_name, " has no size."));
  }
  const auto [at, is_new] = image_at_.try_emplace(file_name, images_.size());
  if (is_new)
    images_.push_back({file_name, width, height, answer.model(), answer.confidence(), {}});
  AnnotatedImage& image = images_[at->second];
  if (image.width != width || image.height != height) {
    return errors::ConfigInvalid(
        absl::StrCat(file_name, " was answered twice, with different sizes of the image."));
  }
  image.score = std::min(image.score, answer.confidence());
  std::map<int, std::string> requested;  // object -> label of the request
  for (const v1::LabelMatch& match : answer.labels()) {
    for (const int object : match.objects()) requested.emplace(object, match.label());
  }
  for (int i = 0; i < answer.objects_size(); ++i) {
    const v1::Object& object = answer.objects(i);
    const auto match = requested.find(i);
    const std::string& name = !category.empty()          ? category
                              : match != requested.end() ? match->second
                              : !object.label().empty()  ? object.label()
                                                         : prompt;
    image.annotations.push_back(
        {Category(name), object.box(), object.confidence(), object.needs_review()});
  }
  return absl::OkStatus();
}

int AnnotationDataset::Category(const std::string& name) {
  const auto [at, is_new] = category_at_.try_emplace(name, static_cast<int>(categories_.size()));
  if (is_new) categories_.push_back(name);
  return at->second;
}

}  // namespace chord::cli
