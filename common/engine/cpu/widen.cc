#include "common/engine/cpu/widen.h"

#include <cstdint>
#include <cstring>

namespace chord::engine {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t rest = half & 0x7FFFu;
  if (rest >= 0x7C00) return FromBits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
  // The exponents' biases differ by 112; as a product this also makes subnormals right.
  return FromBits(sign | rest << 13) * 0x1p112f;
}

}  // namespace

void Widen(model::DType dtype, absl::Span<const std::byte> data, float* out) {
  if (dtype == model::DType::kFloat32) {
    std::memcpy(out, data.data(), data.size());
    return;
  }
  for (size_t i = 0; i + 1 < data.size(); i += 2) {
    uint16_t bits;
    std::memcpy(&bits, data.data() + i, sizeof(bits));
    *out++ = dtype == model::DType::kBFloat16 ? FromBits(uint32_t{bits} << 16) : HalfToFloat(bits);
  }
}

std::vector<float> Widen(model::DType dtype, absl::Span<const std::byte> data) {
  std::vector<float> out(data.size() / model::SizeOf(dtype));
  Widen(dtype, data, out.data());
  return out;
}

}  // namespace chord::engine
