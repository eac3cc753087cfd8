// Host vectors <-> device memory of the two-byte types, for tests of kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/memory.h"

namespace chord::cuda {

// Skips where there is no device. Every test of this folder derives from it.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device: this test was not run";
    }
    device = QueryDevice(0);
  }
  Device device;
};

inline uint16_t Bits(float value, Dtype dtype) {
  if (dtype == Dtype::kBFloat16) return __nv_bfloat16_raw(__float2bfloat16_rn(value)).x;
  return __half_raw(__float2half_rn(value)).x;
}
inline float Value(uint16_t bits, Dtype dtype) {
  if (dtype == Dtype::kBFloat16) {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }
  __half_raw raw;
  raw.x = bits;
  return __half2float(raw);
}
inline float Rounded(double value, Dtype dtype) {
  return Value(Bits(static_cast<float>(value), dtype), dtype);
}

// Normal values that `dtype` holds exactly.
inline std::vector<float> Random(int64_t count, int seed, Dtype dtype, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(count);
  for (float& value : out) value = Rounded(normal(random), dtype);
  return out;
}

template <typename T>
DeviceArray<T> Upload(const std::vector<T>& values) {
  DeviceArray<T> out(static_cast<int64_t>(values.size()));
  CHORD_CUDA_CHECK(cudaMemcpy(out.get(), values.data(), out.bytes(), cudaMemcpyHostToDevice));
  return out;
}
template <typename T>
std::vector<T> Download(const DeviceArray<T>& array) {
  std::vector<T> out(array.count());
  CHORD_CUDA_CHECK(cudaDeviceSynchronize());
  CHORD_CUDA_CHECK(cudaMemcpy(out.data(), array.get(), array.bytes(), cudaMemcpyDeviceToHost));
  return out;
}

inline DeviceArray<uint16_t> UploadAs(const std::vector<float>& values, Dtype dtype) {
  std::vector<uint16_t> bits;
  bits.reserve(values.size());
  for (float value : values) bits.push_back(Bits(value, dtype));
  return Upload(bits);
}
inline std::vector<float> DownloadFrom(const DeviceArray<uint16_t>& array, Dtype dtype) {
  std::vector<float> out;
  for (uint16_t bits : Download(array)) out.push_back(Value(bits, dtype));
  return out;
}
// Memory full of NaN: what a kernel forgets to write shows.
inline DeviceArray<uint16_t> Poisoned(int64_t count) {
  return Upload(std::vector<uint16_t>(count, 0xffff));
}

// Relative L2 distance; NaN when a value is NaN.
inline double Distance(const std::vector<float>& out, const std::vector<float>& reference) {
  if (out.size() != reference.size()) return INFINITY;
  double error = 0, norm = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    error += std::pow(double{out[i]} - reference[i], 2);
    norm += std::pow(double{reference[i]}, 2);
  }
  return std::sqrt(error / (norm > 0 ? norm : 1));
}

inline std::string Name(Dtype dtype) { return dtype == Dtype::kBFloat16 ? "bf16" : "fp16"; }
// What rounding to the type may cost a result of a few operations.
inline double Tolerance(Dtype dtype) { return dtype == Dtype::kBFloat16 ? 6e-3 : 8e-4; }
inline constexpr Dtype kDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16};

}  // namespace chord::cuda
