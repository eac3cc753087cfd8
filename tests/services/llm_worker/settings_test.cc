#include "services/llm_worker/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "common/config/settings.h"

namespace chord::llm_worker {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Settings> FromFlags(std::vector<std::string> flags) {
  config::v1::LlmWorker config;
  if (auto status = config::ApplyFlags(flags, &config); !status.ok()) return status;
  return CheckSettings(config);
}

TEST(LlmWorkerSettings, FillInTheDefaults) {
  const auto settings = FromFlags({"--model_dir=/m"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->device, "auto");
  EXPECT_EQ(settings->max_sequences, 0);
  EXPECT_EQ(settings->attention, engine::Attention::kAuto);
  EXPECT_EQ(settings->kv_type, engine::KvType::kModel);
  EXPECT_EQ(settings->image_cache_bytes, 0);  // by the model
  EXPECT_EQ(settings->image_ttl, absl::Minutes(10));
  EXPECT_EQ(settings->max_queue, 64);
  EXPECT_EQ(settings->ticket_ttl, absl::Seconds(30));
}

TEST(LlmWorkerSettings, TakeWhatIsGiven) {
  const auto settings =
      FromFlags({"--model_dir=/m", "--kv_tokens=4096", "--kv_dtype=int8", "--prefill_tokens=64",
                 "--max_sequences=3", "--packed_cache_dir=/c", "--packed_cache_bytes=1000"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->kv_tokens, 4096);
  EXPECT_EQ(settings->kv_type, engine::KvType::kInt8);
  EXPECT_EQ(settings->prefill_tokens, 64);
  EXPECT_EQ(settings->max_sequences, 3);
  EXPECT_EQ(settings->packed_cache.dir, "/c");
  EXPECT_EQ(settings->packed_cache.max_bytes, 1000);
  EXPECT_EQ(FromFlags({"--model_dir=/m", "--packed_cache_dir=none"})->packed_cache.dir, "");
}

TEST(LlmWorkerSettings, NameTheFieldThatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"--max_sequences=-1", "max_sequences"},
      {"--max_sequences=5000", "max_sequences"},
      {"--max_queue=-3", "max_queue"},
      {"--ticket_ttl_seconds=1e9", "ticket_ttl_seconds"},
      {"--drain_seconds=-1", "drain_seconds"},
      {"--max_sequence_tokens=3", "max_sequence_tokens"},
      {"--threads=100000", "threads"},
      {"--kv_tokens=-5", "kv_tokens"},
      {"--kv_dtype=int4", "kv_dtype"},
      {"--prefill_tokens=1", "prefill_tokens"},
      {"--image_cache_bytes=-1", "image_cache_bytes"},
      {"--image_ttl_seconds=1e7", "image_ttl_seconds"},
      {"--packed_cache_bytes=-1", "packed_cache_bytes"},
      {"--nonsense=1", "nonsense"},
  };
  for (const auto& [flag, field] : cases) {
    const auto settings = FromFlags({"--model_dir=/m", flag});
    EXPECT_EQ(ErrorReason(settings.status()), "CONFIG_INVALID") << flag;
    EXPECT_THAT(std::string(settings.status().message()), HasSubstr(field));
  }
  EXPECT_THAT(std::string(FromFlags({}).status().message()), HasSubstr("model_dir"));
}

}  // namespace
}  // namespace chord::llm_worker
