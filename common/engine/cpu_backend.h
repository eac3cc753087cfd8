// The CPU's side of backend.h. No torch header here.
#pragma once

#include <memory>

#include "common/engine/backend.h"

namespace chord::engine {

// Bounds of the backend's scratch; models beyond them are refused at load.
inline constexpr int64_t kMaxHeadDim = 512;
inline constexpr int64_t kMaxQueryGroup = 256;  // query heads of one kv head
inline constexpr int64_t kMaxWidth = 131'072;  // hidden and intermediate sizes

// float32 or bf16.
std::unique_ptr<Backend> MakeCpuBackend(model::DType dtype);
// native_bf16: multiply bf16 by bf16 in the processor (oneDNN) instead of widening to float32.
std::unique_ptr<Backend> MakeCpuBackend(model::DType dtype, bool native_bf16);

}  // namespace chord::engine
