#include "common/model/model_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/base/errors.h"
#include "common/model/chat_template.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "common/model/weight_files.h"
#include "tests/common/model/model_folder.h"
#include "tests/support/has_reason.h"

namespace chord::model {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const std::string kNano = std::string(CHORD_SOURCE_DIR) + "/models/chord-nano";

void ExpectRefused(const absl::Status& status, const std::string& message) {
  EXPECT_THAT(status, HasReason(Reason::kCheckpointInvalid)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}

// The files of chord-nano as a download into the Hugging Face cache leaves them.
std::string AddSnapshot(const std::string& root, const std::string& name) {
  const std::string snapshot = root + "/snapshots/" + name;
  fs::create_directories(snapshot);
  for (const auto& entry : fs::directory_iterator(kNano)) {
    fs::create_symlink(entry.path(), snapshot + "/" + entry.path().filename().string());
  }
  return snapshot;
}

TEST(ModelFolderTest, OpensTheOneSnapshotOfACacheFolder) {
  const TempFolder cache;
  const std::string root = cache.File("models--chord--nano");
  const std::string snapshot = AddSnapshot(root, "0123abcd");
  fs::create_directories(root + "/refs");
  EXPECT_EQ(*ResolveModelFolder(root), snapshot);
  EXPECT_TRUE(LoadModelConfig(root).ok()) << LoadModelConfig(root).status();
  EXPECT_TRUE(Tokenizer::Load(root + "/tokenizer.json").ok());
  EXPECT_TRUE(LoadChatTemplate(root).ok());
  EXPECT_TRUE(Checkpoint::Open(root).ok());
  EXPECT_EQ(*Fingerprint(root), *Fingerprint(kNano));
}

TEST(ModelFolderTest, SaysWhatACacheFolderLacks) {
  const TempFolder cache;
  const std::string root = cache.File("models--chord--nano");
  fs::create_directories(root + "/snapshots");
  ExpectRefused(LoadModelConfig(root).status(), "without a snapshot. Finish the download");
  AddSnapshot(root, "aa");
  AddSnapshot(root, "bb");
  ExpectRefused(LoadModelConfig(root).status(), "with 2 snapshots (aa, bb). Name one of them");
  ExpectRefused(LoadModelConfig(cache.path()).status(), "the Hugging Face cache with 1 models");
}

TEST(ModelFolderTest, SaysThatAnAdapterIsNoModel) {
  const TempFolder folder;
  folder.Write("adapter_config.json", "{}");
  folder.Write("adapter_model.safetensors", "x");
  ExpectRefused(LoadModelConfig(folder.path()).status(), "an adapter (PEFT, LoRA)");
  folder.Write("config.json", kSmallConfig);
  ExpectRefused(Checkpoint::Open(folder.path()).status(), "Merge it into its base model first");
}

TEST(ModelFolderTest, SaysThatGgufIsAnotherFormat) {
  const TempFolder folder;
  folder.Write("qwen2.5-vl-q4_k_m.GGUF", std::string("GGUF\3\0\0\0", 8));
  ExpectRefused(LoadModelConfig(folder.path()).status(), "Download the original checkpoint");
  ExpectRefused(LoadModelConfig(folder.File("qwen2.5-vl-q4_k_m.GGUF")).status(), "a file of GGUF");
  folder.Write("notes.txt", "x");
  ExpectRefused(LoadModelConfig(folder.File("notes.txt")).status(),
                "Name the folder that holds it");
}

TEST(ModelFolderTest, SaysThatShardsLackTheirIndex) {
  for (const int count : {1, 2, 5, 37}) {
    const TempFolder folder;
    folder.Write("config.json", kSmallConfig);
    for (int i = 1; i <= count; ++i) {
      char name[64];
      std::snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i, count);
      folder.Write(name, "x");
    }
    ExpectRefused(Checkpoint::Open(folder.path()).status(),
                  "There are " + std::to_string(count) + " shards (model-00001-of-");
    ExpectRefused(Checkpoint::Open(folder.path()).status(),
                  "Download model.safetensors.index.json too.");
  }
}

TEST(ModelFolderTest, SaysThatWeightsHaveAnotherName) {
  const TempFolder folder;
  folder.Write("config.json", kSmallConfig);
  folder.Write("weights.safetensors", "x");
  ExpectRefused(Checkpoint::Open(folder.path()).status(), "There is weights.safetensors");
}

TEST(ModelFolderTest, SaysThatADownloadDidNotFinish) {
  for (const char* name : {"config.json", "generation_config.json", "preprocessor_config.json"}) {
    const TempFolder folder;
    folder.Write("config.json", kSmallConfig);
    folder.Write(name, "");
    ExpectRefused(LoadModelConfig(folder.path()).status(),
                  std::string(name) + ": is empty (0 bytes), so its download did not finish");
    folder.Write(name, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    ExpectRefused(LoadModelConfig(folder.path()).status(), "git-lfs pointer");
  }
  const TempFolder folder;
  folder.Write("tokenizer.json", "");
  ExpectRefused(Tokenizer::Load(folder.File("tokenizer.json")).status(), "is empty (0 bytes)");
}

}  // namespace
}  // namespace chord::model
