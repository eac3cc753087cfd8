// A model folder in a temporary place, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/string_view.h"

namespace chord::model {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "chord-model-test.XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(absl::string_view name) const { return path_ + "/" + std::string(name); }
  void Write(absl::string_view name, absl::string_view content) const {
    std::ofstream(File(name), std::ios::binary).write(content.data(), content.size());
  }

 private:
  std::string path_;
};

// The bytes of a safetensors file with this header text and `data_bytes` of data.
inline std::string SafetensorsBytes(absl::string_view header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  file.append(header.data(), header.size());
  for (size_t i = 0; i < data_bytes; ++i) file.push_back(static_cast<char>(i));
  return file;
}

// config.json of a small model in the flat layout; each use may alter it.
inline constexpr char kSmallConfig[] = R"({
  "model_type": "qwen2_5_vl", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "vocab_size": 300, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 512,
  "rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 7,
  "image_token_id": 299, "vision_start_token_id": 297, "vision_end_token_id": 298,
  "vision_config": {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48,
    "out_hidden_size": 64, "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1]}
})";

}  // namespace chord::model
