#include "common/config/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "chord/config/v1/config.pb.h"
#include "common/base/errors.h"

namespace chord::config {
namespace {

using config::v1::Gateway;

std::string WriteFile(const std::string& text) {
  const std::string path = testing::TempDir() + "/chord_config_test-" + std::to_string(getpid());
  std::ofstream(path) << text;
  return path;
}

TEST(ConfigTest, FlagsOverrideTheFileAndRepeatedFlagsReplaceItsList) {
  const std::string path =
      WriteFile("max_in_flight: 7\nvision_workers { name: 'a' address: 'unix:/a' }\n");
  Gateway config;
  ASSERT_TRUE(ApplyFlags({"--max_in_flight=9", "--config", path, "--vision_workers", "b=unix:/b",
                          "--advice-threshold=0.5"},
                         &config)
                  .ok());
  EXPECT_EQ(config.max_in_flight(), 9);
  EXPECT_EQ(config.advice_threshold(), 0.5);
  ASSERT_EQ(config.vision_workers_size(), 1);
  EXPECT_EQ(config.vision_workers(0).address(), "unix:/b");
}

TEST(ConfigTest, JsonFilesAreTaken) {
  Gateway config;
  ASSERT_TRUE(LoadConfigFile(WriteFile(" {\"httpAddress\": \"127.0.0.1:0\"}"), &config).ok());
  EXPECT_EQ(config.http_address(), "127.0.0.1:0");
}

TEST(ConfigTest, RefusesUnknownFieldsFlagsAndValues) {
  Gateway config;
  EXPECT_EQ(ErrorReason(LoadConfigFile(WriteFile("no_such: 1"), &config)), "CONFIG_INVALID");
  EXPECT_EQ(ErrorReason(LoadConfigFile(WriteFile("{\"noSuch\": 1}"), &config)), "CONFIG_INVALID");
  EXPECT_EQ(ErrorReason(LoadConfigFile("/nonexistent", &config)), "CONFIG_INVALID");
  for (const char* arg : {"--no_such=1", "--max_in_flight=many", "--max_in_flight",
                          "--advice_threshold=nan", "stray", "--vision_workers=nameless"}) {
    EXPECT_EQ(ErrorReason(ApplyFlags({arg}, &config)), "CONFIG_INVALID") << arg;
  }
}

// Every setting of every process says what it means.
TEST(ConfigTest, HelpSaysWhatEachFieldMeans) {
  config::v1::Gateway gateway;
  config::v1::VisionWorker vision;
  config::v1::LlmWorker language;
  for (google::protobuf::Message* config :
       std::initializer_list<google::protobuf::Message*>{&gateway, &vision, &language}) {
    const absl::Status status = ApplyFlags({"--help"}, config);
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    const std::string help(status.message());
    const auto* type = config->GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i) {
      const size_t at = help.find(absl::StrCat("\n  --", type->field(i)->name(), "="));
      ASSERT_NE(at, std::string::npos) << type->field(i)->name();
      EXPECT_EQ(help.substr(help.find('\n', at + 1) + 1, 6), "      ") << type->field(i)->name();
    }
  }
  EXPECT_NE(std::string(ApplyFlags({"--help"}, &gateway).message())
                .find("requests being answered; default 64"),
            std::string::npos);
}

TEST(ApplyFlags, ARepeatedTextCollectsItsValues) {
  config::v1::Gateway settings;
  ASSERT_TRUE(ApplyFlags({"--cors_allowed_origins=https://a.example",
                          "--cors_allowed_origins=https://b.example"},
                         &settings)
                  .ok());
  ASSERT_EQ(settings.cors_allowed_origins_size(), 2);
  EXPECT_EQ(settings.cors_allowed_origins(1), "https://b.example");
}

}  // namespace
}  // namespace chord::config
