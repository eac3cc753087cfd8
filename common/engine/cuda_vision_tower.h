// The vision tower on Chord's own CUDA kernels (libchord_cuda).
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/engine/vision_tower.h"

namespace chord::engine {

// Do device and dtype allow them at all? Asks no driver.
bool MayUseCudaKernels(const VisionTower::Options& options);

// DEVICE_UNAVAILABLE when the plugin is missing or its kernels do not take device or shape: another
// tower serves then. `config` is checked. The weights are on the device on return.
absl::StatusOr<std::unique_ptr<VisionTower>> LoadCudaVisionTower(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
    const VisionTower::Options& options);

}  // namespace chord::engine
