#include "common/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/errors.h"
#include "tests/common/model/model_folder.h"
#include "tests/support/has_reason.h"

namespace chord::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

void ExpectInvalid(const absl::Status& status, absl::string_view why) {
  ASSERT_FALSE(status.ok()) << "accepted; expected: " << why;
  EXPECT_THAT(status, HasReason(Reason::kCheckpointInvalid));
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(why)));
}
void ExpectOpenFails(const TempFolder& folder, absl::string_view why) {
  ExpectInvalid(Checkpoint::Open(folder.path()).status(), why);
}

// A file of one-byte tensors of these names.
std::string Bytes(const std::vector<std::string>& names) {
  std::vector<std::string> entries;
  for (size_t i = 0; i < names.size(); ++i) {
    entries.push_back(absl::StrCat(
        "\"", names[i], R"(":{"dtype":"U8","shape":[1],"data_offsets":[)", i, ",", i + 1, "]}"));
  }
  return SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries, ","), "}"), names.size());
}

std::string Index(const std::vector<std::pair<std::string, std::string>>& map, int64_t total_size) {
  std::vector<std::string> entries;
  for (const auto& [tensor, file] : map) {
    entries.push_back(absl::StrCat("\"", tensor, "\":\"", file, "\""));
  }
  return absl::StrCat(R"({"metadata":{"total_size":)", total_size, R"(},"weight_map":{)",
                      absl::StrJoin(entries, ","), "}}");
}

ModelConfig SmallConfig() { return *ParseModelConfig({.config = kSmallConfig}); }

// Every tensor of `config`, each element the bytes of its place.
void WriteModel(const TempFolder& folder, const ModelConfig& config, DType dtype,
                const std::function<void(std::vector<NamedTensor>*)>& alter = {}) {
  static const std::string zeros(1 << 20, '\0');
  std::vector<NamedTensor> tensors;
  for (const ExpectedTensor& expected : ExpectedTensors(config, ModelPart::kBoth)) {
    int64_t bytes = SizeOf(dtype);
    for (const int64_t dim : expected.shape) bytes *= dim;
    tensors.push_back({expected.name, dtype, expected.shape,
                       absl::MakeConstSpan(reinterpret_cast<const std::byte*>(zeros.data()),
                                           static_cast<size_t>(bytes))});
  }
  if (alter) alter(&tensors);
  ASSERT_TRUE(WriteSafetensors(folder.File("model.safetensors"), tensors).ok());
}

TEST(CheckpointTest, MapsBothNamingGenerationsAndWrappers) {
  const TempFolder folder;
  folder.Write(
      "model.safetensors",
      Bytes({"visual.a", "model.visual.b", "model.language_model.c", "language_model.model.d",
             "model.norm.e", "language_model.lm_head.f", "module.model.layers.g",
             "base_model.model.model.h", "language_model.layers.i", "model.lm_head.weight",
             "model.layers.0.self_attn.rotary_emb.inv_freq"}));
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(
      (*checkpoint)->Names(),
      ElementsAre("lm_head.f", "lm_head.weight", "model.c", "model.d", "model.h", "model.layers.g",
                  "model.layers.i", "model.norm.e", "visual.a", "visual.b"));
  const TensorView* tensor = (*checkpoint)->Find("visual.b");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(static_cast<int>(*tensor->data), 1);  // the second byte of the data
  ExpectInvalid((*checkpoint)->Get("visual.b", {2}).status(), "is [1], the config needs [2]");
  ExpectInvalid((*checkpoint)->Get("visual.z", {1}).status(), "missing");
}

TEST(CheckpointTest, RefusesNamesThatMeetAdaptersAndQuantisedParts) {
  const TempFolder folder;
  const auto refused = [&](const std::vector<std::string>& names, absl::string_view why) {
    folder.Write("model.safetensors", Bytes(names));
    ExpectOpenFails(folder, why);
  };
  refused({"visual.a", "model.visual.a"}, "are both visual.a");
  refused({"model.norm.weight", "model.language_model.norm.weight"}, "are both model.norm.weight");
  refused({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"}, "adapter");
  refused({"model.layers.0.mlp.up_proj.weight_packed"}, "quantised");
  refused({"model.layers.0.mlp.up_proj.weight_scale_inv"}, "quantised");
  refused({"model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"}, "quantised");
}

TEST(CheckpointTest, ReadsShardsByTheirIndex) {
  const TempFolder folder;
  folder.Write("model-1.safetensors", Bytes({"visual.a"}));
  folder.Write("model-2.safetensors", Bytes({"model.b", "model.c"}));
  const std::vector<std::pair<std::string, std::string>> map = {{"visual.a", "model-1.safetensors"},
                                                                {"model.b", "model-2.safetensors"},
                                                                {"model.c", "model-2.safetensors"}};
  folder.Write("model.safetensors.index.json", Index(map, 3));
  auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->total_bytes(), 3);
  EXPECT_THAT((*checkpoint)->warnings(), IsEmpty());
  folder.Write("model.safetensors.index.json", Index(map, 4));
  checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_THAT((*checkpoint)->warnings(), ElementsAre(HasSubstr("claims 4 bytes")));
}

TEST(CheckpointTest, RefusesAnIndexThatDoesNotDescribeItsFiles) {
  const TempFolder folder;
  folder.Write("a.safetensors", Bytes({"visual.a"}));
  folder.Write("b.safetensors", Bytes({"model.b"}));
  const auto refused = [&](const std::vector<std::pair<std::string, std::string>>& map,
                           absl::string_view why) {
    folder.Write("model.safetensors.index.json", Index(map, 2));
    ExpectOpenFails(folder, why);
  };
  refused({{"visual.a", "a.safetensors"}, {"model.b", "c.safetensors"}}, "missing: c.safetensors");
  refused({{"visual.a", "a.safetensors"}, {"model.b", "a.safetensors"}}, "lack: model.b");
  refused({{"visual.a", "b.safetensors"}, {"model.b", "b.safetensors"}}, "files lack: visual.a");
  refused({{"visual.a", "a.safetensors"}, {"model.x", "b.safetensors"}},
          "does not place tensor model.b");
  for (const char* name : {"../a.safetensors", "/etc/passwd", "x/a.safetensors", "..", ".", "",
                           "a\\u0000.safetensors"}) {
    refused({{"visual.a", name}}, "plain file name");
  }
  folder.Write("b.safetensors", Bytes({"model.b", "visual.a"}));
  refused({{"visual.a", "a.safetensors"}, {"model.b", "b.safetensors"}},
          "does not place tensor visual.a");
  const auto text = [&](absl::string_view index, absl::string_view why) {
    folder.Write("model.safetensors.index.json", index);
    ExpectOpenFails(folder, why);
  };
  text(R"({"weight_map":{}})", "at least one");
  text(R"({"weight_map":{"a":1}})", "file names");
  text(R"({"weight_map":{"a":"a.safetensors","a":"b.safetensors"}})", "occurs twice");
  text("[]", "JSON object");
  text("{", "not valid JSON");
  text("", "is empty (0 bytes)");
}

TEST(CheckpointTest, SaysWhatIsThereInsteadOfWeights) {
  const TempFolder folder;
  ExpectInvalid(Checkpoint::Open(folder.File("nowhere")).status(), "cannot be read");
  ExpectOpenFails(folder, "Is the folder complete?");
  folder.Write("pytorch_model.bin", "x");
  ExpectOpenFails(folder, "pickle");
  folder.Write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
  ExpectOpenFails(folder, "git-lfs pointer");
  folder.Write("model.safetensors", "");
  ExpectOpenFails(folder, "model.safetensors: is empty (0 bytes)");
  folder.Write("model.safetensors", "123");
  ExpectOpenFails(folder, "too short");
  folder.Write("model.safetensors", "<!DOCTYPE html><html><body>404</body></html>");
  ExpectOpenFails(folder, "not a safetensors file");
}

TEST(CheckpointTest, FollowsLinksOfTheCacheButOpensOnlyRegularFiles) {
  const TempFolder folder;
  std::filesystem::create_directory(folder.File("blobs"));
  std::filesystem::create_directory(folder.File("snapshot"));
  folder.Write("blobs/1234", Bytes({"visual.a"}));
  std::filesystem::create_symlink("../blobs/1234", folder.File("snapshot/model.safetensors"));
  EXPECT_TRUE(Checkpoint::Open(folder.File("snapshot")).ok());
  std::filesystem::remove(folder.File("blobs/1234"));
  ExpectInvalid(Checkpoint::Open(folder.File("snapshot")).status(), "link to a file that does not");
  std::filesystem::remove(folder.File("snapshot/model.safetensors"));
  ASSERT_EQ(mkfifo(folder.File("snapshot/model.safetensors").c_str(), 0600), 0);
  ExpectInvalid(Checkpoint::Open(folder.File("snapshot")).status(), "not a regular file");
  std::filesystem::remove(folder.File("snapshot/model.safetensors"));
  std::filesystem::create_symlink("/dev/zero", folder.File("snapshot/model.safetensors"));
  ExpectInvalid(Checkpoint::Open(folder.File("snapshot")).status(), "not a regular file");
}

TEST(CheckpointTest, PrefersTheSingleFileAndSaysSo) {
  const TempFolder folder;
  folder.Write("model.safetensors", Bytes({"visual.a"}));
  folder.Write("model.safetensors.index.json", Index({{"visual.b", "none.safetensors"}}, 1));
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->warnings(), ElementsAre(HasSubstr("single file is read")));
}

TEST(CheckpointTest, TellsWhenDataIsUnaligned) {
  const TempFolder folder;
  // An odd header length puts the data at an odd address.
  std::string header = R"({"visual.a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  while (header.size() % 8 != 0) header += ' ';
  for (const size_t pad : {0, 1, 2, 3}) {
    folder.Write("model.safetensors", SafetensorsBytes(header + std::string(pad, ' '), 4));
    const auto checkpoint = Checkpoint::Open(folder.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->Find("visual.a")->IsAligned(), pad == 0);
  }
}

TEST(VerifyTensorsTest, AcceptsACompleteModelInEveryFloatType) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const TempFolder folder;
    const ModelConfig config = SmallConfig();
    WriteModel(folder, config, dtype);
    const auto checkpoint = Checkpoint::Open(folder.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    std::vector<std::string> warnings;
    EXPECT_TRUE(VerifyTensors(**checkpoint, config, ModelPart::kBoth, &warnings).ok());
    EXPECT_THAT(warnings, IsEmpty());
    // 12 per block and 6 around them, 12 per layer and 3 around them (spec §1.6).
    EXPECT_EQ((*checkpoint)->Names().size(), 12u * 3 + 6 + 12 * 2 + 3);
  }
}

TEST(VerifyTensorsTest, CountsOfThePublishedModelsHold) {
  ModelConfig config;
  config.vision.hidden_size = 1280;
  config.vision.out_hidden_size = 2048;
  config.text = {.hidden_size = 2048,
                 .num_hidden_layers = 36,
                 .num_attention_heads = 16,
                 .num_key_value_heads = 2,
                 .head_dim = 128,
                 .intermediate_size = 11008,
                 .vocab_size = 151936,
                 .tie_word_embeddings = true};
  int64_t parameters = 0;
  const auto expected = ExpectedTensors(config, ModelPart::kBoth);
  for (const ExpectedTensor& tensor : expected) {
    int64_t count = 1;
    for (const int64_t dim : tensor.shape) count *= dim;
    parameters += count;
  }
  EXPECT_EQ(expected.size(), 824u);
  EXPECT_EQ(parameters, 3'754'622'976);
}

TEST(VerifyTensorsTest, ListsAllThatIsMissingOrWrong) {
  const TempFolder folder;
  const ModelConfig config = SmallConfig();
  static const std::byte kByte[8] = {};
  WriteModel(folder, config, DType::kFloat32, [](std::vector<NamedTensor>* tensors) {
    for (NamedTensor& tensor : *tensors) {
      if (tensor.name == "model.norm.weight") tensor.name = "model.norm.scale";
      if (tensor.name == "visual.merger.ln_q.weight") tensor.name = "visual.merger.norm";
      if (tensor.name == "model.layers.1.input_layernorm.weight") {
        tensor.shape = {8, 8};
      }
      if (tensor.name == "model.layers.0.self_attn.k_proj.bias") {
        tensor.dtype = DType::kInt64;
        tensor.shape = {1};
        tensor.data = kByte;
      }
    }
  });
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok());
  const absl::Status both = VerifyTensors(**checkpoint, config, ModelPart::kBoth);
  ExpectInvalid(both, "2 tensors are missing: visual.merger.ln_q.weight, model.norm.weight");
  ExpectInvalid(both, "model.layers.1.input_layernorm.weight is [8, 8], not [64]");
  ExpectInvalid(both, "model.layers.0.self_attn.k_proj.bias is [1], not [32]");
  const absl::Status vision = VerifyTensors(**checkpoint, config, ModelPart::kVision);
  ExpectInvalid(vision, "1 tensors are missing: visual.merger.ln_q.weight");
}

TEST(VerifyTensorsTest, RefusesIntegersInPlaceOfWeights) {
  const TempFolder folder;
  WriteModel(folder, SmallConfig(), DType::kInt64);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok());
  ExpectInvalid(VerifyTensors(**checkpoint, SmallConfig(), ModelPart::kLanguage),
                "is not BF16, F16 or F32");
}

TEST(VerifyTensorsTest, AnUntiedModelNeedsItsHeadAndATiedOneDoesNot) {
  const TempFolder folder;
  ModelConfig tied = SmallConfig();
  tied.text.tie_word_embeddings = true;
  WriteModel(folder, tied, DType::kBFloat16);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_TRUE(VerifyTensors(**checkpoint, tied, ModelPart::kBoth).ok());
  ExpectInvalid(VerifyTensors(**checkpoint, SmallConfig(), ModelPart::kLanguage),
                "missing: lm_head.weight");
  EXPECT_TRUE(VerifyTensors(**checkpoint, SmallConfig(), ModelPart::kVision).ok());
}

TEST(VerifyTensorsTest, WarnsOfAStoredHeadThatDefiesTheTieAndOfStrangers) {
  ModelConfig tied = SmallConfig();
  tied.text.tie_word_embeddings = true;
  static const std::string other(300 * 64 * 2, '\1');
  for (const bool equal : {true, false}) {
    const TempFolder folder;
    WriteModel(folder, SmallConfig(), DType::kBFloat16, [&](std::vector<NamedTensor>* tensors) {
      NamedTensor& head = tensors->back();
      ASSERT_EQ(head.name, "lm_head.weight");
      if (!equal) head.data = {reinterpret_cast<const std::byte*>(other.data()), other.size()};
      tensors->push_back({"model.stranger", DType::kFloat32, {0}, {}});
    });
    const auto checkpoint = Checkpoint::Open(folder.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    std::vector<std::string> warnings;
    ASSERT_TRUE(VerifyTensors(**checkpoint, tied, ModelPart::kBoth, &warnings).ok());
    ASSERT_FALSE(warnings.empty());
    EXPECT_THAT(warnings[0], HasSubstr("1 tensors are not used: model.stranger"));
    EXPECT_EQ(warnings.size(), equal ? 1u : 2u);
    EXPECT_THAT(warnings.back(), HasSubstr(equal ? "stranger" : "differs from the embedding"));
    EXPECT_EQ(EmbeddingTensor(**checkpoint, tied.text), "model.embed_tokens.weight");
    EXPECT_EQ(HeadTensor(**checkpoint, tied.text),
              equal ? "model.embed_tokens.weight" : "lm_head.weight");
    EXPECT_EQ(HeadTensor(**checkpoint, SmallConfig().text), "lm_head.weight");
  }
}

TEST(VerifyTensorsTest, ATiedModelMayStoreItsHeadAlone) {
  ModelConfig tied = SmallConfig();
  tied.text.tie_word_embeddings = true;
  const TempFolder folder;
  WriteModel(folder, tied, DType::kBFloat16, [](std::vector<NamedTensor>* tensors) {
    for (NamedTensor& tensor : *tensors) {
      if (tensor.name == "model.embed_tokens.weight") tensor.name = "lm_head.weight";
    }
  });
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<std::string> warnings;
  EXPECT_TRUE(VerifyTensors(**checkpoint, tied, ModelPart::kBoth, &warnings).ok());
  EXPECT_THAT(warnings, IsEmpty());
  EXPECT_EQ(EmbeddingTensor(**checkpoint, tied.text), "lm_head.weight");
  EXPECT_EQ(HeadTensor(**checkpoint, tied.text), "lm_head.weight");
  ExpectInvalid(VerifyTensors(**checkpoint, SmallConfig(), ModelPart::kLanguage),
                "missing: model.embed_tokens.weight");
}

TEST(CheckpointTest, GivesNoWeightsOfOtherTypes) {
  const TempFolder folder;
  WriteModel(folder, SmallConfig(), DType::kInt64);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ExpectInvalid((*checkpoint)->Get("model.norm.weight", {64}).status(),
                "model.norm.weight is not BF16, F16 or F32");
}

std::string NanoFolder() {
  const std::string path = std::string(CHORD_SOURCE_DIR) + "/models/chord-nano";
  return std::filesystem::exists(path) ? path : "";
}

TEST(VerifyTensorsTest, ChordNanoIsComplete) {
  if (NanoFolder().empty()) GTEST_SKIP() << "models/chord-nano is absent";
  const auto config = LoadModelConfig(NanoFolder());
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = Checkpoint::Open(NanoFolder());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<std::string> warnings;
  EXPECT_TRUE(VerifyTensors(**checkpoint, *config, ModelPart::kBoth, &warnings).ok());
  EXPECT_THAT(warnings, IsEmpty());
}

TEST(FingerprintTest, ChangesWithEveryFileThatDecidesAnAnswer) {
  const TempFolder folder;
  folder.Write("config.json", kSmallConfig);
  folder.Write("model.safetensors", Bytes({"visual.a", "visual.b"}));
  const auto fingerprint = [&] {
    const auto value = Fingerprint(folder.path());
    EXPECT_TRUE(value.ok()) << value.status();
    return value.value_or("");
  };
  std::vector<std::string> seen = {fingerprint()};
  EXPECT_EQ(seen[0].size(), 64u);
  EXPECT_EQ(fingerprint(), seen[0]);
  const auto expect_new = [&] {
    const std::string now = fingerprint();
    EXPECT_THAT(seen, testing::Not(testing::Contains(now)));
    seen.push_back(now);
  };
  for (const char* name : {"config.json", "generation_config.json", "preprocessor_config.json",
                           "processor_config.json", "tokenizer.json", "tokenizer_config.json",
                           "chat_template.json", "chat_template.jinja"}) {
    folder.Write(name, "{}");
    expect_new();
  }
  folder.Write("model.safetensors", Bytes({"visual.a", "visual.c"}));
  expect_new();
  std::string bytes = Bytes({"visual.a", "visual.c"});
  bytes.back() ^= 1;  // the same header, other weights
  folder.Write("model.safetensors", bytes);
  expect_new();
  folder.Write("README.md", "x");
  EXPECT_EQ(fingerprint(), seen.back());
}

}  // namespace
}  // namespace chord::model
