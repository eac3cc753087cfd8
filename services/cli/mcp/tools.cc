#include "services/cli/mcp/tools.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "common/base/data_url.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/cli/ground/answer_output.h"
#include "services/cli/mcp/image_view.h"
#include "services/cli/plot/annotate.h"

namespace chord::cli::mcp {
namespace {

constexpr int kDefaultSide = 1024;  // px of an image that is returned
constexpr int kMinSide = 64;
constexpr int kMaxSide = 4096;
constexpr double kDefaultMargin = 0.25;
constexpr double kMaxMargin = 10;
constexpr double kMaxEnlarge = 16;
constexpr size_t kMaxBoxes = 1000;
constexpr size_t kMaxLabels = 64;

// Arguments of a call. A getter that fails names the argument and what it must be.

absl::Status CheckNames(const Json& arguments, absl::Span<const absl::string_view> known) {
  if (!arguments.is_object()) return errors::ParameterInvalid("arguments", "a JSON object");
  for (const auto& item : arguments.items()) {
    if (absl::c_linear_search(known, item.key())) continue;
    return errors::ParameterInvalid("arguments",
                                    absl::StrCat("among ", absl::StrJoin(known, ", ")));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TextArgument(const Json& arguments, const char* name) {
  const auto found = arguments.find(name);
  if (found == arguments.end() || !found->is_string() ||
      found->get_ref<const std::string&>().empty()) {
    return errors::ParameterInvalid(name, "a string that is not empty");
  }
  return found->get<std::string>();
}

// What the labels may be is the server's to say.
absl::StatusOr<std::vector<std::string>> LabelsArgument(const Json& arguments) {
  const Json& list = arguments.at("labels");
  const bool texts = list.is_array() && !list.empty() && list.size() <= kMaxLabels &&
                     absl::c_all_of(list, [](const Json& item) { return item.is_string(); });
  if (!texts) return errors::ParameterInvalid("labels", "a list of 1 to 64 strings");
  return list.get<std::vector<std::string>>();
}

absl::StatusOr<int> SideArgument(const Json& arguments) {
  const auto found = arguments.find("max_side");
  if (found == arguments.end()) return kDefaultSide;
  const double side = found->is_number() ? found->get<double>() : 0;
  // Some clients write integers as 512.0.
  if (!(side >= kMinSide && side <= kMaxSide) || side != std::floor(side)) {
    return errors::ParameterInvalid("max_side", "an integer from 64 to 4096");
  }
  return static_cast<int>(side);
}

absl::StatusOr<double> MarginArgument(const Json& arguments) {
  const auto found = arguments.find("margin");
  if (found == arguments.end()) return kDefaultMargin;
  const double margin = found->is_number() ? found->get<double>() : -1;
  if (!(margin >= 0 && margin <= kMaxMargin)) {
    return errors::ParameterInvalid("margin", "a number from 0 to 10");
  }
  return margin;
}

// A box with an area inside the image; what lies outside is cut off.
absl::StatusOr<image::Box> BoxArgument(const Json& json, image::Size image) {
  const absl::Status wrong = errors::ParameterInvalid(
      "box", "[x1, y1, x2, y2] in pixels, with x1 < x2 and y1 < y2, at least partly in the image");
  if (!json.is_array() || json.size() != 4) return wrong;
  double side[4];
  for (size_t i = 0; i < 4; ++i) {
    if (!json[i].is_number()) return wrong;
    const double most = i % 2 == 0 ? image.width : image.height;
    side[i] = std::clamp(std::round(json[i].get<double>()), 0.0, most);
  }
  const image::Box box{static_cast<int>(side[0]), static_cast<int>(side[1]),
                       static_cast<int>(side[2]), static_cast<int>(side[3])};
  if (box.x1 >= box.x2 || box.y1 >= box.y2) return wrong;
  return box;
}

// Exactly one of two arguments.
absl::Status CheckOneOf(const Json& arguments, const char* one, const char* other) {
  if (arguments.contains(one) != arguments.contains(other)) return absl::OkStatus();
  return errors::ParameterInvalid(absl::StrCat(one, " or ", other), "given, and not both");
}

// Results.

Json BoxJson(const image::Box& box) { return {box.x1, box.y1, box.x2, box.y2}; }
Json SizeJson(image::Size size) { return {size.width, size.height}; }

image::Box BoxOf(const v1::Object& object) {
  return {object.box().x1(), object.box().y1(), object.box().x2(), object.box().y2()};
}

Json ObjectJson(const v1::Object& object) {
  return {{"label", object.label()},
          {"box", BoxJson(BoxOf(object))},
          {"confidence", object.confidence()},
          {"needs_review", object.needs_review()}};
}

Json ObjectsJson(const v1::GroundResponse& answer) {
  Json out = Json::array();
  for (const v1::Object& object : answer.objects()) out.push_back(ObjectJson(object));
  return out;
}

Json LabelsJson(const v1::GroundResponse& answer) {
  Json out = Json::array();
  for (const v1::LabelMatch& match : answer.labels()) {
    Json entry = {{"label", match.label()}, {"objects", match.objects()}};
    if (match.has_confidence()) entry["confidence"] = match.confidence();
    out.push_back(std::move(entry));
  }
  return out;
}

// The same twice: structured, and as text for clients that know content only.
Json Result(Json structured, Json content = Json::array()) {
  content.push_back({{"type", "text"}, {"text", ToLine(structured)}});
  return {{"content", std::move(content)}, {"structuredContent", std::move(structured)}};
}

Json ImageContent(std::string base64_png) {
  return Json::array(
      {{{"type", "image"}, {"data", std::move(base64_png)}, {"mimeType", "image/png"}}});
}

Json ErrorResult(const absl::Status& status) {
  const std::string text = absl::StrCat(ErrorReason(status), ": ", std::string(status.message()));
  return {{"content", Json::array({{{"type", "text"}, {"text", text}}})}, {"isError", true}};
}

absl::StatusOr<image::RgbImage> DecodeImage(const std::string& bytes) {
  return image::Decode(bytes, image::DecodeOptions());
}

image::Size SizeOf(const image::RgbImage& image) { return {image.width, image.height}; }

const v1::Object* MostCertain(const v1::GroundResponse& answer) {
  const auto& objects = answer.objects();
  const auto best = std::max_element(
      objects.begin(), objects.end(),
      [](const v1::Object& a, const v1::Object& b) { return a.confidence() < b.confidence(); });
  return best == objects.end() ? nullptr : &*best;
}

}  // namespace

bool Tools::Has(const std::string& name) {
  return name == "locate" || name == "annotate" || name == "zoom";
}

Json Tools::Call(const std::string& name, const Json& arguments) const {
  const absl::StatusOr<Json> result = name == "locate"     ? Locate(arguments)
                                      : name == "annotate" ? Annotate(arguments)
                                                           : Zoom(arguments);
  return result.ok() ? *result : ErrorResult(result.status());
}

absl::StatusOr<std::string> Tools::ReadImage(const Json& arguments) const {
  CHORD_RETURN_IF_ERROR(CheckOneOf(arguments, "path", "data"));
  if (arguments.contains("path")) {
    CHORD_ASSIGN_OR_RETURN(const std::string path, TextArgument(arguments, "path"));
    return images_.ReadFile(path);
  }
  CHORD_ASSIGN_OR_RETURN(std::string data, TextArgument(arguments, "data"));
  return DecodeDataUrlOrBase64(std::move(data), "data");
}

absl::StatusOr<v1::GroundResponse> Tools::Ground(const std::string& image,
                                                 const std::string& prompt) const {
  return client_.Ground({.image = image, .prompt = prompt, .timeout = timeout_});
}

absl::StatusOr<Json> Tools::Locate(const Json& arguments) const {
  CHORD_RETURN_IF_ERROR(CheckNames(arguments, {"path", "data", "prompt", "labels"}));
  CHORD_RETURN_IF_ERROR(CheckOneOf(arguments, "prompt", "labels"));
  GroundCall call;
  call.timeout = timeout_;
  if (arguments.contains("prompt")) {
    CHORD_ASSIGN_OR_RETURN(call.prompt, TextArgument(arguments, "prompt"));
  } else {
    CHORD_ASSIGN_OR_RETURN(call.labels, LabelsArgument(arguments));
  }
  CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadImage(arguments));
  CHORD_ASSIGN_OR_RETURN(const image::Header header, image::Probe(bytes, image::Limits()));
  call.image = bytes;
  CHORD_ASSIGN_OR_RETURN(const v1::GroundResponse answer, client_.Ground(call));
  Json out = {{"found", answer.objects_size() > 0},
              {"objects", ObjectsJson(answer)},
              {"image_size", {header.upright_width(), header.upright_height()}},
              {"model", answer.model()}};
  if (answer.has_confidence()) out["confidence"] = answer.confidence();
  if (answer.labels_size() > 0) out["labels"] = LabelsJson(answer);
  if (IsTruncated(answer)) out["truncated"] = true;
  if (!answer.advice().empty()) out["advice"] = answer.advice();
  return Result(std::move(out));
}

absl::StatusOr<Json> Tools::Annotate(const Json& arguments) const {
  CHORD_RETURN_IF_ERROR(CheckNames(arguments, {"path", "data", "prompt", "boxes", "max_side"}));
  CHORD_RETURN_IF_ERROR(CheckOneOf(arguments, "prompt", "boxes"));
  CHORD_ASSIGN_OR_RETURN(const int max_side, SideArgument(arguments));
  CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadImage(arguments));
  CHORD_ASSIGN_OR_RETURN(const image::RgbImage image, DecodeImage(bytes));
  std::vector<plot::AnnotatedBox> boxes;
  Json objects = Json::array();
  bool truncated = false;
  if (arguments.contains("prompt")) {
    CHORD_ASSIGN_OR_RETURN(const std::string prompt, TextArgument(arguments, "prompt"));
    CHORD_ASSIGN_OR_RETURN(const v1::GroundResponse answer, Ground(bytes, prompt));
    for (const v1::Object& object : answer.objects())
      boxes.push_back({BoxOf(object), object.label(), object.needs_review()});
    objects = ObjectsJson(answer);
    truncated = IsTruncated(answer);
  } else {
    const Json& given = arguments["boxes"];
    if (!given.is_array() || given.empty() || given.size() > kMaxBoxes) {
      return errors::ParameterInvalid("boxes", "a list of 1 to 1000 objects with a box");
    }
    for (const Json& item : given) {
      CHORD_RETURN_IF_ERROR(CheckNames(item, {"box", "label"}));
      CHORD_ASSIGN_OR_RETURN(const image::Box box,
                             BoxArgument(item.value("box", Json()), SizeOf(image)));
      std::string label;
      if (item.contains("label") && item["label"].is_string()) label = item["label"];
      objects.push_back({{"label", label}, {"box", BoxJson(box)}});
      boxes.push_back({box, std::move(label)});
    }
  }
  const image::Size shown = Fit(SizeOf(image), max_side, 1);
  CHORD_ASSIGN_OR_RETURN(std::string png, ToBase64Png(plot::Annotate(image, boxes), shown));
  Json out = {{"found", !boxes.empty()},
              {"objects", std::move(objects)},
              {"image_size", SizeJson(SizeOf(image))},
              {"shown_size", SizeJson(shown)}};
  if (truncated) out["truncated"] = true;
  return Result(std::move(out), ImageContent(std::move(png)));
}

absl::StatusOr<Json> Tools::Zoom(const Json& arguments) const {
  CHORD_RETURN_IF_ERROR(
      CheckNames(arguments, {"path", "data", "prompt", "box", "margin", "max_side"}));
  CHORD_RETURN_IF_ERROR(CheckOneOf(arguments, "prompt", "box"));
  CHORD_ASSIGN_OR_RETURN(const int max_side, SideArgument(arguments));
  CHORD_ASSIGN_OR_RETURN(const double margin, MarginArgument(arguments));
  CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadImage(arguments));
  CHORD_ASSIGN_OR_RETURN(const image::RgbImage image, DecodeImage(bytes));
  const image::Size size = SizeOf(image);
  Json out = {{"found", true}, {"image_size", SizeJson(size)}};
  image::Box box;
  if (arguments.contains("box")) {
    CHORD_ASSIGN_OR_RETURN(box, BoxArgument(arguments["box"], size));
  } else {
    CHORD_ASSIGN_OR_RETURN(const std::string prompt, TextArgument(arguments, "prompt"));
    CHORD_ASSIGN_OR_RETURN(const v1::GroundResponse answer, Ground(bytes, prompt));
    const v1::Object* best = MostCertain(answer);
    if (IsTruncated(answer)) out["truncated"] = true;
    if (best == nullptr) {
      out["found"] = false;
      return Result(std::move(out));
    }
    out["object"] = ObjectJson(*best);
    CHORD_ASSIGN_OR_RETURN(box, BoxArgument(out["object"]["box"], size));
  }
  const image::Box region = Expand(box, margin, size);
  const image::RgbImage part = Crop(image, region);
  const image::Size shown = Fit(SizeOf(part), max_side, kMaxEnlarge);
  CHORD_ASSIGN_OR_RETURN(std::string png, ToBase64Png(part, shown));
  out["region"] = BoxJson(region);
  out["shown_size"] = SizeJson(shown);
  return Result(std::move(out), ImageContent(std::move(png)));
}

}  // namespace chord::cli::mcp
