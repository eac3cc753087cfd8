#include "common/engine/cpu/widen.h"

#include <cstdint>
#include <cstring>

#include "common/engine/half.h"

namespace chord::engine {
void Widen(model::DType dtype, absl::Span<const std::byte> data, float* out) {
  if (dtype == model::DType::kFloat32) {
    std::memcpy(out, data.data(), data.size());
    return;
  }
  for (size_t i = 0; i + 1 < data.size(); i += 2) {
    uint16_t bits;
    std::memcpy(&bits, data.data() + i, sizeof(bits));
    *out++ =
        dtype == model::DType::kBFloat16 ? FloatFromBits(uint32_t{bits} << 16) : HalfToFloat(bits);
  }
}

std::vector<float> Widen(model::DType dtype, absl::Span<const std::byte> data) {
  std::vector<float> out(data.size() / model::SizeOf(dtype));
  Widen(dtype, data, out.data());
  return out;
}

}  // namespace chord::engine
