#include "services/cli/eval/eval_json.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"

namespace chord::cli::eval_json {
namespace {

constexpr size_t kMaxPromptBytes = 65'536;
constexpr double kMaxPx = 1e6;

bool Keep(int, Json::parse_event_t event, Json& parsed) {
  return event != Json::parse_event_t::key ||
         (parsed != "segmentation" && parsed != "keypoints" && parsed != "counts");
}

}  // namespace

absl::Status Bad(absl::string_view what) {
  return errors::ConfigInvalid(absl::StrCat("The data set: ", what, "."));
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

bool IsFlatBox(const Json& box) {
  return box.is_array() && box.size() == 4 &&
         std::all_of(box.begin(), box.end(), [](const Json& v) {
           return v.is_number() && std::abs(v.get<double>()) <= kMaxPx;
         });
}

}  // namespace chord::cli::eval_json
