#include "services/cli/eval/eval_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

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
    {"id": 13, "image_id": 2, "category_id": 7, "bbox": [0, 0, 4, 0.5]}]PROMPTS
})";

std::string Coco(const std::string& prompts = "") {
  return absl::StrReplaceAll(
      kCoco, {{"PROMPTS", prompts.empty() ? "" : absl::StrCat(", \"questions\": ", prompts)}});
}

TEST(EvalDataTest, AsksCocoForItsCategoriesAndForWhatIsNotThere) {
  EXPECT_THAT(Read(Coco()),
              ElementsAre("one.jpg|find every dog|several|1,2,11,22 5,5,10,10",
                          "one.jpg|find the cat|absent|", "two.jpg|find the dog|one|0,0,4,0.5",
                          "two.jpg|find the cow|absent|"));
  EXPECT_EQ(Read(Coco(), {.absent_per_image = 0}).size(), 2u);
}

TEST(EvalDataTest, TakesRequestsWithEveryFormOfTruth) {
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
  EXPECT_THAT(Read(refs, {.split = "none"}, Coco()), ElementsAre(HasSubstr("no prompt")));
  EXPECT_THAT(Read(refs), ElementsAre(HasSubstr("instances.json")));
  EXPECT_THAT(Read(R"({"refs": [{"file_name": "a.jpg", "bbox": [1, 2, 3, 4],
                                 "sentences": [{"sent": "it"}]}]})"),
              ElementsAre("a.jpg|it|ref|1,2,4,6|first"));
}

TEST(EvalDataTest, RefusesWhatIsMalformed) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "JSON"},
      {"{", "JSON"},
      {"[]", "no prompt"},
      {"{}", "images"},
      {"3", "neither"},
      {"[3]", "file name"},
      {R"([{"file": "../a.png", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "/etc/passwd", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "a/../../b", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "a\u0000b", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "..\\b", "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": 3, "prompt": "a", "boxes": []}])", "file name"},
      {R"([{"file": "a", "prompt": "", "boxes": []}])", "prompt"},
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
      {R"([{"sentences": [3], "file_name": "a.jpg", "bbox": [1, 1, 1, 1]}])", "prompt"},
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

// As MDETR has RefCOCO: an image for each sentence.
TEST(EvalDataTest, CaptionsOfImagesAreRequests) {
  const auto items = ParseEvalData(
      R"({"images": [{"id": 1, "file_name": "a.jpg", "caption": "the left cat",
                      "dataset_name": "refcoco"},
                     {"id": 2, "file_name": "a.jpg", "caption": "cats"},
                     {"id": 3, "file_name": "b.jpg"}],
          "annotations": [{"image_id": 1, "id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
                          {"image_id": 2, "id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]},
                          {"image_id": 2, "id": 3, "category_id": 1, "bbox": [5, 5, 5, 5]}],
          "categories": [{"id": 1, "name": "object"}]})",
      "", {});
  ASSERT_TRUE(items.ok()) << items.status();
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[0].prompt, "the left cat");
  EXPECT_TRUE((*items)[0].first_box_only);
  ASSERT_EQ((*items)[0].truth.size(), 1u);
  EXPECT_EQ((*items)[0].truth[0].x2, 4);
  EXPECT_FALSE((*items)[1].first_box_only);
  EXPECT_EQ((*items)[1].truth.size(), 2u);
}

class EvalFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_ / "images");
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name) << text;
  }
  absl::StatusOr<EvalData> Load(const std::string& name = "", const std::string& images = "") {
    return LoadEvalData((dir_ / name).string(), images, {});
  }
  std::string Why(const std::string& name = "") {
    return std::string(Load(name).status().message());
  }
  const std::filesystem::path dir_ =
      std::filesystem::path(::testing::TempDir()) / ("eval_data_" + std::to_string(getpid()));
};

constexpr char kScene[] = R"([{"file": "a.png", "prompt": "a", "boxes": []}])";
constexpr char kRefs[] =
    R"([{"image_id": 1, "ann_id": 11, "file_name": "cut_11.jpg", "sentences": [{"raw": "a"}]}])";

TEST_F(EvalFilesTest, FindsTheFileAndTheImages) {
  EXPECT_FALSE(Load().ok());
  Write("scenes.json", absl::StrCat("\xef\xbb\xbf", kScene));
  // Told before anything is asked.
  EXPECT_THAT(Why(), HasSubstr("--images"));
  Write("images/a.png", "x");
  const auto data = Load();
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->name, "scenes.json");
  EXPECT_EQ(Load("scenes.json")->images, (dir_ / "images").string());
  EXPECT_EQ(Load("", (dir_ / "images").string())->images, (dir_ / "images").string());
  EXPECT_FALSE(Load("", "/elsewhere").ok());
  Write("a.png", "x");
  EXPECT_EQ(Load()->images, dir_.string());
  EXPECT_FALSE(Load("none.json").ok());
}

TEST_F(EvalFilesTest, OneMissingImageIsNoReasonToRefuse) {
  Write("scenes.json", R"([{"file": "none.png", "prompt": "a", "boxes": []},
                           {"file": "a.png", "prompt": "a", "boxes": []}])");
  Write("images/a.png", "x");
  EXPECT_EQ(Load()->images, (dir_ / "images").string());
}

TEST_F(EvalFilesTest, TakesTheNamesThatDataSetsHave) {
  Write("a.jpg", "x");
  const std::string instances = R"({"images": [{"id": 1, "file_name": "a.jpg"}],
      "annotations": [{"id": 11, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
      "categories": [{"id": 1, "name": "cat"}]})";
  Write("instances_val2017.json", instances);
  EXPECT_EQ(Load()->items[0].prompt, "find the cat");
  Write("instances_train2017.json", instances);
  EXPECT_THAT(Why(), HasSubstr("several data files: instances_train2017.json"));
  Write("instances.json", instances);
  EXPECT_EQ(Load()->name, "instances.json");
  Write("refs(unc).json", kRefs);
  EXPECT_EQ(Load()->items[0].file, "a.jpg");
  Write("refs(google).json", kRefs);
  EXPECT_THAT(Why(), HasSubstr("several data files: refs(google).json refs(unc).json"));
}

TEST_F(EvalFilesTest, APickleIsRefusedWithWhatToDo) {
  Write("a.jpg", "x");
  Write("instances.json", R"({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [],
      "categories": [{"id": 1, "name": "cat"}]})");
  ASSERT_TRUE(Load().ok());
  Write("refs(unc).p", "(lp0\n(dp1\nVsent_ids\np2\n");
  EXPECT_THAT(Why(), HasSubstr("json.dump")) << "not measured as COCO";
  EXPECT_THAT(Why("refs(unc).p"), HasSubstr("refs(unc).p is a Python pickle"));
  Write("refs", "\x80\x02]q\x01");
  EXPECT_THAT(Why("refs"), HasSubstr("pickle"));
}

}  // namespace
}  // namespace chord::cli
