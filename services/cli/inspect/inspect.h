// `chord inspect`: the engine's own values of one prompt, as a safetensors file. For parity with
// other implementations and for people who hunt drift; no limit, default or wrapper of the service
// applies.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace chord::cli {

struct InspectOptions {
  enum class Stage { kPixels, kEmbeddings, kLogits, kTokens, kWeights };

  std::string model;  // a Hugging Face directory
  std::vector<std::string> images;
  std::string prompt;
  Stage stage = Stage::kTokens;
  std::string out;
  std::string dtype = "fp32";  // or "bf16"; "fp16" on CUDA; "int8", "int4" on a CPU
  // Of the vision tower. Empty: dtype's, but fp32 where that packs weights.
  std::string vision_dtype;
  std::string device = "cpu";
  int max_new_tokens = 64;
  int threads = 0;  // 0: all cores
};

// Writes options.out, or no file at all. The status is for a terminal: it may name files.
absl::Status Inspect(const InspectOptions& options);

}  // namespace chord::cli
