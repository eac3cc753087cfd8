#include "services/cli/export/export_formats.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::cli {
namespace {

using Json = nlohmann::ordered_json;

// Text of a model or of a file system may be ill-formed UTF-8: replaced, never thrown at.
std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

int Width(const v1::Box& box) { return box.x2() - box.x1(); }
int Height(const v1::Box& box) { return box.y2() - box.y1(); }

std::string Coco(const AnnotationDataset& dataset) {
  Json images = Json::array(), annotations = Json::array(), categories = Json::array();
  for (const AnnotatedImage& image : dataset.images()) {
    const size_t image_id = images.size() + 1;
    images.push_back({{"id", image_id},
                      {"file_name", image.file_name},
                      {"width", image.width},
                      {"height", image.height}});
    for (const Annotation& item : image.annotations) {
      const v1::Box& box = item.box;
      annotations.push_back({{"id", annotations.size() + 1},
                             {"image_id", image_id},
                             {"category_id", item.category + 1},
                             {"bbox", {box.x1(), box.y1(), Width(box), Height(box)}},
                             {"area", int64_t{Width(box)} * Height(box)},
                             {"iscrowd", 0},
                             {"score", item.confidence},
                             {"needs_review", item.needs_review}});
    }
  }
  for (const std::string& name : dataset.categories()) {
    categories.push_back({{"id", categories.size() + 1}, {"name", name}});
  }
  const Json out = {{"info", {{"description", "Boxes by Chord"}}},
                    {"images", std::move(images)},
                    {"annotations", std::move(annotations)},
                    {"categories", std::move(categories)}};
  return Dump(out, 1) + "\n";
}

Json LabelStudioRegion(const AnnotatedImage& image, size_t number, const Annotation& item,
                       const std::string& category) {
  const v1::Box& box = item.box;
  return {{"id", absl::StrCat("chord-", number)},
          {"type", "rectanglelabels"},
          {"from_name", "label"},
          {"to_name", "image"},
          {"original_width", image.width},
          {"original_height", image.height},
          {"image_rotation", 0},
          {"value",
           {{"rotation", 0},
            {"x", 100.0 * box.x1() / image.width},
            {"y", 100.0 * box.y1() / image.height},
            {"width", 100.0 * Width(box) / image.width},
            {"height", 100.0 * Height(box) / image.height},
            {"rectanglelabels", Json::array({category})}}},
          {"score", item.confidence}};
}

std::string LabelStudio(const AnnotationDataset& dataset) {
  Json tasks = Json::array();
  for (const AnnotatedImage& image : dataset.images()) {
    Json regions = Json::array();
    for (const Annotation& item : image.annotations) {
      const std::string& category = dataset.categories()[static_cast<size_t>(item.category)];
      regions.push_back(LabelStudioRegion(image, regions.size() + 1, item, category));
    }
    const Json prediction = {
        {"model_version", image.model}, {"score", image.score}, {"result", std::move(regions)}};
    tasks.push_back(
        {{"data", {{"image", image.file_name}}}, {"predictions", Json::array({prediction})}});
  }
  return Dump(tasks, 1) + "\n";
}

// Of a path with '/' or without; a leading dot of a name is no extension.
std::string WithoutExtension(const std::string& file_name) {
  const size_t slash = file_name.rfind('/');
  const size_t name = slash == std::string::npos ? 0 : slash + 1;
  const size_t dot = file_name.rfind('.');
  const bool has =
      dot != std::string::npos && dot > name && file_name.find_first_not_of('.', name) < dot;
  return has ? file_name.substr(0, dot) : file_name;
}

bool IsInsideDataset(const std::string& file_name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(file_name, '/');
  return !absl::StartsWith(file_name, "/") && !absl::c_linear_search(parts, "..");
}

std::string YoloLine(const AnnotatedImage& image, const Annotation& item) {
  const v1::Box& box = item.box;
  const double width = image.width, height = image.height;
  return absl::StrFormat(
      "%d %.6f %.6f %.6f %.6f\n", item.category, (0.0 + box.x1() + box.x2()) / 2 / width,
      (0.0 + box.y1() + box.y2()) / 2 / height, Width(box) / width, Height(box) / height);
}

absl::StatusOr<std::vector<ExportFile>> Yolo(const AnnotationDataset& dataset) {
  std::vector<std::string> names;
  for (const AnnotatedImage& image : dataset.images()) names.push_back(image.file_name);
  CHORD_RETURN_IF_ERROR(CheckExportNames(ExportFormat::kYolo, names));
  std::vector<ExportFile> out;
  for (const AnnotatedImage& image : dataset.images()) {
    std::string lines;
    for (const Annotation& item : image.annotations) lines += YoloLine(image, item);
    out.push_back(
        {absl::StrCat("labels/", WithoutExtension(image.file_name), ".txt"), std::move(lines)});
  }
  std::string yaml = "path: .\ntrain: images\nval: images\nnames:";
  yaml += dataset.categories().empty() ? " {}\n" : "\n";
  for (size_t i = 0; i < dataset.categories().size(); ++i) {
    // A JSON string is a YAML one.
    absl::StrAppend(&yaml, "  ", i, ": ", Dump(Json(dataset.categories()[i]), -1), "\n");
  }
  out.push_back({"data.yaml", std::move(yaml)});
  return out;
}

// For content and attributes. Control characters have no form in XML 1.0: a blank each.
std::string Xml(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += code < 0x20 || code == 0x7f ? ' ' : c;
    }
  }
  return out;
}

std::string Cvat(const AnnotationDataset& dataset) {
  std::string out =
      "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<annotations>\n  <version>1.1</version>\n"
      "  <meta>\n    <task>\n      <labels>\n";
  for (const std::string& name : dataset.categories()) {
    absl::StrAppend(&out, "        <label><name>", Xml(name),
                    "</name><attributes></attributes></label>\n");
  }
  out += "      </labels>\n    </task>\n  </meta>\n";
  size_t number = 0;
  for (const AnnotatedImage& image : dataset.images()) {
    absl::StrAppendFormat(&out, "  <image id=\"%d\" name=\"%s\" width=\"%d\" height=\"%d\">\n",
                          number++, Xml(image.file_name), image.width, image.height);
    for (const Annotation& item : image.annotations) {
      const v1::Box& box = item.box;
      absl::StrAppendFormat(
          &out,
          "    <box label=\"%s\" source=\"auto\" occluded=\"0\" xtl=\"%d.00\" ytl=\"%d.00\" "
          "xbr=\"%d.00\" ybr=\"%d.00\" z_order=\"0\"></box>\n",
          Xml(dataset.categories()[static_cast<size_t>(item.category)]), box.x1(), box.y1(),
          box.x2(), box.y2());
    }
    out += "  </image>\n";
  }
  return out + "</annotations>\n";
}

}  // namespace

std::optional<ExportFormat> ParseExportFormat(absl::string_view name) {
  if (name == "coco") return ExportFormat::kCoco;
  if (name == "yolo") return ExportFormat::kYolo;
  if (name == "labelstudio") return ExportFormat::kLabelStudio;
  if (name == "cvat") return ExportFormat::kCvat;
  return std::nullopt;
}

absl::Status CheckExportNames(ExportFormat format, absl::Span<const std::string> file_names) {
  if (format != ExportFormat::kYolo) return absl::OkStatus();
  std::set<std::string> taken;
  for (const std::string& file_name : file_names) {
    if (!IsInsideDataset(file_name)) {
      return errors::ConfigInvalid(
          absl::StrCat(file_name, " is not a relative path inside the data set."));
    }
    if (!taken.insert(WithoutExtension(file_name)).second) {
      return errors::ConfigInvalid(
          absl::StrCat("YOLO finds labels by the name without extension: ", file_name,
                       " and another image have the same. Rename one."));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ExportFile>> RenderExport(ExportFormat format,
                                                     const AnnotationDataset& dataset) {
  switch (format) {
    case ExportFormat::kCoco:
      return std::vector<ExportFile>{{"", Coco(dataset)}};
    case ExportFormat::kYolo:
      return Yolo(dataset);
    case ExportFormat::kLabelStudio:
      return std::vector<ExportFile>{{"", LabelStudio(dataset)}};
    case ExportFormat::kCvat:
      return std::vector<ExportFile>{{"", Cvat(dataset)}};
  }
  return errors::Internal();
}

}  // namespace chord::cli
