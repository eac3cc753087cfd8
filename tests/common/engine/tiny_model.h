// Random checkpoints of a few thousand parameters, written as real files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

std::vector<float> RandomFloats(int64_t count, int seed, float scale = 1);
uint16_t ToBf16(float value);
std::vector<std::byte> Encode(model::DType dtype, const std::vector<float>& values);

// Odd on purpose: three query heads on a kv head, head size 8, sections 1-1-2, untied.
model::ModelConfig TinyConfig();

// The weights of `config`, the same ones whatever `stored` is as long as it holds them exactly
// (they are bf16 values).
std::shared_ptr<const model::Checkpoint> TinyCheckpoint(const model::ModelConfig& config,
                                                        model::DType stored);

// Relative L2 distance.
double Distance(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace chord::engine
