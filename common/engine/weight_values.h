// The values of a linear layer as the engine multiplies with them, for tools that compare formats.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

// [out, in] float32 of layer `name` ("model.layers.0.mlp.up_proj"): the values of a layer that is
// stored quantised, else those that `format` makes of the stored ones.
// CHECKPOINT_INVALID as from loading; throws std::bad_alloc.
absl::StatusOr<std::vector<float>> LinearWeights(
    const model::Checkpoint& checkpoint, const std::optional<model::Quantization>& quantization,
    const WeightFormat& format, const std::string& name, int64_t out, int64_t in);

}  // namespace chord::engine
