// image_source and image_view.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "common/base/errors.h"
#include "services/cli/mcp/image_source.h"
#include "services/cli/mcp/image_view.h"
#include "tests/support/has_reason.h"

namespace chord::cli::mcp {
namespace {

namespace fs = std::filesystem;

TEST(ImageSourceTest, ReadsBelowItsRootAlone) {
  const fs::path folder = fs::path(testing::TempDir()) / "chord_mcp_image_source";
  fs::remove_all(folder);
  const absl::Cleanup remove = [&] { fs::remove_all(folder); };
  fs::create_directories(folder / "root" / "sub");
  std::ofstream(folder / "root" / "sub" / "a") << "inside";
  std::ofstream(folder / "secret") << "outside";
  fs::create_symlink(folder / "secret", folder / "root" / "link");
  const auto source = ImageSource::Create((folder / "root").string());
  ASSERT_TRUE(source.ok());
  EXPECT_EQ(*source->ReadFile("sub/a"), "inside");
  EXPECT_EQ(*source->ReadFile((folder / "root" / "sub" / "a").string()), "inside");
  for (const std::string& path :
       {std::string("../secret"), (folder / "secret").string(), std::string("link"),
        std::string("sub/../../secret"), std::string("/absent"), std::string(),
        std::string("sub/a\0b", 7)}) {
    EXPECT_THAT(source->ReadFile(path).status(), HasReason(Reason::kParameterInvalid)) << path;
  }
  EXPECT_THAT(source->ReadFile("sub/absent").status(), HasReason(Reason::kConfigInvalid));
  EXPECT_EQ(*ImageSource::Create("")->ReadFile((folder / "secret").string()), "outside");
  EXPECT_FALSE(ImageSource::Create((folder / "secret").string()).ok());
}

TEST(ImageViewTest, ExpandsInsideTheImage) {
  const image::Size size{100, 50};
  EXPECT_EQ(Expand({40, 20, 60, 30}, 0, size), (image::Box{40, 20, 60, 30}));
  EXPECT_EQ(Expand({40, 20, 60, 30}, 0.5, size), (image::Box{30, 15, 70, 35}));
  EXPECT_EQ(Expand({0, 0, 100, 50}, 10, size), (image::Box{0, 0, 100, 50}));
  EXPECT_EQ(Expand({90, 40, 100, 50}, 1, size), (image::Box{80, 30, 100, 50}));
}

TEST(ImageViewTest, FitsTheLongerSide) {
  EXPECT_EQ(Fit({2000, 1000}, 500, 1), (image::Size{500, 250}));
  EXPECT_EQ(Fit({20, 10}, 500, 1), (image::Size{20, 10}));
  EXPECT_EQ(Fit({20, 10}, 500, 16), (image::Size{320, 160}));
  EXPECT_EQ(Fit({20, 10}, 100, 16), (image::Size{100, 50}));
  EXPECT_EQ(Fit({1, 1000}, 100, 1), (image::Size{1, 100}));
}

TEST(ImageViewTest, CropsPixels) {
  image::RgbImage image{3, 2, {}};
  for (uint8_t i = 0; i < 18; ++i) image.rgb.push_back(i);
  const image::RgbImage part = Crop(image, {1, 0, 3, 2});
  EXPECT_EQ(part.width, 2);
  EXPECT_EQ(part.height, 2);
  EXPECT_THAT(part.rgb, testing::ElementsAre(3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17));
}

TEST(ImageViewTest, EncodesWhatDecodesAgain) {
  const image::RgbImage image{2, 1, {10, 20, 30, 40, 50, 60}};
  const auto text = ToBase64Png(image, {2, 1});
  ASSERT_TRUE(text.ok());
  std::string png;
  ASSERT_TRUE(absl::Base64Unescape(*text, &png));
  const auto again = image::Decode(png, {});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->rgb, image.rgb);
}

}  // namespace
}  // namespace chord::cli::mcp
