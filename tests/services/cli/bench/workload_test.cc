#include "services/cli/bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::cli {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ArrivalsTest, GapsAreExponentialWithTheRatesMean) {
  Arrivals arrivals(50, 7);
  constexpr int kCount = 20'000;
  double last = 0, sum = 0, squares = 0;
  int over_the_mean = 0;
  for (int i = 0; i < kCount; ++i) {
    const double at = arrivals.Next();
    const double gap = at - last;
    ASSERT_GE(gap, 0);
    last = at;
    sum += gap;
    squares += gap * gap;
    if (gap > 1.0 / 50) ++over_the_mean;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean * 50, 1, 0.03);
  // The standard deviation of an exponential is its mean, and e^-1 of the gaps exceed it.
  EXPECT_NEAR(std::sqrt(squares / kCount - mean * mean) * 50, 1, 0.05);
  EXPECT_NEAR(static_cast<double>(over_the_mean) / kCount, std::exp(-1), 0.02);
}

TEST(ArrivalsTest, TheSeedDecidesThem) {
  Arrivals one(3, 1), same(3, 1), other(3, 2);
  const double first = one.Next();
  EXPECT_EQ(first, same.Next());
  EXPECT_NE(first, other.Next());
  Arrivals faster(30, 1);
  EXPECT_NEAR(faster.Next(), first / 10, 1e-12);
}

TEST(ParseRatesTest, TakesARateAListAndASweep) {
  EXPECT_THAT(*ParseRates("5"), ElementsAre(5));
  EXPECT_THAT(*ParseRates("2,4.5,8"), ElementsAre(2, 4.5, 8));
  EXPECT_THAT(*ParseRates("1:16:5"),
              ElementsAre(1, DoubleNear(2, 1e-9), DoubleNear(4, 1e-9), DoubleNear(8, 1e-9), 16));
  EXPECT_THAT(*ParseRates("8:2:2"), ElementsAre(8, 2));
}

TEST(ParseRatesTest, RefusesWhatIsNoRate) {
  for (const char* text : {"", "0", "-1", "nan", "inf", "1,", "x", "1:2", "1:2:1", "1:2:65",
                           "1:2:3:4", "0:2:3", "100001", "1:2:1e9"}) {
    EXPECT_THAT(ParseRates(text).status(), HasReason(Reason::kParameterInvalid)) << text;
  }
  std::string many = "1";
  for (size_t i = 0; i < kMaxBenchRuns; ++i) many += ",1";
  EXPECT_FALSE(ParseRates(many).ok());
}

std::string Told(absl::string_view text) {
  const auto rows = ParsePrompts(text);
  if (!rows.ok()) return std::string(rows.status().message());
  std::string out;
  for (const NamedPrompt& row : *rows) out += row.file + ":" + row.prompt + ";";
  return out;
}

TEST(ParsePromptsTest, ReadsEveryForm) {
  const struct {
    const char* text;
    const char* told;
  } kCases[] = {
      {R"([{"file": "a.png", "prompt": "cat"}, {"image": "b.png", "question": "狗"}])",
       "a.png:cat;b.png:狗;"},
      {"{\"file\": \"a.png\", \"prompt\": \"x\"}\n\n{\"file_name\": \"b\", \"sentence\": "
       "\"y\"}\r\n",
       "a.png:x;b:y;"},
      {R"({"file": "a.png", "prompt": "x"})", "a.png:x;"},
      {"\xef\xbb\xbf[{\"file\": \"a\", \"prompts\": [\"x\", \"y\"]}]", "a:x;a:y;"},
      // COCO: several of a kind are one prompt; one that is used twice is asked of each image.
      {R"({"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}],
           "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
           "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 1, "category_id": 7},
                           {"image_id": 1, "category_id": 8}, {"image_id": 2, "category_id": 7}]})",
       "a:all cat;a:all dog;b:all cat;"},
      {R"({"images": [{"id": "x", "file_name": "a"}],
           "annotations": [{"image_id": "x", "sentences": [{"raw": "left cat"}, {"sent": "it"}]},
                           {"image_id": "x", "caption": "the big one"}]})",
       "a:left cat;a:it;a:the big one;"},
      {R"({"images": [{"id": 1, "file_name": "a", "caption": "the left cat"}],
           "categories": [{"id": 1, "name": "object"}],
           "annotations": [{"image_id": 1, "category_id": 1}]})",
       "a:the left cat;"},
  };
  for (const auto& c : kCases) EXPECT_EQ(Told(c.text), c.told);
}

TEST(ParsePromptsTest, RefsNameTheirImagesByTheInstances) {
  const auto rows = ParsePrompts(
      R"([{"image_id": 1, "ann_id": 5, "file_name": "cut_5.jpg", "sentences": [{"raw": "it"}]}])",
      R"({"images": [{"id": 1, "file_name": "a.jpg"}],
          "annotations": [{"id": 5, "image_id": 1, "bbox": [1, 2, 3, 4]}]})");
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].file, "a.jpg");
  EXPECT_EQ((*rows)[0].prompt, "it");
}

TEST(ParsePromptsTest, SaysWhichRowCannotBeRead) {
  EXPECT_THAT(Told("{\"file\": \"a\", \"prompt\": \"x\"}\nnonsense\n"), HasSubstr("Line 2"));
  EXPECT_THAT(Told(R"([{"file": "a", "prompt": "x"}, {"file": "a"}])"), HasSubstr("Row 2"));
  EXPECT_THAT(Told(R"([{"file": 3, "prompt": "x"}])"), HasSubstr("Row 1"));
  EXPECT_THAT(Told(R"({"images": [], "annotations": [{"image_id": 5, "caption": "x"}]})"),
              HasSubstr("annotation"));
  EXPECT_THAT(Told("[]"), HasSubstr("no prompt"));
  EXPECT_THAT(Told(""), HasSubstr("no prompt"));
}

class LoadDatasetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/bench_mix_" +
           testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << bytes;
  }
  std::string dir_;
};

TEST_F(LoadDatasetTest, ReadsTheBundledRequestsEachImageOnce) {
  const auto dataset = LoadDataset(std::string(CHORD_SOURCE_DIR) + "/demo", "");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_GE(dataset->prompts.size(), 8u);
  std::set<int> used;
  for (const BenchRequest& prompt : dataset->prompts) used.insert(prompt.image);
  EXPECT_EQ(used.size(), dataset->images.size());
}

TEST_F(LoadDatasetTest, RequestsOnOneImageShareIt) {
  Write("a.png", "bytes");
  Write("q.jsonl",
        "{\"file\": \"a.png\", \"prompt\": \"x\"}\n{\"file\": \"a.png\", \"prompt\": \"y\"}");
  const auto dataset = LoadDataset(dir_, "");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->images.size(), 1u);
  EXPECT_EQ(dataset->prompts.size(), 2u);
}

TEST_F(LoadDatasetTest, APromptAsksEveryImageAndNothingElse) {
  Write("a.png", "\x89PNG\r\n\x1a\n");
  Write("readme.txt", "no image");
  Write("q.json", "[]");
  const auto dataset = LoadDataset(dir_, "the cat");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_EQ(dataset->prompts.size(), 1u);
  EXPECT_EQ(dataset->prompts[0].prompt, "the cat");
  EXPECT_EQ(LoadDataset(dir_ + "/a.png", "x")->images[0].name, "a.png");
  EXPECT_FALSE(LoadDataset(dir_ + "/readme.txt", "x").ok());
}

TEST_F(LoadDatasetTest, ImagesMayLieElsewhere) {
  std::filesystem::create_directories(dir_ + "/images");
  std::filesystem::create_directories(dir_ + "/val2017");
  Write("q.json", R"([{"file": "a.png", "prompt": "x"}])");
  Write("val2017/a.png", "there");
  EXPECT_THAT(std::string(LoadDataset(dir_ + "/q.json", "").status().message()),
              HasSubstr("--images"));
  const auto there = LoadDataset(dir_ + "/q.json", "", dir_ + "/val2017");
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_EQ(there->images[0].bytes, "there");
  Write("images/a.png", "here");
  EXPECT_EQ(LoadDataset(dir_, "")->images[0].bytes, "here");
}

TEST_F(LoadDatasetTest, AFolderOfRefsIsNotAskedAboutItsInstances) {
  Write("a.jpg", "bytes");
  Write("instances.json", R"({"images": [{"id": 1, "file_name": "a.jpg"}],
      "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
      "categories": [{"id": 1, "name": "cat"}]})");
  EXPECT_EQ(LoadDataset(dir_, "")->prompts[0].prompt, "all cat");
  Write("refs(unc).json",
        R"([{"image_id": 1, "ann_id": 5, "file_name": "cut.jpg", "sentences": [{"raw": "it"}]}])");
  const auto refs = LoadDataset(dir_, "");
  ASSERT_TRUE(refs.ok()) << refs.status();
  ASSERT_EQ(refs->prompts.size(), 1u);
  EXPECT_EQ(refs->prompts[0].prompt, "it");
  Write("refs(google).p", "(lp0\n");
  EXPECT_THAT(std::string(LoadDataset(dir_, "").status().message()), HasSubstr("pickle"));
}

TEST_F(LoadDatasetTest, SaysWhatIsMissing) {
  EXPECT_FALSE(LoadDataset(dir_ + "/absent", "").ok());
  EXPECT_THAT(std::string(LoadDataset(dir_, "").status().message()), HasSubstr("nothing to ask"));
  Write("q.json", R"([{"file": "absent.png", "prompt": "x"}])");
  EXPECT_THAT(std::string(LoadDataset(dir_, "").status().message()), HasSubstr("absent.png"));
}

TEST(WorkloadSamplerTest, DrawsEveryRequestAboutEquallyOftenAndTheShareByReference) {
  WorkloadSampler mix(4, 0.3, 5);
  int count[4] = {};
  int by_id = 0;
  for (int i = 0; i < 8000; ++i) {
    const WorkloadSampler::Draw draw = mix.Next();
    ASSERT_GE(draw.prompt, 0);
    ASSERT_LT(draw.prompt, 4);
    ++count[draw.prompt];
    if (draw.by_id) ++by_id;
  }
  for (const int n : count) EXPECT_NEAR(n, 2000, 200);
  EXPECT_NEAR(by_id, 2400, 200);
}

TEST(WorkloadSamplerTest, ZeroIsNeverAndOneIsAlways) {
  WorkloadSampler never(1, 0, 1), always(1, 1, 1);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_FALSE(never.Next().by_id);
    ASSERT_TRUE(always.Next().by_id);
  }
}

}  // namespace
}  // namespace chord::cli
