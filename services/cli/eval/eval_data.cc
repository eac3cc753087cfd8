#include "services/cli/eval/eval_data.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{512} << 20;
constexpr size_t kMaxPrompts = 2'000'000;
constexpr size_t kMaxBoxes = 4096;  // of one prompt
constexpr size_t kMaxPromptBytes = 65'536;
constexpr double kMaxPx = 1e6;

absl::Status Bad(absl::string_view what) {
  return errors::ConfigInvalid(absl::StrCat("The data set: ", what, "."));
}

// Outlines and masks are most of a COCO file and no business of ours.
bool Keep(int, Json::parse_event_t event, Json& parsed) {
  return event != Json::parse_event_t::key ||
         (parsed != "segmentation" && parsed != "keypoints" && parsed != "counts");
}

absl::StatusOr<Json> Parse(absl::string_view text) {
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");
  const JsonLimits limits{32, 200'000'000, 1 << 20};
  if (const absl::Status bounds = CheckJsonBounds(text, limits); !bounds.ok()) {
    return Bad(bounds.message());
  }
  Json json = Json::parse(text.begin(), text.end(), Keep, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad("the file is not valid JSON");
  return json;
}

const Json* Find(const Json& object, std::initializer_list<const char*> names) {
  if (!object.is_object()) return nullptr;
  for (const char* name : names) {
    if (const auto found = object.find(name); found != object.end()) return &*found;
  }
  return nullptr;
}

// Ids are integers, in some files texts.
absl::StatusOr<std::string> Id(const Json* json, absl::string_view where) {
  if (json != nullptr && json->is_number_integer()) return json->dump();
  if (json != nullptr && json->is_string() && json->get_ref<const std::string&>().size() <= 256) {
    return absl::StrCat("\"", json->get_ref<const std::string&>());
  }
  return Bad(absl::StrCat(where, " needs an id, an integer or a text"));
}

absl::StatusOr<std::string> FileName(const Json* json, absl::string_view where) {
  const std::string name = json != nullptr && json->is_string() ? json->get<std::string>() : "";
  bool plain = !name.empty() && name.size() <= 1024 && name[0] != '/' &&
               name.find('\0') == std::string::npos && name.find('\\') == std::string::npos;
  for (const absl::string_view part : absl::StrSplit(name, '/')) plain &= part != "..";
  if (!plain) return Bad(absl::StrCat(where, " needs a file name below the image folder"));
  return name;
}

absl::StatusOr<std::string> Prompt(const Json* json, absl::string_view where) {
  const std::string text = json != nullptr && json->is_string() ? json->get<std::string>() : "";
  if (text.empty() || text.size() > kMaxPromptBytes) {
    return Bad(absl::StrCat(where, " needs a prompt of 1 to ", kMaxPromptBytes, " bytes"));
  }
  return text;
}

absl::StatusOr<Rect> Box(const Json& json, bool corners, absl::string_view where) {
  double v[4] = {};
  bool fine = json.is_array() && json.size() == 4;
  for (size_t i = 0; fine && i < 4; ++i) {
    fine = json[i].is_number();
    if (fine) v[i] = json[i].get<double>();
    fine = fine && std::abs(v[i]) <= kMaxPx;  // false for NaN
  }
  const Rect out =
      corners ? Rect{v[0], v[1], v[2], v[3]} : Rect{v[0], v[1], v[0] + v[2], v[1] + v[3]};
  if (!fine || !(out.x2 > out.x1) || !(out.y2 > out.y1)) {
    return Bad(absl::StrCat(where, corners ? ": a box is [x1, y1, x2, y2] with an area"
                                           : ": a bbox is [x, y, width, height] with an area"));
  }
  return out;
}

absl::StatusOr<std::vector<Rect>> Boxes(const Json& json, bool corners, absl::string_view where) {
  if (!json.is_array() || json.size() > kMaxBoxes) {
    return Bad(absl::StrCat(where, ": boxes must be a list of at most ", kMaxBoxes));
  }
  std::vector<Rect> out;
  for (const Json& item : json) {
    CHORD_ASSIGN_OR_RETURN(const Rect box, Box(item, corners, where));
    out.push_back(box);
  }
  return out;
}

std::string CountGroup(size_t truth) {
  return truth == 0 ? "absent" : truth == 1 ? "one" : "several";
}

std::string TextOr(const Json* json, std::string fallback) {
  if (json == nullptr || !json->is_string()) return fallback;
  const auto& text = json->get_ref<const std::string&>();
  return text.empty() || text.size() > 64 ? fallback : text;
}

absl::StatusOr<std::vector<EvalItem>> Scenes(const Json& rows) {
  std::vector<EvalItem> out;
  for (const Json& row : rows) {
    const std::string where = absl::StrCat("scene ", out.size());
    EvalItem item;
    CHORD_ASSIGN_OR_RETURN(item.file, FileName(Find(row, {"file"}), where));
    CHORD_ASSIGN_OR_RETURN(item.prompt, Prompt(Find(row, {"prompt"}), where));
    const Json* boxes = Find(row, {"boxes"});
    if (boxes == nullptr) return Bad(absl::StrCat(where, " lacks \"boxes\""));
    CHORD_ASSIGN_OR_RETURN(item.truth, Boxes(*boxes, true, where));
    item.group = TextOr(Find(row, {"hard", "kind"}), CountGroup(item.truth.size()));
    out.push_back(std::move(item));
  }
  return out;
}

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

absl::StatusOr<Instances> ReadInstances(const Json& json) {
  Instances out;
  const Json* images = Find(json, {"images"});
  const Json* annotations = Find(json, {"annotations"});
  if (images == nullptr || !images->is_array()) return Bad("there is no list of \"images\"");
  if (annotations == nullptr || !annotations->is_array()) {
    return Bad("there is no list of \"annotations\"");
  }
  for (const Json& image : *images) {
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
  size_t number = 0;
  for (const Json& item : *annotations) {
    const std::string where = absl::StrCat("annotation ", number);
    // Only those that prompts name need ids.
    std::string id = absl::StrCat("#", number++);
    if (const Json* given = Find(item, {"id"})) {
      CHORD_ASSIGN_OR_RETURN(id, Id(given, where));
    }
    Annotation one;
    CHORD_ASSIGN_OR_RETURN(one.image, Id(Find(item, {"image_id"}), where));
    if (out.files.count(one.image) == 0) return Bad(absl::StrCat(where, " is of no known image"));
    if (const Json* category = Find(item, {"category_id"})) {
      CHORD_ASSIGN_OR_RETURN(one.category, Id(category, where));
    }
    const Json* crowd = Find(item, {"iscrowd"});
    one.crowd = crowd != nullptr && *crowd != 0 && *crowd != false;
    const Json* box = Find(item, {"bbox"});
    if (box == nullptr) {
      return Bad(absl::StrCat(where, " lacks \"bbox\"; without boxes there is nothing to measure"));
    }
    // Real files hold a few boxes without area; they can only be passed over with their category.
    const auto rect = Box(*box, false, where);
    if (!rect.ok()) {
      const bool flat = box->is_array() && box->size() == 4 &&
                        std::all_of(box->begin(), box->end(), [](const Json& v) {
                          return v.is_number() && std::abs(v.get<double>()) <= kMaxPx;
                        });
      if (!flat) return rect.status();
      one.crowd = true;
    } else {
      one.box = *rect;
    }
    const std::string image = one.image;
    if (!out.annotations.emplace(id, std::move(one)).second) {
      return Bad(absl::StrCat(where, " has a used id"));
    }
    out.of_image[image].push_back(id);
  }
  return out;
}

absl::StatusOr<std::vector<EvalItem>> CocoPrompts(const Json& prompts, const Instances& known) {
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
    const Json* ids = Find(prompt, {"annotation_ids", "ann_ids"});
    const Json* id = Find(prompt, {"annotation_id", "ann_id"});
    const Json* category = Find(prompt, {"category_id"});
    if (const Json* boxes = Find(prompt, {"boxes"})) {
      CHORD_ASSIGN_OR_RETURN(item.truth, Boxes(*boxes, true, where));
    } else if (const Json* bboxes = Find(prompt, {"bboxes"})) {
      CHORD_ASSIGN_OR_RETURN(item.truth, Boxes(*bboxes, false, where));
    } else if (ids != nullptr || id != nullptr) {
      const Json list = ids != nullptr ? *ids : Json::array({*id});
      if (!list.is_array() || list.size() > kMaxBoxes) {
        return Bad(absl::StrCat(where, ": annotation_ids must be a list"));
      }
      for (const Json& one : list) {
        CHORD_ASSIGN_OR_RETURN(const std::string name, Id(&one, where));
        const auto found = known.annotations.find(name);
        if (found == known.annotations.end() || found->second.image != image) {
          return Bad(absl::StrCat(where, " names an annotation that its image does not have"));
        }
        if (found->second.crowd) return Bad(absl::StrCat(where, " names a crowd"));
        item.truth.push_back(found->second.box);
      }
    } else if (category != nullptr) {
      CHORD_ASSIGN_OR_RETURN(const std::string name, Id(category, where));
      if (const auto all = known.of_image.find(image); all != known.of_image.end()) {
        for (const std::string& one : all->second) {
          const Annotation& annotation = known.annotations.at(one);
          if (annotation.category == name && !annotation.crowd) {
            item.truth.push_back(annotation.box);
          }
        }
      }
    } else {
      return Bad(
          absl::StrCat(where, " lacks its truth: annotation_ids, boxes, bboxes or category_id"));
    }
    item.group = TextOr(Find(prompt, {"kind", "group"}), CountGroup(item.truth.size()));
    out.push_back(std::move(item));
  }
  return out;
}

std::vector<EvalItem> CocoCaptions(const Instances& known) {
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

absl::StatusOr<std::vector<EvalItem>> CocoCategories(const Json& json, const Instances& known,
                                                     const EvalOptions& options) {
  const Json* categories = Find(json, {"categories"});
  if (categories == nullptr || !categories->is_array() || categories->size() > 100'000) {
    return Bad("there is no list of \"categories\"");
  }
  std::vector<std::pair<std::string, std::string>> names;  // id, name
  for (const Json& category : *categories) {
    const std::string where = absl::StrCat("category ", names.size());
    CHORD_ASSIGN_OR_RETURN(std::string id, Id(Find(category, {"id"}), where));
    CHORD_ASSIGN_OR_RETURN(std::string name, Prompt(Find(category, {"name"}), where));
    names.emplace_back(std::move(id), std::move(name));
  }
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

}  // namespace

absl::StatusOr<std::vector<EvalItem>> ParseEvalData(absl::string_view text,
                                                    absl::string_view instances,
                                                    const EvalOptions& options) {
  CHORD_ASSIGN_OR_RETURN(const Json json, Parse(text));
  absl::StatusOr<std::vector<EvalItem>> out = Bad("neither scenes nor COCO nor RefCOCO");
  const Json* refs = json.is_array() ? &json : Find(json, {"refs"});
  const bool list_of_refs = refs != nullptr && refs->is_array() && !refs->empty() &&
                            Find(refs->front(), {"sentences"}) != nullptr;
  if (json.is_array() && !list_of_refs) {
    out = Scenes(json);
  } else if (list_of_refs) {
    Instances known;
    if (json.is_object() && json.contains("annotations")) {
      CHORD_ASSIGN_OR_RETURN(known, ReadInstances(json));
    } else if (!instances.empty()) {
      CHORD_ASSIGN_OR_RETURN(const Json other, Parse(instances));
      CHORD_ASSIGN_OR_RETURN(known, ReadInstances(other));
    }
    out = Refs(*refs, known, options);
  } else if (json.is_object()) {
    CHORD_ASSIGN_OR_RETURN(const Instances known, ReadInstances(json));
    const Json* prompts = Find(json, {"questions"});
    if (prompts != nullptr && !prompts->is_array()) return Bad("\"questions\" must be a list");
    out = prompts != nullptr        ? CocoPrompts(*prompts, known)
          : !known.captions.empty() ? CocoCaptions(known)
                                    : CocoCategories(json, known, options);
  }
  if (out.ok() && out->empty()) return Bad("there is no prompt in it");
  return out;
}

absl::Status RefusePickle(const std::string& path, absl::string_view bytes) {
  const std::string extension = fs::path(path).extension().string();
  bool pickle = extension == ".p" || extension == ".pkl" || extension == ".pickle";
  // Protocol 2 and later, and 0 of a list and of a dictionary.
  for (const absl::string_view begin : {"\x80", "(lp", "(dp"}) {
    pickle = pickle || absl::StartsWith(bytes, begin);
  }
  if (!pickle) return absl::OkStatus();
  return errors::ConfigInvalid(absl::StrCat(
      path,
      " is a Python pickle, which runs code when it is loaded, so Chord does not. Where you trust "
      "it, make JSON of it: python3 -c 'import json, pickle, sys; json.dump(pickle.load(open("
      "sys.argv[1], \"rb\")), open(\"refs.json\", \"w\"))' 'refs(unc).p'"));
}

absl::StatusOr<std::string> ImageFolder(const std::string& data_file, const std::string& images,
                                        absl::Span<const std::string> files) {
  fs::path folder = images.empty() ? fs::path(data_file).parent_path() : fs::path(images);
  if (folder.empty()) folder = ".";
  std::error_code error;
  constexpr size_t kLooks = 100;  // a few may be missing, and are told one by one
  for (const std::string& file : files.first(std::min(files.size(), kLooks))) {
    if (fs::exists(folder / file, error)) return folder.string();
    if (fs::exists(folder / "images" / file, error)) return (folder / "images").string();
  }
  return errors::ConfigInvalid(absl::StrCat("The images are not in ", folder.string(),
                                            " (there is no ", (folder / files[0]).string(),
                                            "); name their folder with --images DIR."));
}

namespace {

// The data file of a folder.
absl::StatusOr<fs::path> DataFile(const std::string& dir) {
  std::error_code error;
  std::vector<fs::path> found;
  const auto list = [&](absl::string_view begin, absl::string_view end) {
    found.clear();
    for (const auto& entry : fs::directory_iterator(dir, error)) {
      const std::string name = entry.path().filename().string();
      if (absl::StartsWith(name, begin) && absl::EndsWith(name, end)) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found.size();
  };
  const auto several = [&] {
    std::string names;
    for (const fs::path& path : found) absl::StrAppend(&names, " ", path.filename().string());
    return errors::ConfigInvalid(
        absl::StrCat(dir, " has several data files:", names, ". Name one of them."));
  };
  const auto is_there = [&](const char* name) {
    return fs::is_regular_file(fs::path(dir) / name, error);
  };
  for (const char* name : {"scenes.json", "annotations.json", "refs.json"}) {
    if (is_there(name)) return fs::path(dir) / name;
  }
  if (const size_t count = list("refs", ".json"); count == 1) return found[0];
  if (!found.empty()) return several();
  // Its instances.json alone would be measured as COCO.
  if (list("refs", ".p") > 0) return found[0];
  if (is_there("instances.json")) return fs::path(dir) / "instances.json";
  if (const size_t count = list("instances", ".json"); count == 1) return found[0];
  if (!found.empty()) return several();
  return errors::ConfigInvalid(absl::StrCat(
      dir, " has no scenes.json, annotations.json, refs.json or instances.json; name the file."));
}

}  // namespace

absl::StatusOr<EvalData> LoadEvalData(const std::string& path, const std::string& images,
                                      const EvalOptions& options) {
  std::error_code error;
  fs::path file = path;
  if (fs::is_directory(file, error)) {
    CHORD_ASSIGN_OR_RETURN(file, DataFile(path));
  }
  EvalData out;
  out.name = file.filename().string();
  CHORD_ASSIGN_OR_RETURN(out.bytes, ReadWhole(file.string(), kMaxFileBytes));
  CHORD_RETURN_IF_ERROR(RefusePickle(file.string(), out.bytes));
  std::string instances;
  const fs::path beside = file.parent_path() / "instances.json";
  if (beside != file && fs::is_regular_file(beside, error)) {
    CHORD_ASSIGN_OR_RETURN(instances, ReadWhole(beside.string(), kMaxFileBytes));
  }
  CHORD_ASSIGN_OR_RETURN(out.items, ParseEvalData(out.bytes, instances, options));
  std::vector<std::string> names;
  for (const EvalItem& item : out.items) {
    if (names.empty() || names.back() != item.file) names.push_back(item.file);
  }
  CHORD_ASSIGN_OR_RETURN(out.images, ImageFolder(file.string(), images, names));
  return out;
}

}  // namespace chord::cli
