#include "common/model/tensor_names.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace chord::model {
namespace {

// First match wins, so the longer prefix stands first.
constexpr std::pair<absl::string_view, absl::string_view> kPrefixes[] = {
    {"model.visual.", "visual."},
    {"model.language_model.", "model."},
    {"model.lm_head.", "lm_head."},
    {"language_model.model.", "model."},
    {"language_model.lm_head.", "lm_head."},
    {"language_model.", "model."},  // saved from the base model alone
};

constexpr absl::string_view kBuffers[] = {"rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"};

constexpr absl::string_view kQuantizedParts[] = {
    ".weight_packed", ".weight_scale",  ".weight_scale_inv", ".weight_shape", ".weight_zero_point",
    ".weight_g_idx",  ".input_scale",   ".activation_scale", ".absmax",       ".quant_map",
    ".quant_state",   ".nested_absmax", ".nested_quant_map", ".SCB",
};

class List {
 public:
  explicit List(std::string prefix) : prefix_(std::move(prefix)) {}
  void Weight(absl::string_view name, std::vector<int64_t> shape) {
    Push(absl::StrCat(prefix_, name, ".weight"), std::move(shape));
  }
  void Linear(absl::string_view name, int64_t out, int64_t in, bool bias) {
    Weight(name, {out, in});
    tensors_.back().may_be_quantized = quantized_linears_;
    if (bias) Push(absl::StrCat(prefix_, name, ".bias"), {out});
  }
  // Linear layers from now on may be stored quantised.
  void AllowQuantized() { quantized_linears_ = true; }
  void SetPrefix(std::string prefix) { prefix_ = std::move(prefix); }
  std::vector<ExpectedTensor> Take() { return std::move(tensors_); }

 private:
  void Push(std::string name, std::vector<int64_t> shape) {
    ExpectedTensor tensor;
    tensor.name = std::move(name);
    tensor.shape = std::move(shape);
    tensors_.push_back(std::move(tensor));
  }

  std::string prefix_;
  bool quantized_linears_ = false;
  std::vector<ExpectedTensor> tensors_;
};

void AddVision(const VisionConfig& vision, List* list) {
  const int64_t hidden = vision.hidden_size;
  const int64_t inner = vision.intermediate_size;
  const int64_t merged = hidden * vision.spatial_merge_size * vision.spatial_merge_size;
  list->SetPrefix("visual.");
  list->Weight("patch_embed.proj", {hidden, vision.in_channels, vision.temporal_patch_size,
                                    vision.patch_size, vision.patch_size});
  for (int i = 0; i < vision.depth; ++i) {
    list->SetPrefix(absl::StrCat("visual.blocks.", i, "."));
    list->Weight("norm1", {hidden});
    list->Weight("norm2", {hidden});
    list->Linear("attn.qkv", 3 * hidden, hidden, true);
    list->Linear("attn.proj", hidden, hidden, true);
    list->Linear("mlp.gate_proj", inner, hidden, true);
    list->Linear("mlp.up_proj", inner, hidden, true);
    list->Linear("mlp.down_proj", hidden, inner, true);
  }
  list->SetPrefix("visual.merger.");
  list->Weight("ln_q", {hidden});
  list->Linear("mlp.0", merged, merged, true);
  list->Linear("mlp.2", vision.out_hidden_size, merged, true);
}

void AddLanguage(const TextConfig& text, List* list) {
  const int64_t hidden = text.hidden_size;
  const int64_t inner = text.intermediate_size;
  const int64_t q = int64_t{text.num_attention_heads} * text.head_dim;
  const int64_t kv = int64_t{text.num_key_value_heads} * text.head_dim;
  list->AllowQuantized();
  list->SetPrefix("model.");
  list->Weight("embed_tokens", {text.vocab_size, hidden});
  for (int l = 0; l < text.num_hidden_layers; ++l) {
    list->SetPrefix(absl::StrCat("model.layers.", l, "."));
    list->Weight("input_layernorm", {hidden});
    list->Weight("post_attention_layernorm", {hidden});
    list->Linear("self_attn.q_proj", q, hidden, true);
    list->Linear("self_attn.k_proj", kv, hidden, true);
    list->Linear("self_attn.v_proj", kv, hidden, true);
    list->Linear("self_attn.o_proj", hidden, q, false);
    list->Linear("mlp.gate_proj", inner, hidden, false);
    list->Linear("mlp.up_proj", inner, hidden, false);
    list->Linear("mlp.down_proj", hidden, inner, false);
  }
  list->SetPrefix("model.");
  list->Weight("norm", {hidden});
  list->SetPrefix("");
  if (!text.tie_word_embeddings) list->Weight("lm_head", {text.vocab_size, hidden});
}

}  // namespace

MappedName MapTensorName(absl::string_view stored) {
  absl::string_view name = stored;
  while (absl::ConsumePrefix(&name, "module.") || absl::ConsumePrefix(&name, "base_model.model.")) {
  }
  if (absl::StrContains(name, ".lora_") || absl::StrContains(name, ".base_layer.") ||
      absl::StrContains(name, ".modules_to_save.")) {
    return {NameKind::kAdapter, std::string(name)};
  }
  for (const absl::string_view buffer : kBuffers) {
    if (absl::EndsWith(name, buffer)) return {NameKind::kIgnored, std::string(name)};
  }
  MappedName mapped{NameKind::kWeight, std::string(name)};
  for (const absl::string_view part : kQuantizedParts) {
    // Newer bitsandbytes files put a dot and a suffix behind (".weight.quant_state.…").
    if (absl::EndsWith(name, part) || absl::StrContains(name, absl::StrCat(part, "."))) {
      mapped.kind = NameKind::kQuantized;
    }
  }
  for (const auto& [prefix, canonical] : kPrefixes) {
    if (!absl::StartsWith(name, prefix)) continue;
    mapped.canonical = absl::StrCat(canonical, name.substr(prefix.size()));
    break;
  }
  return mapped;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config, ModelPart part) {
  List list("");
  if (part != ModelPart::kLanguage) AddVision(config.vision, &list);
  if (part != ModelPart::kVision) AddLanguage(config.text, &list);
  return list.Take();
}

}  // namespace chord::model
