// Weights that a checkpoint stores quantised (AWQ, GPTQ; docs/qwen2_5_vl.md §9.4) -> packed ones of
// the same values: integers, scales and zero points are moved, none is rounded.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/engine/packed/packed_matrix.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

// True when the layer `name` ("model.layers.0.mlp.up_proj") is stored quantised.
bool IsStoredQuantized(const model::Checkpoint& checkpoint, const std::string& name);

// The matrix of that layer, [outputs, inputs]. A group of more than 128 inputs becomes several with
// the same scale, since activations share one scale in each.
// CHECKPOINT_INVALID names the tensor that is missing or does not fit, and the layout's limits:
// scales are float16 values, zero points at most 255, groups of a multiple of 4 inputs.
absl::StatusOr<std::shared_ptr<const PackedMatrix>> PackStoredWeights(
    const model::Checkpoint& checkpoint, const model::Quantization& quantization,
    const std::string& name, int64_t outputs, int64_t inputs);

}  // namespace chord::engine
