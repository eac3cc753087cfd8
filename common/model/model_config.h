// Everything a Hugging Face directory says about a Qwen2.5-VL model, apart from the weights.
// Reads config.json (flat or nested, the three rope spellings), generation_config.json, and
// processor_config.json or preprocessor_config.json. Spec §1, §2.3 (size precedence), §7.1; where
// the spec leaves a case open, what the reference class of transformers 5.17 does with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/image/frame_plan.h"
#include "common/image/preprocess.h"

namespace chord::model {

struct VisionConfig {
  int depth = 32;
  int hidden_size = 0;
  int num_heads = 16;
  int intermediate_size = 3420;
  int out_hidden_size = 0;  // == TextConfig::hidden_size
  int in_channels = 3;
  int patch_size = 14;
  int temporal_patch_size = 2;
  int spatial_merge_size = 2;
  int window_size = 112;  // px; at least one merged cell
  // Merged cells along a window's side (spec §3.3).
  int window_cells() const { return window_size / spatial_merge_size / patch_size; }
  std::vector<int> fullatt_block_indexes = {7, 15, 23, 31};  // each below depth; may be empty
  int head_dim() const { return hidden_size / num_heads; }
};

struct TextConfig {
  int hidden_size = 0;
  int num_hidden_layers = 0;
  int num_attention_heads = 0;
  int num_key_value_heads = 0;
  int head_dim = 0;  // hidden_size / num_attention_heads
  int intermediate_size = 0;
  int vocab_size = 0;
  bool tie_word_embeddings = false;
  float rms_norm_eps = 1e-5f;
  double rope_theta = 1e6;
  std::vector<int> mrope_section = {16, 24, 24};  // sums to head_dim / 2
  int64_t max_position_embeddings = 32768;
};

struct GenerationConfig {
  // Each inside the vocabulary. Empty when the checkpoint names only ids that its vocabulary lacks:
  // an answer then ends at its length limit alone.
  std::vector<int32_t> eos_token_ids;
  float repetition_penalty = 1.0f;
};

// How the linear layers of the decoder are stored quantised (§9.4 of docs/qwen2_5_vl.md). A layer
// that has a plain weight all the same uses that.
struct Quantization {
  enum class Method { kAwq, kGptq } method = Method::kAwq;
  int bits = 4;                  // GPTQ: 4 or 8
  int64_t group_size = 128;      // inputs; -1: all
  bool zeros_less_one = false;   // GPTQ's first format stores zero points less one
  std::string ToString() const;  // for logs: "AWQ, 4 bits, groups of 128"
};

struct ModelConfig {
  TextConfig text;
  VisionConfig vision;
  GenerationConfig generation;
  image::PatchGeometry geometry;  // with the checkpoint's pixel bounds
  image::Normalization normalization;
  int32_t image_token_id = 151655;
  // As config.json says; the prompt takes these from the tokenizer, and they may lie outside the
  // vocabulary of a small model.
  int32_t vision_start_token_id = 151652;
  int32_t vision_end_token_id = 151653;
  std::optional<Quantization> quantization;
  std::string declared_dtype;  // "bfloat16", … as config.json says, "" when it does not
  // What is odd but does no harm, one sentence each, for the log.
  std::vector<std::string> warnings;
};

// The texts of the files; nullopt where a file is absent.
struct ConfigTexts {
  std::string config;
  std::optional<std::string> generation = {};    // generation_config.json
  std::optional<std::string> preprocessor = {};  // preprocessor_config.json
  std::optional<std::string> processor = {};     // processor_config.json (transformers 5.x)
};
// Pure part of LoadModelConfig.
absl::StatusOr<ModelConfig> ParseModelConfig(const ConfigTexts& texts);

// `dir` is an operator's folder. CHECKPOINT_INVALID with the field named when something is missing,
// out of range, contradictory, or a variant we do not implement (other model_type, yarn, …).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

// SHA-256 over the files that decide an answer's meaning (configs, tokenizer, chat template, the
// headers of the weight files and 64 evenly spaced samples of 4 KiB of their data: fine-tunes of
// one model differ in nothing else). Two processes with equal fingerprints may work on one request.
absl::StatusOr<std::string> Fingerprint(const std::string& dir);

}  // namespace chord::model
