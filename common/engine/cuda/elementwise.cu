// Kernels over rows and elements: embedding, norms, SwiGLU, rotation and storing of keys and
// values. Every rounding is one of the reference's (docs: the model computes in its own type and
// rounds after each operation; statistics and rotary tables are float32).
#include <algorithm>

#include "common/engine/cuda/device.cuh"
#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/rotary.cuh"

namespace chord::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void EmbedKernel(const T* __restrict__ table, const int32_t* __restrict__ ids,
                            const void* const* __restrict__ sources, int width,
                            T* __restrict__ hidden) {
  AwaitPrevious();
  AllowNext();
  const int64_t token = blockIdx.x;
  const auto* source = static_cast<const T*>(sources[token]);
  if (source == nullptr) source = table + static_cast<int64_t>(ids[token]) * width;
  const auto* from = reinterpret_cast<const uint4*>(source);
  auto* to = reinterpret_cast<uint4*>(hidden + token * width);
  for (int i = threadIdx.x; i < width / 8; i += blockDim.x) to[i] = from[i];
}

// The sum of `x` over the block; all threads get it.
__device__ float BlockSum(float x) {
  __shared__ float sums[kWarp];
  x = WarpSum(x);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  const int warps = blockDim.x / kWarp;
  x = WarpSum(threadIdx.x % kWarp < warps ? sums[threadIdx.x % kWarp] : 0.f);
  return x;
}

// One block a row. Wider rows than kThreads · 8 · kMaxPieces go the slow way, through memory again.
constexpr int kMaxPieces = 4;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    AddNormKernel(T* __restrict__ hidden, const T* __restrict__ delta, const T* __restrict__ weight,
                  float eps, int width, T* __restrict__ out) {
  AwaitPrevious();
  AllowNext();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  Eight<T> pieces[kMaxPieces];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kMaxPieces; ++p) {
    const int at = (p * kThreads + threadIdx.x) * 8;
    if (at >= width) break;
    pieces[p] = *reinterpret_cast<const Eight<T>*>(hidden + row + at);
    if (delta != nullptr) {
      const auto more = *reinterpret_cast<const Eight<T>*>(delta + row + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = pieces[p].pair(i), b = more.pair(i);
        pieces[p].word[i] = Pack<T>(a.x + b.x, a.y + b.y);
      }
      *reinterpret_cast<Eight<T>*>(hidden + row + at) = pieces[p];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 a = pieces[p].pair(i);
      sum += a.x * a.x + a.y * a.y;
    }
  }
  const float scale = rsqrtf(BlockSum(sum) / static_cast<float>(width) + eps);
#pragma unroll
  for (int p = 0; p < kMaxPieces; ++p) {
    const int at = (p * kThreads + threadIdx.x) * 8;
    if (at >= width) break;
    const auto w = *reinterpret_cast<const Eight<T>*>(weight + at);
    Eight<T> y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 a = pieces[p].pair(i), b = w.pair(i);
      y.word[i] = Pack<T>(Round<T>(a.x * scale) * b.x, Round<T>(a.y * scale) * b.y);
    }
    *reinterpret_cast<Eight<T>*>(out + row + at) = y;
  }
}

template <typename T>
__global__ void GatherKernel(const T* __restrict__ x, const int32_t* __restrict__ rows, int width,
                             T* __restrict__ out) {
  AwaitPrevious();
  AllowNext();
  const auto* from =
      reinterpret_cast<const uint4*>(x + static_cast<int64_t>(rows[blockIdx.x]) * width);
  auto* to = reinterpret_cast<uint4*>(out + static_cast<int64_t>(blockIdx.x) * width);
  for (int i = threadIdx.x; i < width / 8; i += blockDim.x) to[i] = from[i];
}

// A thread makes eight values of one row.
template <typename T>
__global__ void SwiGluKernel(const T* __restrict__ x, int inner, T* __restrict__ out) {
  AwaitPrevious();
  AllowNext();
  const int at = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (at >= inner) return;
  const int64_t row = blockIdx.y;
  const auto* in = reinterpret_cast<const Eight<T>*>(x + row * 2 * inner + 2 * at);
  Eight<T> y;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Eight<T> group = in[half];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 gate = group.pair(i), up = group.pair(i + 2);
      y.word[2 * half + i] = Pack<T>(GatedValue<T>(gate.x, up.x), GatedValue<T>(gate.y, up.y));
    }
  }
  *reinterpret_cast<Eight<T>*>(out + row * inner + at) = y;
}

// Block (token, part): a warp a group of eight columns would be wasteful, so threads stride over
// the token's groups.
template <typename T>
__global__ void RotateKernel(const T* __restrict__ qkv, QkvShape shape, Rotary rotary,
                             const int32_t* __restrict__ slots, KvPages kv, T* __restrict__ q) {
  AwaitPrevious();
  AllowNext();
  const int token = blockIdx.x, slot = slots[token];
  const T* row = qkv + static_cast<int64_t>(token) * shape.width();
  const int groups = shape.width() / 8;
  for (int group = threadIdx.x; group < groups; group += blockDim.x) {
    const auto in = *reinterpret_cast<const Eight<T>*>(row + group * 8);
    float y[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = in.pair(i);
      y[2 * i] = pair.x, y[2 * i + 1] = pair.y;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) FinishQkv<T>(shape, rotary, token, group, j, &y[j], &y[j + 4]);
    const QkvPlace place = PlaceOf(shape, group);
    uint2 low = {Pack<T>(y[0], y[1]), Pack<T>(y[2], y[3])};
    uint2 high = {Pack<T>(y[4], y[5]), Pack<T>(y[6], y[7])};
    T* to = nullptr;
    if (place.part == QkvPart::kQuery) {
      to = q + (static_cast<int64_t>(token) * shape.heads + place.head) * shape.dim;
    } else if (slot >= 0 && kv.key_scales == nullptr) {
      to = KvRow<T>(kv, place.part == QkvPart::kKey ? kv.keys : kv.values, slot, place.head);
    }
    if (to == nullptr) continue;
    *reinterpret_cast<uint2*>(to + place.first) = low;
    *reinterpret_cast<uint2*>(to + place.second) = high;
  }
}

// A warp a row and head. Keys are rotated first when `qkv` is given, from its columns.
template <typename T>
__device__ void Quantize(const T* from, int dim, int8_t* to, float* scale) {
  const int lane = threadIdx.x % kWarp;
  float top = 0;
  for (int i = lane; i < dim; i += kWarp) top = fmaxf(top, fabsf(ToFloat(from[i])));
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
  }
  const float step = top / 127.f, divisor = fmaxf(step, 1e-30f);
  for (int i = lane; i < dim; i += kWarp) {
    to[i] = static_cast<int8_t>(rintf(ToFloat(from[i]) / divisor));
  }
  if (lane == 0) *scale = step;
}

template <typename T>
__global__ void StoreInt8Kernel(const T* __restrict__ k, const T* __restrict__ v,
                                const int32_t* __restrict__ slots, KvPages kv) {
  AwaitPrevious();
  AllowNext();
  const int token = blockIdx.x, slot = slots[token];
  if (slot < 0) return;
  for (int job = threadIdx.x / kWarp; job < 2 * kv.heads; job += blockDim.x / kWarp) {
    const int head = job / 2;
    const bool key = job % 2 == 0;
    const int64_t row = KvRowIndex(kv, slot, head);
    Quantize<T>((key ? k : v) + (static_cast<int64_t>(token) * kv.heads + head) * kv.dim, kv.dim,
                static_cast<int8_t*>(key ? kv.keys : kv.values) + row * kv.dim,
                (key ? kv.key_scales : kv.value_scales) + row);
  }
}

// Rotated keys and plain values of a fused product, dense: what StoreInt8 takes.
template <typename T>
__global__ void SplitKeysKernel(const T* __restrict__ qkv, QkvShape shape, Rotary rotary,
                                T* __restrict__ k, T* __restrict__ v) {
  AwaitPrevious();
  AllowNext();
  const int token = blockIdx.x;
  const int begin = shape.heads * shape.dim / 8, end = shape.width() / 8;
  for (int group = begin + threadIdx.x; group < end; group += blockDim.x) {
    const T* from = qkv + static_cast<int64_t>(token) * shape.width() + group * 8;
    const QkvPlace place = PlaceOf(shape, group);
    T* to = (place.part == QkvPart::kKey ? k : v) +
            (static_cast<int64_t>(token) * shape.kv_heads + place.head) * shape.dim;
    for (int j = 0; j < 4; ++j) {
      float low = ToFloat(from[j]), high = ToFloat(from[j + 4]);
      FinishQkv<T>(shape, rotary, token, group, j, &low, &high);
      to[place.first + j] = FromFloat<T>(low);
      to[place.second + j] = FromFloat<T>(high);
    }
  }
}

// Bytes [0, count) of every head of a page, a block a head and tensor.
__global__ void CopyPageKernel(char* base, int64_t head_bytes, int64_t count, int64_t from,
                               int64_t to) {
  const char* source = base + (from * gridDim.x + blockIdx.x) * head_bytes;
  char* target = base + (to * gridDim.x + blockIdx.x) * head_bytes;
  for (int64_t i = threadIdx.x; i < count / 4; i += blockDim.x) {
    reinterpret_cast<uint32_t*>(target)[i] = reinterpret_cast<const uint32_t*>(source)[i];
  }
}

template <typename Fn>
void Dispatch(Dtype dtype, Fn&& fn) {
  if (dtype == Dtype::kBFloat16) {
    fn(__nv_bfloat16{});
  } else {
    fn(__half{});
  }
}

int RowThreads(int width) { return std::clamp((width / 8 + 31) / 32 * 32, 32, kThreads); }

}  // namespace

Device QueryDevice(int index) {
  cudaDeviceProp properties;
  CHORD_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  Device device;
  device.index = index;
  device.multiprocessors = properties.multiProcessorCount;
  device.shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin);
  device.shared_bytes_per_multiprocessor = static_cast<int>(properties.sharedMemPerMultiprocessor);
  device.overlap = properties.major >= 9;
  return device;
}

void Embed(Dtype dtype, const void* table, const int32_t* ids, const void* const* sources,
           int tokens, int width, void* hidden, const Launch& launch) {
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(EmbedKernel<T>, dim3(tokens), RowThreads(width), 0, launch,
                 static_cast<const T*>(table), ids, sources, width, static_cast<T*>(hidden));
  });
}

void AddNorm(Dtype dtype, void* hidden, const void* delta, const void* weight, float eps, int rows,
             int width, void* out, const Launch& launch) {
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(AddNormKernel<T>, dim3(rows), kThreads, 0, launch, static_cast<T*>(hidden),
                 static_cast<const T*>(delta), static_cast<const T*>(weight), eps, width,
                 static_cast<T*>(out));
  });
}

void GatherRows(Dtype dtype, const void* x, const int32_t* rows, int count, int width, void* out,
                const Launch& launch) {
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(GatherKernel<T>, dim3(count), RowThreads(width), 0, launch,
                 static_cast<const T*>(x), rows, width, static_cast<T*>(out));
  });
}

void SwiGlu(Dtype dtype, const void* x, int rows, int inner, void* out, const Launch& launch) {
  const dim3 grid((inner / 8 + kThreads - 1) / kThreads, rows);
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(SwiGluKernel<T>, grid, kThreads, 0, launch, static_cast<const T*>(x), inner,
                 static_cast<T*>(out));
  });
}

void RotateAndStore(Dtype dtype, const void* qkv, const QkvShape& shape, const Rotary& rotary,
                    const int32_t* slots, int tokens, const KvPages& kv, void* q,
                    const Launch& launch) {
  const int threads = std::min((shape.width() / 8 + kWarp - 1) / kWarp * kWarp, 512);
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(RotateKernel<T>, dim3(tokens), threads, 0, launch, static_cast<const T*>(qkv),
                 shape, rotary, slots, kv, static_cast<T*>(q));
  });
}

void SplitKeys(Dtype dtype, const void* qkv, const QkvShape& shape, const Rotary& rotary,
               int tokens, void* k, void* v, const Launch& launch) {
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(SplitKeysKernel<T>, dim3(tokens), 128, 0, launch, static_cast<const T*>(qkv),
                 shape, rotary, static_cast<T*>(k), static_cast<T*>(v));
  });
}

void StoreInt8(Dtype dtype, const void* k, const void* v, const int32_t* slots, int tokens,
               const KvPages& kv, const Launch& launch) {
  Dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    LaunchKernel(StoreInt8Kernel<T>, dim3(tokens), 128, 0, launch, static_cast<const T*>(k),
                 static_cast<const T*>(v), slots, kv);
  });
}

void CopyPage(Dtype, const KvPages& kv, int from, int to, int rows, const Launch& launch) {
  const bool int8 = kv.key_scales != nullptr;
  const int64_t row_bytes = static_cast<int64_t>(kv.dim) * (int8 ? 1 : 2);
  const auto copy = [&](void* base, int64_t bytes) {
    if (base == nullptr) return;
    CopyPageKernel<<<kv.heads, 128, 0, launch.stream>>>(static_cast<char*>(base), kPageRows * bytes,
                                                        rows * bytes, from, to);
    CHORD_CUDA_LAUNCHED();
  };
  copy(kv.keys, row_bytes);
  copy(kv.values, row_bytes);
  copy(kv.key_scales, sizeof(float));
  copy(kv.value_scales, sizeof(float));
}

}  // namespace chord::cuda
