#include "services/cli/export/export_formats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::cli {
namespace {

using Json = nlohmann::json;

// The file that clients/python's writers are tested with too.
const Json& Golden() {
  static const Json golden = [] {
    std::ifstream file(CHORD_SOURCE_DIR "/tests/clients/export_golden.json");
    return Json::parse(file);
  }();
  return golden;
}

v1::GroundResponse AnswerOf(const Json& json) {
  v1::GroundResponse out;
  for (const Json& item : json["objects"]) {
    v1::Object& object = *out.add_objects();
    object.set_label(item["label"]);
    object.set_confidence(item["confidence"]);
    object.set_needs_review(item["needs_review"]);
    object.mutable_box()->set_x1(item["box"][0]);
    object.mutable_box()->set_y1(item["box"][1]);
    object.mutable_box()->set_x2(item["box"][2]);
    object.mutable_box()->set_y2(item["box"][3]);
  }
  for (const Json& item : json.value("labels", Json::array())) {
    v1::LabelMatch& match = *out.add_labels();
    match.set_label(item["label"]);
    for (const int index : item["objects"]) match.add_objects(index);
  }
  out.mutable_image_size()->set_width(json["image_size"][0]);
  out.mutable_image_size()->set_height(json["image_size"][1]);
  out.set_confidence(json["confidence"]);
  out.set_model(json["model"]);
  return out;
}

AnnotationDataset GoldenDataset() {
  AnnotationDataset out;
  for (const Json& item : Golden()["items"]) {
    EXPECT_TRUE(out.Add(item["file_name"], item["prompt"], item.value("category", ""),
                        AnswerOf(item["answer"]))
                    .ok());
  }
  return out;
}

std::string OneFile(ExportFormat format) {
  const auto files = RenderExport(format, GoldenDataset());
  EXPECT_TRUE(files.ok() && files->size() == 1 && files->front().path.empty());
  return files->front().content;
}

v1::GroundResponse SizedAnswer(int width, int height) {
  v1::GroundResponse out;
  out.mutable_image_size()->set_width(width);
  out.mutable_image_size()->set_height(height);
  return out;
}

TEST(ExportFormatsTest, WritesTheGoldenCocoFile) {
  EXPECT_EQ(Json::parse(OneFile(ExportFormat::kCoco)), Golden()["coco"]);
}

TEST(ExportFormatsTest, WritesTheGoldenLabelStudioFile) {
  EXPECT_EQ(Json::parse(OneFile(ExportFormat::kLabelStudio)), Golden()["labelstudio"]);
}

TEST(ExportFormatsTest, WritesTheGoldenCvatFile) {
  EXPECT_EQ(OneFile(ExportFormat::kCvat), Golden()["cvat"].get<std::string>());
}

TEST(ExportFormatsTest, WritesTheGoldenYoloFolder) {
  const auto files = RenderExport(ExportFormat::kYolo, GoldenDataset());
  ASSERT_TRUE(files.ok());
  Json written = Json::object();
  for (const ExportFile& file : *files) written[file.path] = file.content;
  EXPECT_EQ(written, Golden()["yolo"]);
}

TEST(ExportFormatsTest, AnEmptyDatasetIsAFileOfItsFormat) {
  const AnnotationDataset empty;
  EXPECT_EQ(Json::parse(RenderExport(ExportFormat::kCoco, empty)->front().content)["images"],
            Json::array());
  EXPECT_EQ(RenderExport(ExportFormat::kLabelStudio, empty)->front().content, "[]\n");
  EXPECT_EQ(RenderExport(ExportFormat::kYolo, empty)->front().path, "data.yaml");
}

TEST(ExportFormatsTest, YoloRefusesNamesItCannotTellApart) {
  AnnotationDataset twins;
  ASSERT_TRUE(twins.Add("a.png", "p", "", SizedAnswer(4, 4)).ok());
  ASSERT_TRUE(twins.Add("a.jpg", "p", "", SizedAnswer(4, 4)).ok());
  EXPECT_THAT(RenderExport(ExportFormat::kYolo, twins).status(), HasReason(Reason::kConfigInvalid));
  EXPECT_TRUE(RenderExport(ExportFormat::kCoco, twins).ok());
}

TEST(ExportFormatsTest, YoloRefusesNamesOutsideOfItsFolder) {
  for (const char* name : {"../a.png", "/a.png", "x/../../a.png"}) {
    AnnotationDataset outside;
    ASSERT_TRUE(outside.Add(name, "p", "", SizedAnswer(4, 4)).ok());
    EXPECT_FALSE(RenderExport(ExportFormat::kYolo, outside).ok()) << name;
  }
}

TEST(ExportFormatsTest, ALeadingDotIsNoExtension) {
  AnnotationDataset hidden;
  ASSERT_TRUE(hidden.Add("x.y/.hidden", "p", "", SizedAnswer(4, 4)).ok());
  EXPECT_EQ(RenderExport(ExportFormat::kYolo, hidden)->front().path, "labels/x.y/.hidden.txt");
}

TEST(ExportFormatsTest, IllFormedTextIsReplaced) {
  AnnotationDataset odd;
  v1::GroundResponse answer = SizedAnswer(4, 4);
  v1::Object& object = *answer.add_objects();
  object.mutable_box()->set_x2(1);
  object.mutable_box()->set_y2(1);
  ASSERT_TRUE(odd.Add("a\xff.png", "\xff\x01", "", answer).ok());
  EXPECT_TRUE(Json::accept(RenderExport(ExportFormat::kCoco, odd)->front().content));
  EXPECT_THAT(RenderExport(ExportFormat::kCvat, odd)->front().content,
              testing::Not(testing::HasSubstr("\x01")));
}

TEST(AnnotationDatasetTest, RefusesAFileOfTwoSizesAndAnAnswerWithoutOne) {
  AnnotationDataset dataset;
  ASSERT_TRUE(dataset.Add("a.png", "p", "", SizedAnswer(4, 4)).ok());
  EXPECT_THAT(dataset.Add("a.png", "q", "", SizedAnswer(4, 5)), HasReason(Reason::kConfigInvalid));
  EXPECT_THAT(dataset.Add("b.png", "q", "", v1::GroundResponse()),
              HasReason(Reason::kConfigInvalid));
}

TEST(ExportFormatsTest, KnowsItsNames) {
  EXPECT_EQ(ParseExportFormat("coco"), ExportFormat::kCoco);
  EXPECT_EQ(ParseExportFormat("yolo"), ExportFormat::kYolo);
  EXPECT_EQ(ParseExportFormat("labelstudio"), ExportFormat::kLabelStudio);
  EXPECT_EQ(ParseExportFormat("cvat"), ExportFormat::kCvat);
  EXPECT_EQ(ParseExportFormat("COCO"), std::nullopt);
}

}  // namespace
}  // namespace chord::cli
