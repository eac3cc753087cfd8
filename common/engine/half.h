// float16 <-> float32 on any machine: values of files, and scales of packed weights.
#pragma once

#include <cstdint>
#include <cstring>

namespace chord::engine {

inline float FloatFromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Exact, subnormals included.
inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t rest = half & 0x7FFFu;
  if (rest >= 0x7C00) return FloatFromBits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
  // The exponents' biases differ by 112; as a product this also makes subnormals right.
  return FloatFromBits(sign | rest << 13) * 0x1p112f;
}

// Rounded to nearest, ties to even. Too large becomes infinity; NaN stays NaN.
inline uint16_t FloatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return sign | 0x7E00;
  if (bits >= 0x477FF000) return sign | 0x7C00;  // 65520 and more
  if (bits < 0x38800000) {                       // below the least normal number, 2^-14
    // Adding 0.5 leaves the subnormal's bits, rounded, at the end of the mantissa.
    const float shifted = FloatFromBits(bits) + 0.5f;
    std::memcpy(&bits, &shifted, sizeof(bits));
    return sign | static_cast<uint16_t>(bits - 0x3F000000);
  }
  return sign | static_cast<uint16_t>((bits - 0x38000000 + 0xFFF + (bits >> 13 & 1)) >> 13);
}

}  // namespace chord::engine
