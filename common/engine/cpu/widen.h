// Raw elements -> float32, exact. The host side of what arrives from files, wires and devices.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

// dtype: float32, bf16 or fp16. `data` may be unaligned and holds whole elements.
void Widen(model::DType dtype, absl::Span<const std::byte> data, float* out);
std::vector<float> Widen(model::DType dtype, absl::Span<const std::byte> data);

}  // namespace chord::engine
