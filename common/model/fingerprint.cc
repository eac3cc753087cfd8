#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/model/model_config.h"
#include "common/model/model_folder.h"
#include "common/model/safetensors.h"
#include "common/model/weight_files.h"

namespace chord::model {
namespace {

constexpr const char* kTextFiles[] = {
    "config.json",    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json",  "chat_template.json",       "chat_template.jinja"};
constexpr int64_t kSamples = 64;
constexpr int64_t kSampleBytes = 4096;

absl::string_view Text(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

absl::StatusOr<std::string> Fingerprint(const std::string& path) {
  CHORD_ASSIGN_OR_RETURN(const std::string dir, ResolveModelFolder(path));
  CHORD_ASSIGN_OR_RETURN(const WeightFiles weights, FindWeightFiles(dir));
  Sha256 hash;
  hash.UpdateField("chord model fingerprint 1");
  for (const char* name : kTextFiles) {
    CHORD_ASSIGN_OR_RETURN(const auto text,
                           ReadOptionalFile(dir, name, limits::kMaxTokenizerBytes));
    if (!text) continue;
    hash.UpdateField(name);
    hash.UpdateField(*text);
  }
  for (const std::string& name : weights.names) {
    CHORD_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(dir, name));
    const absl::Span<const std::byte> bytes = file.bytes();
    const auto header = ParseSafetensors(bytes);
    if (!header.ok()) {
      return errors::CheckpointInvalid(absl::StrCat(name, ": ", header.status().message()));
    }
    hash.UpdateField(name);
    hash.UpdateField(Text(bytes.subspan(0, header->data_offset)));
    const absl::Span<const std::byte> data = bytes.subspan(header->data_offset);
    const auto size = static_cast<int64_t>(data.size());
    const int64_t last = std::max<int64_t>(0, size - kSampleBytes);
    for (int64_t i = 0; i < kSamples; ++i) {
      hash.UpdateField(Text(data.subspan(last / (kSamples - 1) * i, kSampleBytes)));
    }
  }
  return hash.HexDigest();
}

}  // namespace chord::model
