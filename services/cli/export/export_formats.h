// Annotation files of other tools: COCO, YOLO, Label Studio, CVAT. Pure functions; mirrored by
// clients/python/src/chord_client/export/formats.py and tested with one golden file for both.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/cli/export/annotation_dataset.h"

namespace chord::cli {

enum class ExportFormat {
  kCoco,         // one JSON file; `score` of an annotation is its confidence
  kYolo,         // a folder: labels/NAME.txt for each image, data.yaml
  kLabelStudio,  // one JSON file: tasks with predictions
  kCvat,         // one XML file: CVAT for images 1.1
};

// "coco", "yolo", "labelstudio" or "cvat".
std::optional<ExportFormat> ParseExportFormat(absl::string_view name);

struct ExportFile {
  std::string path;  // relative to the output folder; empty for a format of a single file
  std::string content;
};

// CONFIG_INVALID when a file name has no place in the format: YOLO finds the labels of an image by
// its name without extension, so two images may not share it, and it may not leave the folder.
absl::Status CheckExportNames(ExportFormat format, absl::Span<const std::string> file_names);

// The files of `dataset` in a format. CONFIG_INVALID as CheckExportNames.
absl::StatusOr<std::vector<ExportFile>> RenderExport(ExportFormat format,
                                                     const AnnotationDataset& dataset);

}  // namespace chord::cli
