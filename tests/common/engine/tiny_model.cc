#include "tests/common/engine/tiny_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/engine/device.h"

namespace chord::engine {
namespace {

using model::DType;

// Three threads whatever the machine has: regions must join also when cores are short.
class EngineEnvironment : public testing::Environment {
 public:
  void SetUp() override { ASSERT_TRUE(InitEngine(3).ok()); }
};
const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new EngineEnvironment);

}  // namespace

uint16_t ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

std::vector<float> RandomFloats(int64_t count, int seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) {
    const uint32_t bits = uint32_t{ToBf16(normal(random))} << 16;
    std::memcpy(&value, &bits, sizeof(value));
  }
  return values;
}

std::vector<std::byte> Encode(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * model::SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kBFloat16) {
      const uint16_t half = ToBf16(values[i]);
      std::memcpy(bytes.data() + 2 * i, &half, sizeof(half));
    } else {
      std::memcpy(bytes.data() + 4 * i, &values[i], sizeof(float));
    }
  }
  return bytes;
}

model::ModelConfig TinyConfig() {
  model::ModelConfig config;
  model::TextConfig& text = config.text;
  text.hidden_size = 48;
  text.num_hidden_layers = 3;
  text.num_attention_heads = 6;
  text.num_key_value_heads = 2;
  text.head_dim = 8;
  text.intermediate_size = 70;
  text.vocab_size = 101;
  text.rms_norm_eps = 1e-5f;
  text.rope_theta = 1e4;
  text.mrope_section = {1, 1, 2};
  model::VisionConfig& vision = config.vision;
  vision.depth = 3;
  vision.hidden_size = 32;
  vision.num_heads = 2;
  vision.intermediate_size = 44;
  vision.out_hidden_size = 48;
  vision.fullatt_block_indexes = {1};
  return config;
}

std::shared_ptr<const model::Checkpoint> TinyCheckpoint(const model::ModelConfig& config,
                                                        DType stored) {
  std::vector<model::NamedTensor> tensors;
  std::vector<std::vector<std::byte>> bytes;
  int seed = 1;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (int64_t side : shape) count *= side;
    const bool norm =
        name.find("norm") != std::string::npos || name.find("ln_q") != std::string::npos;
    const bool bias = name.find("bias") != std::string::npos;
    const auto fan_in = static_cast<float>(count / shape[0]);
    std::vector<float> values =
        RandomFloats(count, ++seed, norm || bias ? 0.3f : 1.5f / std::sqrt(fan_in));
    if (norm) {
      for (float& value : values) value = 1 + std::round(value * 64) / 64;
    }
    bytes.push_back(Encode(stored, values));
    tensors.push_back({name, stored, std::move(shape), {}});
  };
  const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  };
  const model::VisionConfig& v = config.vision;
  const int64_t width = v.hidden_size, merged = 4 * width;
  add("visual.patch_embed.proj.weight", {width, 3, 2, 14, 14});
  for (int i = 0; i < v.depth; ++i) {
    const std::string block = absl::StrCat("visual.blocks.", i, ".");
    add(block + "norm1.weight", {width});
    add(block + "norm2.weight", {width});
    linear(block + "attn.qkv", 3 * width, width, true);
    linear(block + "attn.proj", width, width, true);
    linear(block + "mlp.gate_proj", v.intermediate_size, width, true);
    linear(block + "mlp.up_proj", v.intermediate_size, width, true);
    linear(block + "mlp.down_proj", width, v.intermediate_size, true);
  }
  add("visual.merger.ln_q.weight", {width});
  linear("visual.merger.mlp.0", merged, merged, true);
  linear("visual.merger.mlp.2", v.out_hidden_size, merged, true);

  const model::TextConfig& t = config.text;
  const int64_t q = t.num_attention_heads * t.head_dim, kv = t.num_key_value_heads * t.head_dim;
  add("model.embed_tokens.weight", {t.vocab_size, t.hidden_size});
  for (int i = 0; i < t.num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    add(layer + "input_layernorm.weight", {t.hidden_size});
    add(layer + "post_attention_layernorm.weight", {t.hidden_size});
    linear(layer + "self_attn.q_proj", q, t.hidden_size, true);
    linear(layer + "self_attn.k_proj", kv, t.hidden_size, true);
    linear(layer + "self_attn.v_proj", kv, t.hidden_size, true);
    linear(layer + "self_attn.o_proj", t.hidden_size, q, false);
    linear(layer + "mlp.gate_proj", t.intermediate_size, t.hidden_size, false);
    linear(layer + "mlp.up_proj", t.intermediate_size, t.hidden_size, false);
    linear(layer + "mlp.down_proj", t.hidden_size, t.intermediate_size, false);
  }
  add("model.norm.weight", {t.hidden_size});
  if (!t.tie_word_embeddings) add("lm_head.weight", {t.vocab_size, t.hidden_size});

  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].data = bytes[i];
  static int count = 0;
  const std::filesystem::path dir =
      std::filesystem::path(testing::TempDir()) / absl::StrCat("tiny-", getpid(), "-", ++count);
  std::filesystem::create_directories(dir);
  EXPECT_TRUE(model::WriteSafetensors((dir / "model.safetensors").string(), tensors).ok());
  absl::StatusOr<std::shared_ptr<const model::Checkpoint>> checkpoint =
      model::Checkpoint::Open(dir.string());
  std::filesystem::remove_all(dir);  // it stays mapped
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *checkpoint : nullptr;
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace chord::engine
