#include "services/vision_worker/prepare.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::vision_worker {
namespace {

std::string Png(int width, int height) {
  image::RgbImage image;
  image.width = width;
  image.height = height;
  image.rgb.resize(size_t{3} * width * height);
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i * 7);
  const auto bytes = image::EncodePng(image);
  EXPECT_TRUE(bytes.ok());
  return std::string(bytes->begin(), bytes->end());
}

class PreparePatchesTest : public ::testing::Test {
 protected:
  PreparePatchesTest() {
    rules_.values_per_patch = 3 * 2 * 14 * 14;
    bytes_ = Png(100, 80);
    plan_ = *image::PlanFrame(*image::Probe(bytes_, rules_.limits), rules_.geometry);
  }
  absl::StatusOr<PreparedImage> Prepare(const CancelToken& cancel = {}) {
    return PreparePatches(bytes_, plan_, rules_, pixels_, cancel);
  }
  PatchRules rules_;
  ResourceBudget pixels_{1'000'000};
  std::string bytes_;
  image::FramePlan plan_;
};

TEST_F(PreparePatchesTest, GivesThePatchesThatThePlanPromised) {
  const auto patches = Prepare();
  ASSERT_TRUE(patches.ok()) << patches.status();
  EXPECT_EQ(static_cast<int64_t>(patches->patches.size()), plan_.grid.patches() * 1176);
  EXPECT_EQ(pixels_.in_use(), 0);
}

TEST_F(PreparePatchesTest, KeepsThePixelsForATowerThatPrefersThem) {
  rules_.keep_pixels = true;
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(prepared->patches.empty());
  const auto image = image::Decode(bytes_, {});
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(prepared->pixels, image::Resize(*image, plan_.resized, image::ResizeMode::kTorch).rgb);
  EXPECT_EQ(pixels_.in_use(), 0);
}

TEST_F(PreparePatchesTest, RefusesAnImageThatDiffersFromThePlan) {
  bytes_ = Png(80, 100);  // as many pixels, sides swapped
  EXPECT_THAT(Prepare().status(), HasReason(Reason::kFrameMismatch));
  bytes_ = Png(101, 80);
  EXPECT_THAT(Prepare().status(), HasReason(Reason::kFrameMismatch));
  EXPECT_EQ(pixels_.in_use(), 0);
}

TEST_F(PreparePatchesTest, RefusesDamagedImagesAndGivesItsShareBack) {
  bytes_.resize(bytes_.size() / 2);
  EXPECT_THAT(Prepare().status(), HasReason(Reason::kImageCorrupt));
  bytes_ = "GIF89a...";
  EXPECT_THAT(Prepare().status(), HasReason(Reason::kImageFormatUnsupported));
  EXPECT_EQ(pixels_.in_use(), 0);
}

TEST_F(PreparePatchesTest, StopsWhenCancelled) {
  CancelSource source;
  source.Cancel(errors::Cancelled());
  EXPECT_THAT(Prepare(source.token()).status(), HasReason(Reason::kCancelled));
  EXPECT_EQ(pixels_.in_use(), 0);
}

}  // namespace
}  // namespace chord::vision_worker
