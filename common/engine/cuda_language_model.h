// The LanguageModel on Chord's own CUDA kernels (cuda/). Everything of a step stays on the device:
// one small copy goes there, chosen tokens come back.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/engine/language_model.h"

namespace chord::engine {

// Loads the weights of a checked config. DEVICE_UNAVAILABLE when there is no plugin or its kernels
// do not take the device, the dtype or a shape of the model: TorchBackend takes those.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadCudaLanguageModel(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::TextConfig& config,
    const LanguageModel::Options& options);

}  // namespace chord::engine
