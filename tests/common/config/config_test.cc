#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "chord/config/v1/config.pb.h"
#include "common/base/errors.h"
#include "common/config/settings.h"

namespace chord::config {
namespace {

using config::v1::Gateway;

std::string WriteFile(const std::string& text) {
  const std::string path = testing::TempDir() + "/chord_config_test-" + std::to_string(getpid());
  std::ofstream(path) << text;
  return path;
}

absl::StatusOr<LoadedSettings> Load(const std::string& yaml, std::vector<std::string> flags = {},
                                    std::vector<std::string> environment = {}) {
  flags.insert(flags.begin(), absl::StrCat("--config=", WriteFile(yaml)));
  return LoadSettings({flags, "gateway", environment});
}

TEST(SettingsTest, FlagsWinOverVariablesAndVariablesOverTheFile) {
  const auto loaded = Load(
      "model_dir: /models/m\n"
      "log: {level: error}\n"
      "gateway:\n"
      "  max_in_flight: 7\n"
      "  max_batch: 3\n"
      "  max_sessions: 5\n"
      "  vision_workers: [a=unix:/a, {name: c, address: 'unix:/c'}]\n",
      {"--max_in_flight=9", "--vision-workers", "b=unix:/b", "--log.level=debug"},
      {"CHORD_GATEWAY_MAX_IN_FLIGHT=8", "CHORD_GATEWAY_MAX_BATCH=4", "CHORD_GATEWAY_PORT=tcp://x",
       "CHORD_GATEWAY_LANGUAGE_WORKERS=l=dns:l:1, m=dns:m:1",
       "CHORD_LLM_WORKER_DEVICE=", "HOME=/"});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Gateway& gateway = loaded->values.gateway();
  EXPECT_EQ(gateway.max_in_flight(), 9);
  EXPECT_EQ(gateway.max_batch(), 4);
  EXPECT_EQ(gateway.max_sessions(), 5);
  ASSERT_EQ(gateway.vision_workers_size(), 1);
  EXPECT_EQ(gateway.vision_workers(0).address(), "unix:/b");
  ASSERT_EQ(gateway.language_workers_size(), 2);
  EXPECT_EQ(gateway.language_workers(1).name(), "m");
  EXPECT_EQ(gateway.model_dir(), "/models/m");
  EXPECT_EQ(loaded->values.llm_worker().model_dir(), "/models/m");
  EXPECT_EQ(loaded->values.log().level(), "debug");
  EXPECT_THAT(loaded->unknown_variables, testing::ElementsAre("CHORD_GATEWAY_PORT"));
  EXPECT_EQ(loaded->origins.at("gateway.max_in_flight"), "--max_in_flight");
  EXPECT_EQ(loaded->origins.at("gateway.max_batch"), "$CHORD_GATEWAY_MAX_BATCH");
  EXPECT_THAT(loaded->origins.at("gateway.max_sessions"), testing::EndsWith(":6"));
  EXPECT_EQ(loaded->origins.count("llm_worker.device"), 0u);
}

TEST(SettingsTest, TheVariableNamesTheFileWhenNoFlagDoes) {
  const std::string path = WriteFile("gateway: {max_batch: 3}");
  const auto loaded = LoadSettings({{}, "gateway", {absl::StrCat("CHORD_CONFIG=", path)}});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->values.gateway().max_batch(), 3);
}

TEST(SettingsTest, JsonIsYamlAndBytesHaveUnits) {
  const auto loaded =
      Load(R"({"gateway": {"http_address": "127.0.0.1:0", "max_image_bytes": "2 MiB"}})");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->values.gateway().http_address(), "127.0.0.1:0");
  EXPECT_EQ(loaded->values.gateway().max_image_bytes(), 2 << 20);
}

TEST(SettingsTest, AnErrorNamesTheLineAndTheSetting) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"gateway:\n  max_in_flihgt: 3\n",
       ":2: there is no setting \"gateway.max_in_flihgt\". Is "
       "\"max_in_flight\" meant?"},
      {"max_in_flight: 3\n", ":1: there is no setting \"max_in_flight\"."},
      {"gateway:\n\n  max_batch: many\n", ":3: gateway.max_batch must be an integer."},
      {"gateway: {max_batch: [1]}\n", ":1: gateway.max_batch must be an integer."},
      {"gateway: {max_batch: 5000000000}\n", ":1: gateway.max_batch must be an integer."},
      {"gateway: {vision_workers: [{name: a}]}\n", ":1: gateway.vision_workers must be a list of"},
      {"gateway: {vision_workers: nameless}\n", ":1: gateway.vision_workers must be NAME=ADDRESS"},
      {"gateway: 5\n", ":1: gateway must be settings"},
      {"- 1\n", ":1: the file must be settings"},
      {"gateway:\n  max_batch: 1\n  max_batch: 2\n", ":3: \"gateway.max_batch\" is given twice."},
      {"gateway: {advice_threshold: .nan}\n", ":1: gateway.advice_threshold must be a number."},
      {"gateway: [\n", "not valid YAML"},
      {"a: *b\n", "not valid YAML"},
      {"{}\n---\n{}\n", "more than one YAML document"},
      {std::string("a\0b", 3), "is not text"},
  };
  for (const auto& [text, message] : cases) {
    const auto loaded = Load(text);
    ASSERT_FALSE(loaded.ok()) << text;
    EXPECT_EQ(ErrorReason(loaded.status()), "CONFIG_INVALID") << text;
    EXPECT_THAT(std::string(loaded.status().message()), testing::HasSubstr(message)) << text;
  }
  EXPECT_FALSE(LoadSettings({{"--config=/nonexistent"}, "", {}}).ok());
  EXPECT_FALSE(Load("", {}, {"CHORD_GATEWAY_MAX_BATCH=x"}).ok());
}

TEST(SettingsTest, AnEmptyFileAndEmptySectionsAreGood) {
  for (const char* text : {"", "# nothing\n", "gateway:\n", "gateway: {max_batch: }\n"}) {
    EXPECT_TRUE(Load(text).ok()) << text;
  }
}

TEST(SettingsTest, WhatIsWrittenReadsBackTheSame) {
  auto loaded = Load(
      "model_dir: \"a \\\"b\\\" 'c'\\n# d: e\"\ngateway: {vision_workers: [a=unix:/a], "
      "advice_threshold: 0.125, max_image_bytes: 1KiB, cors_allowed_origins: ['*']}");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (const std::string& text : {ToYamlFile(loaded->values), Explain(*loaded)}) {
    const auto again = Load(text);
    ASSERT_TRUE(again.ok()) << again.status() << text;
    EXPECT_EQ(again->values.SerializeAsString(), loaded->values.SerializeAsString()) << text;
  }
  EXPECT_THAT(Explain(*loaded), testing::HasSubstr("# default: 64\n"));
}

TEST(SettingsTest, RefusesUnknownFlagsAndValues) {
  Gateway config;
  for (const char* arg : {"--no_such=1", "--max_in_flight=many", "--max_in_flight",
                          "--advice_threshold=nan", "stray", "--vision_workers=nameless"}) {
    EXPECT_EQ(ErrorReason(ApplyFlags({arg}, &config)), "CONFIG_INVALID") << arg;
  }
}

TEST(SettingsTest, HelpOfAProgramLeavesOutTheOtherPrograms) {
  const auto help = LoadSettings({{"--help"}, "llm_worker", {}});
  ASSERT_TRUE(absl::IsCancelled(help.status()));
  const std::string text(help.status().message());
  EXPECT_THAT(text, testing::HasSubstr("\n  --kv_tokens="));
  EXPECT_THAT(text, testing::HasSubstr("\n  --log.level="));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("--gateway")));
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
