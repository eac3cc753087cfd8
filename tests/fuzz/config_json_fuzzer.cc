// Hostile configuration files: config.json, generation_config.json, preprocessor_config.json and
// processor_config.json, one behind the other with a 0x1E between them. What is accepted keeps the
// promises of ModelConfig.
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "common/base/errors.h"
#include "common/model/model_config.h"
#include "common/model/tensor_names.h"

namespace {

void Require(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chord::model;  // NOLINT
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::vector<std::string> parts = absl::StrSplit(bytes, absl::MaxSplits('\x1e', 3));
  const auto part = [&](size_t i) {
    return i < parts.size() ? std::make_optional(parts[i]) : std::nullopt;
  };
  const auto config = ParseModelConfig({parts[0], part(1), part(2), part(3)});
  if (!config.ok()) {
    Require(chord::ErrorReason(config.status()) == "CHECKPOINT_INVALID");
    return 0;
  }
  const TextConfig& text = config->text;
  const VisionConfig& vision = config->vision;
  Require(text.head_dim * text.num_attention_heads == text.hidden_size);
  Require(text.num_attention_heads % text.num_key_value_heads == 0);
  Require(text.mrope_section.size() == 3 &&
          std::accumulate(text.mrope_section.begin(), text.mrope_section.end(), 0) * 2 ==
              text.head_dim);
  Require(text.rms_norm_eps > 0 && text.rope_theta > 0);
  Require(vision.out_hidden_size == text.hidden_size && vision.in_channels == 3);
  Require(vision.head_dim() * vision.num_heads == vision.hidden_size &&
          vision.head_dim() % 4 == 0 && vision.window_cells() >= 1);
  for (const int block : vision.fullatt_block_indexes) Require(block >= 0 && block < vision.depth);
  for (const int32_t id : config->generation.eos_token_ids)
    Require(id >= 0 && id < text.vocab_size);
  Require(config->image_token_id >= 0 && config->image_token_id < text.vocab_size);
  Require(config->geometry.min_pixels >= 1 &&
          config->geometry.min_pixels <= config->geometry.max_pixels);
  Require(config->geometry.patch_size == vision.patch_size);
  for (const float std : config->normalization.std) Require(std > 0);
  Require(!ExpectedTensors(*config, ModelPart::kBoth).empty());
  return 0;
}
