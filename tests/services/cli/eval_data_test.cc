#include "services/cli/eval_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace chord::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// "file|prompt|group|x1,y1,x2,y2 ..." of each item.
std::vector<std::string> Read(const std::string& json, EvalOptions options = {},
                              const std::string& instances = "") {
  const auto items = ParseEvalData(json, instances, options);
  if (!items.ok()) return {std::string(items.status().message())};
  std::vector<std::string> out;
  for (const EvalItem& item : *items) {
    const auto box = [](std::string* to, const Rect& r) {
      absl::StrAppendFormat(to, "%g,%g,%g,%g", r.x1, r.y1, r.x2, r.y2);
    };
    out.push_back(absl::StrCat(item.file, "|", item.prompt, "|", item.group, "|",
                               absl::StrJoin(item.truth, " ", box),
                               item.first_box_only ? "|first" : ""));
  }
  return out;
}

TEST(EvalDataTest, ReadsScenes) {
  EXPECT_THAT(Read(R"([
      {"file": "a.png", "prompt": "the cup", "kind": "one", "boxes": [[1, 2, 3, 4]]},
      {"file": "b/c.jpg", "prompt": "杯子", "kind": "one", "hard": "noise", "boxes": []},
      {"file": "a.png", "prompt": "all", "boxes": [[1, 2, 3, 4], [5, 6.5, 7, 8]]}])"),
              ElementsAre("a.png|the cup|one|1,2,3,4", "b/c.jpg|杯子|noise|",
                          "a.png|all|several|1,2,3,4 5,6.5,7,8"));
}

constexpr char kCoco[] = R"({
  "info": {"year": 2017},
  "images": [{"id": 1, "file_name": "one.jpg", "width": 64, "height": 48},
             {"id": 2, "file_name": "two.jpg"}],
  "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}, {"id": 9, "name": "cow"}],
  "annotations": [
    {"id": 10, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "segmentation": [[1, 2]]},
    {"id": 11, "image_id": 1, "category_id": 7, "bbox": [5, 5, 5, 5], "iscrowd": 0},
    {"id": 12, "image_id": 2, "category_id": 8, "bbox": [0, 0, 9, 9],
     "iscrowd": 1, "segmentation": {"counts": "abc", "size": [1, 2]}},
    {"id": 13, "image_id": 2, "category_id": 7, "bbox": [0, 0, 4, 0.5]}]QUESTIONS
})";

std::string Coco(const std::string& questions = "") {
  return absl::StrReplaceAll(
      kCoco,
      {{"QUESTIONS", questions.empty() ? "" : absl::StrCat(", \"questions\": ", questions)}});
}

TEST(EvalDataTest, AsksCocoForItsCategoriesAndForWhatIsNotThere) {
  EXPECT_THAT(Read(Coco()),
              ElementsAre("one.jpg|find every dog|several|1,2,11,22 5,5,10,10",
                          "one.jpg|find the cat|absent|", "two.jpg|find the dog|one|0,0,4,0.5",
                          "two.jpg|find the cow|absent|"));
  EXPECT_EQ(Read(Coco(), {.absent_per_image = 0}).size(), 2u);
}

TEST(EvalDataTest, TakesQuestionsWithEveryFormOfTruth) {
  EXPECT_THAT(Read(Coco(R"([
      {"image_id": 1, "prompt": "a", "annotation_ids": [11]},
      {"image_id": 1, "question": "b", "annotation_ids": []},
      {"image_id": 1, "sentence": "c", "ann_id": 10},
      {"image_id": 1, "text": "d", "category_id": 7},
      {"image_id": 2, "prompt": "e", "category_id": 9},
      {"image_id": 2, "prompt": "f", "boxes": [[1, 2, 3, 4]]},
      {"image_id": 2, "prompt": "g", "bboxes": [[1, 2, 3, 4]], "kind": "mine"}])")),
              ElementsAre("one.jpg|a|one|5,5,10,10", "one.jpg|b|absent|", "one.jpg|c|one|1,2,11,22",
                          "one.jpg|d|several|1,2,11,22 5,5,10,10", "two.jpg|e|absent|",
                          "two.jpg|f|one|1,2,3,4", "two.jpg|g|mine|1,2,4,6"));
}

TEST(EvalDataTest, ReadsReferringExpressions) {
  const std::string refs = R"([
      {"ref_id": 1, "ann_id": 10, "image_id": 1, "file_name": "cut_out.jpg", "split": "val",
       "sentences": [{"raw": "Left dog!", "sent": "left dog"}, {"raw": "The dog"}]},
      {"ref_id": 2, "ann_id": 11, "image_id": 1, "split": "testA", "sentences": ["right dog"]}])";
  EXPECT_THAT(Read(refs, {}, Coco()), ElementsAre("one.jpg|left dog|val|1,2,11,22|first",
                                                  "one.jpg|The dog|val|1,2,11,22|first",
                                                  "one.jpg|right dog|testA|5,5,10,10|first"));
  EXPECT_EQ(Read(refs, {.split = "testA"}, Coco()).size(), 1u);
  EXPECT_THAT(Read(refs, {.split = "none"}, Coco()), ElementsAre(HasSubstr("no question")));
  EXPECT_THAT(Read(refs), ElementsAre(HasSubstr("instances.json")));
  EXPECT_THAT(Read(R"({"refs": [{"file_name": "a.jpg", "bbox": [1, 2, 3, 4],
                                 "sentences": [{"sent": "it"}]}]})"),
              ElementsAre("a.jpg|it|ref|1,2,4,6|first"));
}

TEST(EvalDataTest, RefusesWhatIsMalformed) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "JSON"},
      {"{", "JSON"},
      {"[]", "no question"},
      {"{}", "images"},
      {"3", "neither"},
      {"[3]", "file name"},
      {R"([{"file": "../a.png", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "/etc/passwd", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "a/../../b", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "a\u0000b", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "..\\b", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": 3, "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "a", "prompt": "", "boxes": []}])", "question"},
      {R"([{"file": "a", "prompt": "a"}])", "boxes"},
      {R"([{"file": "a", "prompt": "a", "boxes": {}}])", "list"},
      {R"([{"file": "a", "prompt": "a", "boxes": [[1, 2, 3]]}])", "x1"},
      {R"([{"file": "a", "prompt": "a", "boxes": [[3, 2, 1, 4]]}])", "x1"},
      {R"([{"file": "a", "prompt": "a", "boxes": [[0, 0, 1e300, 4]]}])", "x1"},
      {R"([{"file": "a", "prompt": "a", "boxes": [["0", 0, 1, 4]]}])", "x1"},
      {absl::StrCat(std::string(100, '['), std::string(100, ']')), "deep"},
      {R"({"images": [], "annotations": 3})", "annotations"},
      {R"({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}],
          "annotations": []})",
       "used id"},
      {R"({"images": [{"id": [1], "file_name": "a"}], "annotations": []})", "id"},
      {R"({"images": [], "annotations": [{"image_id": 5, "bbox": [1, 1, 1, 1]}]})",
       "no known image"},
      {R"({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1}]})", "bbox"},
      {R"({"images": [{"id": 1, "file_name": "a"}], "annotations": []})", "categories"},
      {Coco(R"({"a": 1})"), "list"},
      {Coco(R"([{"image_id": 3, "prompt": "a", "boxes": []}])"), "no known image"},
      {Coco(R"([{"image_id": 1, "prompt": "a"}])"), "truth"},
      {Coco(R"([{"image_id": 1, "prompt": "a", "annotation_ids": [13]}])"), "does not have"},
      {Coco(R"([{"image_id": 1, "prompt": "a", "annotation_ids": [99]}])"), "does not have"},
      {Coco(R"([{"image_id": 2, "prompt": "a", "annotation_ids": [12]}])"), "crowd"},
      {R"([{"sentences": ["a"], "file_name": "a.jpg"}])", "id"},
      {R"([{"sentences": ["a"], "file_name": "a.jpg", "ann_id": 4}])", "instances.json"},
      {R"([{"sentences": [3], "file_name": "a.jpg", "bbox": [1, 1, 1, 1]}])", "question"},
      {R"([{"sentences": ["a"], "file_name": "../a.jpg", "bbox": [1, 1, 1, 1]}])", "file name"},
  };
  for (const auto& [json, why] : cases) {
    EXPECT_THAT(Read(json), ElementsAre(HasSubstr(why))) << json;
  }
  const std::string good = Coco(R"([{"image_id": 1, "prompt": "a", "boxes": [[1, 2, 3, 4]]}])");
  for (size_t cut = 1; cut < good.size() - 1; cut += 5) {
    EXPECT_FALSE(ParseEvalData(good.substr(0, cut), "", {}).ok()) << cut;
  }
}

TEST(EvalDataTest, FindsTheFileAndThePictures) {
  namespace fs = std::filesystem;
  const fs::path dir = fs::path(::testing::TempDir()) / "eval_data";
  fs::remove_all(dir);
  fs::create_directories(dir / "images");
  EXPECT_FALSE(LoadEvalData(dir.string(), "", {}).ok());
  std::ofstream(dir / "scenes.json") << R"([{"file": "a.png", "prompt": "a", "boxes": []}])";
  auto data = LoadEvalData(dir.string(), "", {});
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->name, "scenes.json");
  EXPECT_EQ(data->images, dir.string());
  std::ofstream(dir / "images" / "a.png") << "x";
  EXPECT_EQ(LoadEvalData((dir / "scenes.json").string(), "", {})->images,
            (dir / "images").string());
  EXPECT_EQ(LoadEvalData(dir.string(), "/elsewhere", {})->images, "/elsewhere");
  EXPECT_FALSE(LoadEvalData((dir / "none.json").string(), "", {}).ok());
  EXPECT_FALSE(ReadWhole((dir / "scenes.json").string(), 3).ok());
}

}  // namespace
}  // namespace chord::cli
