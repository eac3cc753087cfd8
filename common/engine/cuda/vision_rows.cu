// Kernels of the vision tower that work row by row or value by value.
#include <cuda_runtime.h>

#include "common/engine/cuda/vision_kernels.h"
#include "common/engine/cuda/vision_launch.cuh"
#include "common/engine/cuda/vision_math.cuh"

namespace chord::cuda::vision {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ __launch_bounds__(kThreads) void GatherPatchesKernel(const float* patches,
                                                                const int32_t* source, int cols,
                                                                T* out) {
  WaitForPrevious();
  AllowNext();
  const int64_t row = blockIdx.x;
  const float4* from = reinterpret_cast<const float4*>(patches + int64_t{source[row]} * cols);
  uint2* to = reinterpret_cast<uint2*>(out + row * cols);
  for (int i = threadIdx.x; i < cols / 4; i += kThreads) {
    const float4 x = from[i];
    to[i] = make_uint2(NarrowPair<T>(x.x, x.y), NarrowPair<T>(x.z, x.w));
  }
}

// A block has one patch: its pixels once from memory, then every frame of every channel from
// shared memory.
template <typename T>
__global__ __launch_bounds__(kThreads) void MakePatchesKernel(const uint8_t* pixels,
                                                              const PatchPlace* places,
                                                              const float* samples, int side,
                                                              int temporal, T* out) {
  extern __shared__ uint8_t patch[];  // [channel][side²]
  const int64_t row = blockIdx.x;
  const int area = side * side, line = 3 * side;
  WaitForPrevious();
  AllowNext();
  const PatchPlace place = places[row];
  for (int i = threadIdx.x; i < 3 * area; i += kThreads) {
    const int y = i / line, x = i % line;
    patch[x % 3 * area + y * side + x / 3] = pixels[place.begin + int64_t{y} * place.stride + x];
  }
  __syncthreads();
  T* const to = out + row * 3 * temporal * area;
  for (int i = threadIdx.x; i < 3 * temporal * area; i += kThreads) {
    const int channel = i / (temporal * area);
    to[i] = Number<T>::Narrow(samples[256 * channel + patch[channel * area + i % area]]);
  }
}

// A warp has one row.
template <typename T>
__global__ __launch_bounds__(kThreads) void RmsNormKernel(const T* x, const T* weight, float eps,
                                                          int64_t rows, int cols, T* out) {
  WaitForPrevious();
  AllowNext();
  const int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = threadIdx.x % 32, chunks = cols / 8;
  const uint4* from = reinterpret_cast<const uint4*>(x + row * cols);
  const uint4* scale = reinterpret_cast<const uint4*>(weight);
  uint4* to = reinterpret_cast<uint4*>(out + row * cols);
  // Chunks stay in registers up to 32·8·kKept columns; wider rows are read again.
  constexpr int kKept = 5;
  uint4 kept[kKept];
  float sum = 0;
  const auto add = [&](const uint4& chunk) {
    const uint32_t* words = &chunk.x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 v = WidenPair<T>(words[i]);
      sum += v.x * v.x;
      sum += v.y * v.y;
    }
  };
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    kept[k] = lane + 32 * k < chunks ? from[lane + 32 * k] : uint4{};
  }
#pragma unroll
  for (int k = 0; k < kKept; ++k) add(kept[k]);
  for (int i = lane + 32 * kKept; i < chunks; i += 32) add(from[i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  const float inverse = rsqrtf(sum / static_cast<float>(cols) + eps);
  const auto finish = [&](const uint4& chunk, int i) {
    const uint4 w = scale[i];
    uint4 result;
    const uint32_t* words = &chunk.x;
    const uint32_t* weights = &w.x;
    uint32_t* results = &result.x;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 v = WidenPair<T>(words[j]), g = WidenPair<T>(weights[j]);
      results[j] = NarrowPair<T>(Round<T>(v.x * inverse) * g.x, Round<T>(v.y * inverse) * g.y);
    }
    to[i] = result;
  };
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    if (lane + 32 * k < chunks) finish(kept[k], lane + 32 * k);
  }
  for (int i = lane + 32 * kKept; i < chunks; i += 32) finish(from[i], i);
}

// Applies `fn(words of a, words of b) -> words` to chunks of eight values.
template <typename T, typename Fn>
__device__ inline uint4 Combine(const uint4& a, const uint4& b, const Fn& fn) {
  uint4 out;
  const uint32_t* x = &a.x;
  const uint32_t* y = &b.x;
  uint32_t* z = &out.x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 v = WidenPair<T>(x[i]), w = WidenPair<T>(y[i]);
    z[i] = NarrowPair<T>(fn(v.x, w.x), fn(v.y, w.y));
  }
  return out;
}

template <typename T>
__global__ __launch_bounds__(kThreads) void SwiGluKernel(const uint4* gated, int64_t chunks,
                                                         uint4* out) {
  WaitForPrevious();
  AllowNext();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= chunks) return;
  out[i] = Combine<T>(gated[2 * i], gated[2 * i + 1], [](float gate, float up) {
    return Round<T>(gate / (1 + __expf(-gate))) * up;
  });
}

template <typename T>
__global__ __launch_bounds__(kThreads) void GeluKernel(const uint4* x, int64_t chunks, uint4* out) {
  WaitForPrevious();
  AllowNext();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= chunks) return;
  out[i] = Combine<T>(
      x[i], x[i], [](float a, float) { return 0.5f * a * (1 + erff(a * 0.70710678118654752f)); });
}

__global__ __launch_bounds__(kThreads) void ScatterRowsKernel(const uint4* x, const int32_t* target,
                                                              int chunks, uint4* out) {
  WaitForPrevious();
  AllowNext();
  const int64_t row = blockIdx.x;
  const uint4* from = x + row * chunks;
  uint4* to = out + int64_t{target[row]} * chunks;
  for (int i = threadIdx.x; i < chunks; i += kThreads) to[i] = from[i];
}

unsigned Blocks(int64_t items, int per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

template <typename Fn>
cudaError_t ForType(HalfType type, const Fn& fn) {
  return type == HalfType::kBf16 ? fn.template operator()<__nv_bfloat16>()
                                 : fn.template operator()<__half>();
}

}  // namespace

cudaError_t GatherPatches(HalfType type, const float* patches, const int32_t* source, int64_t rows,
                          int64_t cols, void* out, const Queue& queue) {
  return ForType(type, [&]<typename T>() {
    return Launch(queue, dim3(static_cast<unsigned>(rows)), kThreads, 0, GatherPatchesKernel<T>,
                  patches, source, static_cast<int>(cols), static_cast<T*>(out));
  });
}

cudaError_t MakePatches(HalfType type, const uint8_t* pixels, const PatchPlace* places,
                        const float* samples, int side, int temporal, int64_t rows, void* out,
                        const Queue& queue) {
  return ForType(type, [&]<typename T>() {
    return Launch(queue, dim3(static_cast<unsigned>(rows)), kThreads, size_t{3} * side * side,
                  MakePatchesKernel<T>, pixels, places, samples, side, temporal,
                  static_cast<T*>(out));
  });
}

cudaError_t RmsNorm(HalfType type, const void* x, const void* weight, float eps, int64_t rows,
                    int64_t cols, void* out, const Queue& queue) {
  return ForType(type, [&]<typename T>() {
    return Launch(queue, dim3(Blocks(rows, kThreads / 32)), kThreads, 0, RmsNormKernel<T>,
                  static_cast<const T*>(x), static_cast<const T*>(weight), eps, rows,
                  static_cast<int>(cols), static_cast<T*>(out));
  });
}

cudaError_t SwiGlu(HalfType type, const void* gated, int64_t rows, int64_t inner, void* out,
                   const Queue& queue) {
  const int64_t chunks = rows * inner / 8;
  return ForType(type, [&]<typename T>() {
    return Launch(queue, dim3(Blocks(chunks, kThreads)), kThreads, 0, SwiGluKernel<T>,
                  static_cast<const uint4*>(gated), chunks, static_cast<uint4*>(out));
  });
}

cudaError_t Gelu(HalfType type, const void* x, int64_t count, void* out, const Queue& queue) {
  return ForType(type, [&]<typename T>() {
    return Launch(queue, dim3(Blocks(count / 8, kThreads)), kThreads, 0, GeluKernel<T>,
                  static_cast<const uint4*>(x), count / 8, static_cast<uint4*>(out));
  });
}

cudaError_t ScatterRows(const void* x, const int32_t* target, int64_t rows, int64_t cols, void* out,
                        const Queue& queue) {
  return Launch(queue, dim3(static_cast<unsigned>(rows)), kThreads, 0, ScatterRowsKernel,
                static_cast<const uint4*>(x), target, static_cast<int>(cols / 8),
                static_cast<uint4*>(out));
}

}  // namespace chord::cuda::vision
