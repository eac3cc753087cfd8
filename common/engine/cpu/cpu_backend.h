// The CPU's side of backend.h. No torch header here.
#pragma once

#include <memory>

#include "common/engine/backend.h"

namespace chord::engine {

// Bounds of the backend's scratch; models beyond them are refused at load.
inline constexpr int64_t kMaxHeadDim = 512;
inline constexpr int64_t kMaxQueryGroup = 256;  // query heads of one kv head
inline constexpr int64_t kMaxWidth = 131'072;   // hidden and intermediate sizes

// float32 or bf16.
std::unique_ptr<Backend> MakeCpuBackend(model::DType dtype);

}  // namespace chord::engine
