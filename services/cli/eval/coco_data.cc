#include "services/cli/eval/coco_data.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace chord::cli::coco {

namespace {

using eval_json::Bad;
using eval_json::Box;
using eval_json::Boxes;
using eval_json::CountGroup;
using eval_json::FileName;
using eval_json::Find;
using eval_json::Id;
using eval_json::IsFlatBox;
using eval_json::kMaxBoxes;
using eval_json::kMaxPrompts;
using eval_json::Prompt;
using eval_json::TextOr;

absl::Status ReadImages(const Json& images, Instances& out) {
  for (const Json& image : images) {
    const std::string where = absl::StrCat("image ", out.order.size());
    CHORD_ASSIGN_OR_RETURN(const std::string id, Id(Find(image, {"id"}), where));
    CHORD_ASSIGN_OR_RETURN(const std::string file, FileName(Find(image, {"file_name"}), where));
    if (!out.files.emplace(id, file).second) return Bad(absl::StrCat(where, " has a used id"));
    out.order.push_back(id);
    if (const Json* caption = Find(image, {"caption"})) {
      CHORD_ASSIGN_OR_RETURN(std::string text, Prompt(caption, where));
      const std::string from = TextOr(Find(image, {"dataset_name"}), "");
      out.captions[id] = {std::move(text), absl::StartsWith(from, "ref")};
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Annotation> ReadAnnotation(const Json& item, const Instances& known,
                                          const std::string& where) {
  Annotation out;
  CHORD_ASSIGN_OR_RETURN(out.image, Id(Find(item, {"image_id"}), where));
  if (known.files.count(out.image) == 0) return Bad(absl::StrCat(where, " is of no known image"));
  if (const Json* category = Find(item, {"category_id"})) {
    CHORD_ASSIGN_OR_RETURN(out.category, Id(category, where));
  }
  const Json* crowd = Find(item, {"iscrowd"});
  out.crowd = crowd != nullptr && *crowd != 0 && *crowd != false;
  const Json* box = Find(item, {"bbox"});
  if (box == nullptr) {
    return Bad(absl::StrCat(where, " lacks \"bbox\"; without boxes there is nothing to measure"));
  }
  const auto rect = Box(*box, false, where);
  if (rect.ok()) {
    out.box = *rect;
  } else if (IsFlatBox(*box)) {
    out.crowd = true;  // can only be passed over with its category
  } else {
    return rect.status();
  }
  return out;
}

absl::Status ReadAnnotations(const Json& annotations, Instances& out) {
  size_t number = 0;
  for (const Json& item : annotations) {
    const std::string where = absl::StrCat("annotation ", number);
    // Only those that prompts name need ids.
    std::string id = absl::StrCat("#", number++);
    if (const Json* given = Find(item, {"id"})) {
      CHORD_ASSIGN_OR_RETURN(id, Id(given, where));
    }
    CHORD_ASSIGN_OR_RETURN(Annotation annotation, ReadAnnotation(item, out, where));
    const std::string image = annotation.image;
    if (!out.annotations.emplace(id, std::move(annotation)).second) {
      return Bad(absl::StrCat(where, " has a used id"));
    }
    out.of_image[image].push_back(id);
  }
  return absl::OkStatus();
}

// The boxes of the annotations that the list `ids` names.
absl::StatusOr<std::vector<Rect>> BoxesOfIds(const Json& ids, const std::string& image,
                                             const Instances& known, const std::string& where) {
  if (ids.size() > kMaxBoxes) return Bad(absl::StrCat(where, ": annotation_ids must be a list"));
  std::vector<Rect> out;
  for (const Json& one : ids) {
    CHORD_ASSIGN_OR_RETURN(const std::string name, Id(&one, where));
    const auto found = known.annotations.find(name);
    if (found == known.annotations.end() || found->second.image != image) {
      return Bad(absl::StrCat(where, " names an annotation that its image does not have"));
    }
    if (found->second.crowd) return Bad(absl::StrCat(where, " names a crowd"));
    out.push_back(found->second.box);
  }
  return out;
}

std::vector<Rect> BoxesOfCategory(const std::string& category, const std::string& image,
                                  const Instances& known) {
  std::vector<Rect> out;
  const auto all = known.of_image.find(image);
  if (all == known.of_image.end()) return out;
  for (const std::string& one : all->second) {
    const Annotation& annotation = known.annotations.at(one);
    if (annotation.category == category && !annotation.crowd) out.push_back(annotation.box);
  }
  return out;
}

// The boxes of a prompt, in whichever way it names them.
absl::StatusOr<std::vector<Rect>> Truth(const Json& prompt, const std::string& image,
                                        const Instances& known, const std::string& where) {
  if (const Json* boxes = Find(prompt, {"boxes"})) return Boxes(*boxes, true, where);
  if (const Json* bboxes = Find(prompt, {"bboxes"})) return Boxes(*bboxes, false, where);
  if (const Json* ids = Find(prompt, {"annotation_ids", "ann_ids"})) {
    if (!ids->is_array()) return Bad(absl::StrCat(where, ": annotation_ids must be a list"));
    return BoxesOfIds(*ids, image, known, where);
  }
  if (const Json* id = Find(prompt, {"annotation_id", "ann_id"})) {
    return BoxesOfIds(Json::array({*id}), image, known, where);
  }
  if (const Json* category = Find(prompt, {"category_id"})) {
    CHORD_ASSIGN_OR_RETURN(const std::string name, Id(category, where));
    return BoxesOfCategory(name, image, known);
  }
  return Bad(absl::StrCat(where, " lacks its truth: annotation_ids, boxes, bboxes or category_id"));
}

// Id and name of each category.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> CategoryNames(const Json& json) {
  const Json* categories = Find(json, {"categories"});
  if (categories == nullptr || !categories->is_array() || categories->size() > 100'000) {
    return Bad("there is no list of \"categories\"");
  }
  std::vector<std::pair<std::string, std::string>> out;
  for (const Json& category : *categories) {
    const std::string where = absl::StrCat("category ", out.size());
    CHORD_ASSIGN_OR_RETURN(std::string id, Id(Find(category, {"id"}), where));
    CHORD_ASSIGN_OR_RETURN(std::string name, Prompt(Find(category, {"name"}), where));
    out.emplace_back(std::move(id), std::move(name));
  }
  return out;
}

}  // namespace

absl::StatusOr<Instances> ReadInstances(const Json& json) {
  Instances out;
  const Json* images = Find(json, {"images"});
  const Json* annotations = Find(json, {"annotations"});
  if (images == nullptr || !images->is_array()) return Bad("there is no list of \"images\"");
  if (annotations == nullptr || !annotations->is_array()) {
    return Bad("there is no list of \"annotations\"");
  }
  CHORD_RETURN_IF_ERROR(ReadImages(*images, out));
  CHORD_RETURN_IF_ERROR(ReadAnnotations(*annotations, out));
  return out;
}

absl::StatusOr<std::vector<EvalItem>> Prompts(const Json& prompts, const Instances& known) {
  std::vector<EvalItem> out;
  for (const Json& prompt : prompts) {
    const std::string where = absl::StrCat("prompt ", out.size());
    EvalItem item;
    CHORD_ASSIGN_OR_RETURN(const std::string image, Id(Find(prompt, {"image_id"}), where));
    const auto file = known.files.find(image);
    if (file == known.files.end()) return Bad(absl::StrCat(where, " is of no known image"));
    item.file = file->second;
    CHORD_ASSIGN_OR_RETURN(
        item.prompt,
        Prompt(Find(prompt, {"prompt", "question", "sentence", "text", "caption"}), where));
    CHORD_ASSIGN_OR_RETURN(item.truth, Truth(prompt, image, known, where));
    item.group = TextOr(Find(prompt, {"kind", "group"}), CountGroup(item.truth.size()));
    out.push_back(std::move(item));
  }
  return out;
}

std::vector<EvalItem> Captions(const Instances& known) {
  std::vector<EvalItem> out;
  for (const std::string& image : known.order) {
    const auto caption = known.captions.find(image);
    if (caption == known.captions.end()) continue;
    EvalItem item;
    item.file = known.files.at(image);
    item.prompt = caption->second.text;
    item.first_box_only = caption->second.referring;
    bool crowd = false;
    if (const auto all = known.of_image.find(image); all != known.of_image.end()) {
      for (const std::string& one : all->second) {
        const Annotation& annotation = known.annotations.at(one);
        item.truth.push_back(annotation.box);
        crowd = crowd || annotation.crowd;
      }
    }
    item.group = item.first_box_only ? "ref" : CountGroup(item.truth.size());
    if (!crowd && item.truth.size() <= kMaxBoxes) out.push_back(std::move(item));
  }
  return out;
}

absl::StatusOr<std::vector<EvalItem>> Categories(const Json& json, const Instances& known,
                                                 const EvalOptions& options) {
  CHORD_ASSIGN_OR_RETURN(const auto names, CategoryNames(json));
  std::vector<EvalItem> out;
  for (size_t i = 0; i < known.order.size(); ++i) {
    const std::string& image = known.order[i];
    std::map<std::string, std::vector<Rect>> present;
    std::set<std::string> crowded;
    if (const auto all = known.of_image.find(image); all != known.of_image.end()) {
      for (const std::string& one : all->second) {
        const Annotation& annotation = known.annotations.at(one);
        present[annotation.category].push_back(annotation.box);
        if (annotation.crowd) crowded.insert(annotation.category);
      }
    }
    const auto ask = [&](const std::string& name, std::vector<Rect> truth) {
      EvalItem item;
      item.file = known.files.at(image);
      item.prompt = absl::StrCat(truth.size() > 1 ? "find every " : "find the ", name);
      item.group = CountGroup(truth.size());
      item.truth = std::move(truth);
      out.push_back(std::move(item));
    };
    std::vector<std::string> absent;
    for (const auto& [id, name] : names) {
      const auto here = present.find(id);
      if (here == present.end()) {
        absent.push_back(name);
      } else if (crowded.count(id) == 0 && here->second.size() <= kMaxBoxes) {
        ask(name, here->second);
      }
    }
    // Steps through the list from image to image, so that every category has its turn.
    const size_t wanted = std::min<size_t>(options.absent_per_image, absent.size());
    for (size_t k = 0; k < wanted; ++k) {
      ask(absent[(i * 7 + k * (absent.size() / wanted)) % absent.size()], {});
    }
    if (out.size() > kMaxPrompts) return Bad("too many prompts");
  }
  return out;
}

absl::StatusOr<std::vector<EvalItem>> Refs(const Json& refs, const Instances& known,
                                           const EvalOptions& options) {
  std::vector<EvalItem> out;
  size_t number = 0;
  for (const Json& ref : refs) {
    const std::string where = absl::StrCat("ref ", number++);
    const std::string split = TextOr(Find(ref, {"split"}), "");
    if (!options.split.empty() && split != options.split) continue;
    EvalItem item;
    item.first_box_only = true;
    item.group = split.empty() ? "ref" : split;
    std::string image;
    if (const Json* id = Find(ref, {"image_id"})) {
      CHORD_ASSIGN_OR_RETURN(image, Id(id, where));
    }
    // RefCOCO's own file_name is of the cut-out, so the image's goes first.
    if (const auto found = known.files.find(image); found != known.files.end()) {
      item.file = found->second;
    } else {
      CHORD_ASSIGN_OR_RETURN(item.file, FileName(Find(ref, {"file_name", "file"}), where));
    }
    if (const Json* box = Find(ref, {"bbox"})) {
      CHORD_ASSIGN_OR_RETURN(const Rect rect, Box(*box, false, where));
      item.truth = {rect};
    } else {
      CHORD_ASSIGN_OR_RETURN(const std::string id,
                             Id(Find(ref, {"ann_id", "annotation_id"}), where));
      const auto found = known.annotations.find(id);
      if (found == known.annotations.end()) {
        return Bad(absl::StrCat(where,
                                " names an annotation that is not there; instances.json must "
                                "lie beside the refs"));
      }
      if (found->second.crowd) continue;
      item.truth = {found->second.box};
    }
    const Json* sentences = Find(ref, {"sentences"});
    if (sentences == nullptr || !sentences->is_array()) {
      return Bad(absl::StrCat(where, " lacks \"sentences\""));
    }
    for (const Json& sentence : *sentences) {
      const Json* text = sentence.is_string() ? &sentence : Find(sentence, {"sent", "raw", "text"});
      CHORD_ASSIGN_OR_RETURN(item.prompt, Prompt(text, where));
      out.push_back(item);
    }
    if (out.size() > kMaxPrompts) return Bad("too many prompts");
  }
  return out;
}

}  // namespace chord::cli::coco
