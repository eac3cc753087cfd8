// Reads model folders, one a line, and prints what LoadModelConfig makes of each as a line of JSON:
// what tests/parity/config_parity.py compares with transformers.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/model/model_config.h"

int main() {
  for (std::string dir; std::getline(std::cin, dir);) {
    const auto config = chord::model::LoadModelConfig(dir);
    nlohmann::json out;
    if (!config.ok()) {
      out["error"] = std::string(config.status().message());
      std::cout << out.dump() << std::endl;
      continue;
    }
    const auto& text = config->text;
    out["text"] = {{"hidden_size", text.hidden_size},
                   {"num_hidden_layers", text.num_hidden_layers},
                   {"num_attention_heads", text.num_attention_heads},
                   {"num_key_value_heads", text.num_key_value_heads},
                   {"intermediate_size", text.intermediate_size},
                   {"vocab_size", text.vocab_size},
                   {"rms_norm_eps", text.rms_norm_eps},
                   {"rope_theta", text.rope_theta},
                   {"mrope_section", text.mrope_section},
                   {"max_position_embeddings", text.max_position_embeddings},
                   {"tie_word_embeddings", text.tie_word_embeddings}};
    const auto& vision = config->vision;
    out["vision"] = {{"depth", vision.depth},
                     {"hidden_size", vision.hidden_size},
                     {"num_heads", vision.num_heads},
                     {"intermediate_size", vision.intermediate_size},
                     {"out_hidden_size", vision.out_hidden_size},
                     {"in_channels", vision.in_channels},
                     {"patch_size", vision.patch_size},
                     {"temporal_patch_size", vision.temporal_patch_size},
                     {"spatial_merge_size", vision.spatial_merge_size},
                     {"window_size", vision.window_size},
                     {"fullatt_block_indexes", vision.fullatt_block_indexes}};
    out["ids"] = {config->image_token_id, config->vision_start_token_id,
                  config->vision_end_token_id};
    out["dtype"] = config->declared_dtype;
    out["eos"] = config->generation.eos_token_ids;
    out["penalty"] = config->generation.repetition_penalty;
    out["pixels"] = {config->geometry.min_pixels, config->geometry.max_pixels};
    out["mean"] = config->normalization.mean;
    out["std"] = config->normalization.std;
    std::cout << out.dump() << std::endl;
  }
  return 0;
}
