// What the tensors of a Qwen2.5-VL checkpoint are called and how large they are (spec §9.1, §9.2).
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/model/model_config.h"

namespace chord::model {

enum class NameKind {
  kWeight,     // `canonical` names it; may still be a tensor the model has no use for
  kIgnored,    // buffers that older versions stored (inv_freq)
  kAdapter,    // LoRA parts, not merged into the weights
  kQuantized,  // a part of a quantised layout that is not read (weight_scale, absmax, …)
};
struct MappedName {
  NameKind kind = NameKind::kWeight;
  std::string canonical;
};

// Both naming generations, and what wrappers (DDP, peft) put in front.
MappedName MapTensorName(absl::string_view stored);

enum class ModelPart { kVision, kLanguage, kBoth };

struct ExpectedTensor {
  std::string name;  // canonical
  // Of a linear layer of the decoder: AWQ and GPTQ store it as "….qweight", "….qzeros", "….scales".
  bool may_be_quantized = false;
  std::vector<int64_t> shape;
};
// Everything the engine reads for `part`. "lm_head.weight" is there only when it is not tied.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config, ModelPart part);

}  // namespace chord::model
