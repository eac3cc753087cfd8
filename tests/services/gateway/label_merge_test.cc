#include "services/gateway/label_merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chord::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GroundResult Part(const std::string& text, std::vector<double> confidences,
                  std::optional<double> confidence, bool truncated = false) {
  GroundResult out;
  out.text = out.model_text = text;
  for (const double c : confidences) out.objects.push_back({text, {1, 2, 3, 4}, c, false});
  out.confidence = confidence;
  out.truncated = truncated;
  out.calibrated = true;
  out.usage = {.prompt_tokens = 10,
               .completion_tokens = 3,
               .decode_steps = 2,
               .image_tokens = 7,
               .cached_tokens = 1,
               .image = CacheTier::kKv};
  out.timing.decode = absl::Milliseconds(10 * confidences.size());
  out.timing.first_token = absl::Milliseconds(5 + confidences.size());
  return out;
}

GroundResult Merge(std::vector<GroundResult> parts, bool chinese = false) {
  const std::vector<std::string> labels = {"cup", "plate", "spoon"};
  const auto asked = absl::MakeSpan(labels).subspan(0, parts.size());  // before they are moved
  return MergeByLabel(asked, std::move(parts), chinese, Thresholds());
}

TEST(MergeByLabel, KeepsTheOrderOfTheLabelsAndTheConfidenceOfEach) {
  const GroundResult out =
      Merge({Part("cup", {0.9, 0.8}, 0.8), Part("[]", {}, 0.95), Part("spoon", {0.99}, 0.9)});
  ASSERT_EQ(out.objects.size(), 3u);
  ASSERT_EQ(out.labels.size(), 3u);
  EXPECT_THAT(out.labels[0].objects, ElementsAre(0, 1));
  EXPECT_THAT(out.labels[1].objects, IsEmpty());
  EXPECT_THAT(out.labels[2].objects, ElementsAre(2));
  EXPECT_EQ(out.labels[1].label, "plate");
  EXPECT_EQ(out.labels[1].confidence, 0.95);
  EXPECT_EQ(out.confidence, 0.8);
  EXPECT_EQ(out.text, "cup\n[]\nspoon");
  EXPECT_EQ(out.model_text, out.text);
  EXPECT_EQ(out.advice, "");
}

TEST(MergeByLabel, AnAbsenceThatIsUnsureMakesTheAnswerUnsure) {
  const GroundResult out = Merge({Part("cup", {0.9}, 0.9), Part("[]", {}, 0.4)});
  EXPECT_EQ(out.confidence, 0.4);
  EXPECT_THAT(out.advice, HasSubstr("plate: If it is in the image"));
  EXPECT_THAT(Merge({Part("cup", {0.5}, 0.5), Part("[]", {}, 0.6)}).advice,
              HasSubstr("cup: Say more exactly"));
}

TEST(MergeByLabel, ALabelThatWasCutIsNotKnownAndTheAnswerSaysSo) {
  const GroundResult some = Merge({Part("cup", {0.9}, 0.9), Part("[", {}, std::nullopt, true)});
  EXPECT_TRUE(some.truncated);
  EXPECT_EQ(some.confidence, 0.9);
  EXPECT_EQ(some.labels[1].confidence, std::nullopt);
  EXPECT_THAT(some.advice, HasSubstr("max_new_tokens"));
  const GroundResult none = Merge({Part("[]", {}, 0.9), Part("[", {}, std::nullopt, true)}, true);
  EXPECT_EQ(none.confidence, std::nullopt);
  EXPECT_EQ(none.labels[0].confidence, 0.9);
  EXPECT_THAT(none.advice, HasSubstr("max_new_tokens"));
}

TEST(MergeByLabel, AddsUpTokensAndTakesTheLongestTimes) {
  std::vector<GroundResult> parts = {Part("cup", {0.9, 0.9}, 0.9), Part("[]", {}, 0.9)};
  parts[0].usage.image = CacheTier::kNone;
  parts[0].vision_worker = "v";
  parts[1].calibrated = false;
  const GroundResult out = Merge(std::move(parts));
  EXPECT_EQ(out.usage.prompt_tokens, 20);
  EXPECT_EQ(out.usage.completion_tokens, 6);
  EXPECT_EQ(out.usage.decode_steps, 4);
  EXPECT_EQ(out.usage.cached_tokens, 2);
  EXPECT_EQ(out.usage.image_tokens, 7) << "the image is there once";
  EXPECT_EQ(out.usage.image, CacheTier::kNone);
  EXPECT_EQ(out.timing.decode, absl::Milliseconds(20));
  EXPECT_EQ(out.timing.first_token, absl::Milliseconds(5));
  EXPECT_EQ(out.vision_worker, "v");
  EXPECT_FALSE(out.calibrated);
}

}  // namespace
}  // namespace chord::gateway
