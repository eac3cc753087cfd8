#include "services/vision_worker/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "common/config/settings.h"

namespace chord::vision_worker {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Settings> FromFlags(std::vector<std::string> flags) {
  config::v1::VisionWorker config;
  if (auto status = config::ApplyFlags(flags, &config); !status.ok()) return status;
  return CheckSettings(config);
}

TEST(VisionWorkerSettings, FillInTheDefaults) {
  const auto settings = FromFlags({"--model_dir=/m", "--language_workers=llm-0=unix:/s"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->max_queue, 32);
  EXPECT_EQ(settings->max_batch_patches, 0);  // by the device
  EXPECT_EQ(settings->max_image_bytes, limits::kDefaultImageBytes);
  EXPECT_EQ(settings->language_workers.at("llm-0"), "unix:/s");
  EXPECT_EQ(settings->attention, engine::Attention::kAuto);
}

TEST(VisionWorkerSettings, ChooseTheAttentionKernels) {
  const auto settings =
      FromFlags({"--model_dir=/m", "--language_workers=llm-0=unix:/s", "--attention=efficient"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->attention, engine::Attention::kEfficient);
}

TEST(VisionWorkerSettings, NameTheFieldThatIsWrongAndKeepTheCeilings) {
  const std::pair<const char*, const char*> cases[] = {
      {"--max_image_bytes=67108865", "max_image_bytes"},
      {"--max_image_pixels=100000001", "max_image_pixels"},
      {"--max_queue=-1", "max_queue"},
      {"--max_pixels_in_flight=-1", "max_pixels_in_flight"},
      {"--max_batch_patches=262145", "max_batch_patches"},
      {"--max_batch_patches=-1", "max_batch_patches"},
      {"--attention=fast", "attention"},
      {"--language_workers=UPPER=unix:/s", "language_workers"},
      {"--language_workers=a=", "address"},
  };
  for (const auto& [flag, field] : cases) {
    const auto settings = FromFlags({"--model_dir=/m", "--language_workers=llm-0=unix:/s", flag});
    EXPECT_EQ(ErrorReason(settings.status()), "CONFIG_INVALID") << flag;
    EXPECT_THAT(std::string(settings.status().message()), HasSubstr(field));
  }
  EXPECT_THAT(std::string(FromFlags({"--model_dir=/m"}).status().message()),
              HasSubstr("language_workers"));
  EXPECT_THAT(
      std::string(FromFlags({"--model_dir=/m", "--language_workers=a=x", "--language_workers=a=y"})
                      .status()
                      .message()),
      HasSubstr("twice"));
}

}  // namespace
}  // namespace chord::vision_worker
