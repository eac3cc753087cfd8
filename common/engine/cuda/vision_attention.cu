// Attention of the vision tower: windows of at most 64 rows with the rotary embedding folded into
// the loads, and whole images block by block with a running softmax. Rows of any segment length,
// no padding in memory and no masks. Tensor cores through mma.sync, so Ampere and later.
#include <cuda_runtime.h>

#include "common/engine/cuda/vision_kernels.h"
#include "common/engine/cuda/vision_launch.cuh"
#include "common/engine/cuda/vision_math.cuh"

namespace chord::cuda::vision {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// Rows in shared memory lie 16 bytes further apart than they are long, so that the eight rows of an
// ldmatrix tile fall into different banks.
template <int kDim>
constexpr int kStride = kDim + 8;

// Eight values j and their partners j + dim/2, rotated: first·cos − second·sin,
// second·cos + first·sin, in float32, rounded once.
template <typename T, int kDim>
__device__ inline void RotateChunk(uint4& first, uint4& second, int chunk, short2 position,
                                   const RopeAngles& rope) {
  constexpr int kQuarter = kDim / 4;
  uint32_t* a = &first.x;
  uint32_t* b = &second.x;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = chunk * 8 + half * 4;  // four frequencies of one axis
    const int axis = j >= kQuarter ? position.y : position.x;
    const int at = axis * kQuarter + (j >= kQuarter ? j - kQuarter : j);
    const float4 c = *reinterpret_cast<const float4*>(rope.cos + at);
    const float4 s = *reinterpret_cast<const float4*>(rope.sin + at);
    const float2 a0 = WidenPair<T>(a[2 * half]), a1 = WidenPair<T>(a[2 * half + 1]);
    const float2 b0 = WidenPair<T>(b[2 * half]), b1 = WidenPair<T>(b[2 * half + 1]);
    a[2 * half] = NarrowPair<T>(a0.x * c.x - b0.x * s.x, a0.y * c.y - b0.y * s.y);
    a[2 * half + 1] = NarrowPair<T>(a1.x * c.z - b1.x * s.z, a1.y * c.w - b1.y * s.w);
    b[2 * half] = NarrowPair<T>(b0.x * c.x + a0.x * s.x, b0.y * c.y + a0.y * s.y);
    b[2 * half + 1] = NarrowPair<T>(b1.x * c.z + a1.x * s.z, b1.y * c.w + a1.y * s.w);
  }
}

template <typename T, int kDim>
__global__ __launch_bounds__(256) void RotateKernel(T* qkv, int64_t rows, int heads,
                                                    RopeAngles rope) {
  constexpr int kChunks = kDim / 16;
  WaitForPrevious();
  AllowNext();
  const int64_t per_row = int64_t{2} * heads * kChunks;  // queries, then keys
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= rows * per_row) return;
  const int64_t row = at / per_row;
  const int item = static_cast<int>(at % per_row);
  const int chunk = item % kChunks;
  T* p = qkv + row * 3 * heads * kDim + int64_t{item / kChunks} * kDim + chunk * 8;
  uint4 first = *reinterpret_cast<uint4*>(p);
  uint4 second = *reinterpret_cast<uint4*>(p + kDim / 2);
  RotateChunk<T, kDim>(first, second, chunk, rope.positions[row], rope);
  *reinterpret_cast<uint4*>(p) = first;
  *reinterpret_cast<uint4*>(p + kDim / 2) = second;
}

// s [16, 8·kTiles] = q [16, kDim] · kᵀ, q's fragments by `load_query`, k's rows in shared memory.
template <typename T, int kDim, int kTiles>
__device__ inline void MultiplyKeys(const uint32_t (&q)[kDim / 16][4], const T* keys,
                                    float (&s)[kTiles][4]) {
  const int lane = threadIdx.x % 32;
  const T* row = keys + ((lane / 16) * 8 + lane % 8) * kStride<kDim> + (lane / 8 % 2) * 8;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t k[4];
      LoadTiles(k, row + tile * 8 * kStride<kDim> + step * 16);
      Mma<T>(s[tile], q[step], k[0], k[1]);
      Mma<T>(s[tile + 1], q[step], k[2], k[3]);
    }
  }
}

template <typename T, int kDim>
__device__ inline void LoadQueries(const T* queries, uint32_t (&q)[kDim / 16][4]) {
  const int lane = threadIdx.x % 32;
  const T* row = queries + (lane % 16) * kStride<kDim> + (lane / 16) * 8;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) LoadTiles(q[step], row + step * 16);
}

// o [16, kDim] += p [16, 8·kTiles] · v, with p rounded to T.
template <typename T, int kDim, int kTiles>
__device__ inline void MultiplyValues(const float (&p)[kTiles][4], const T* values,
                                      float (&o)[kDim / 8][4]) {
  const int lane = threadIdx.x % 32;
  const T* row = values + (lane % 16) * kStride<kDim> + (lane / 16) * 8;
#pragma unroll
  for (int step = 0; step < kTiles / 2; ++step) {
    const float(&x)[4] = p[2 * step];
    const float(&y)[4] = p[2 * step + 1];
    const uint32_t a[4] = {NarrowPair<T>(x[0], x[1]), NarrowPair<T>(x[2], x[3]),
                           NarrowPair<T>(y[0], y[1]), NarrowPair<T>(y[2], y[3])};
#pragma unroll
    for (int tile = 0; tile < kDim / 8; tile += 2) {
      uint32_t v[4];
      LoadTilesTransposed(v, row + step * 16 * kStride<kDim> + tile * 8);
      Mma<T>(o[tile], a, v[0], v[1]);
      Mma<T>(o[tile + 1], a, v[2], v[3]);
    }
  }
}

__device__ inline float MaxOfQuad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ inline float SumOfQuad(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// o / sum, rounded, to 16 rows of shared memory that only this warp uses, then to global memory in
// pieces of 16 bytes.
template <typename T, int kDim>
__device__ inline void StoreRows(const float (&o)[kDim / 8][4], const float (&sum)[2], T* staged,
                                 int rows, T* out, int64_t stride) {
  const int lane = threadIdx.x % 32;
  const float low = 1 / sum[0], high = 1 / sum[1];
#pragma unroll
  for (int tile = 0; tile < kDim / 8; ++tile) {
    T* at = staged + (lane / 4) * kStride<kDim> + tile * 8 + (lane % 4) * 2;
    *reinterpret_cast<uint32_t*>(at) = NarrowPair<T>(o[tile][0] * low, o[tile][1] * low);
    *reinterpret_cast<uint32_t*>(at + 8 * kStride<kDim>) =
        NarrowPair<T>(o[tile][2] * high, o[tile][3] * high);
  }
  __syncwarp();
  constexpr int kChunks = kDim / 8;
#pragma unroll
  for (int at = lane; at < 16 * kChunks; at += 32) {
    const int row = at / kChunks, chunk = at % kChunks;
    if (row < rows) {
      *reinterpret_cast<uint4*>(out + row * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(staged + row * kStride<kDim> + chunk * 8);
    }
  }
}

// Queries, keys and values of a window and a head into shared memory, one after another. Rows
// behind the window's end become zeros.
template <typename T, int kDim>
__device__ inline void LoadAsTheyAre(const T* qkv, int64_t width, const AttentionTile& tile,
                                     int first_part, T* parts) {
  constexpr int kRows = kWindowRows, kChunks = kDim / 8;
  const int count = 3 - first_part;
#pragma unroll 5
  for (int at = threadIdx.x; at < count * kRows * kChunks; at += 128) {
    const int row = at / (count * kChunks), part = first_part + at / kChunks % count;
    const int chunk = at % kChunks;
    const bool there = row < tile.length;
    CopyAsync16(parts + (part * kRows + row) * kStride<kDim> + chunk * 8,
                qkv + (tile.begin + (there ? row : 0)) * 3 * width + part * width + chunk * 8,
                there);
  }
  CommitCopies();
}
template <typename T, int kDim>
__device__ inline void LoadRotated(const T* qkv, int64_t width, const AttentionTile& tile,
                                   const RopeAngles& rope, T* parts) {
  constexpr int kRows = kWindowRows, kChunks = kDim / 16;
#pragma unroll
  for (int at = threadIdx.x; at < kRows * 2 * kChunks; at += 128) {
    const int row = at / (2 * kChunks), part = at / kChunks % 2, chunk = at % kChunks;
    uint4 first{}, second{};
    if (row < tile.length) {
      const T* from = qkv + (tile.begin + row) * 3 * width + part * width + chunk * 8;
      first = *reinterpret_cast<const uint4*>(from);
      second = *reinterpret_cast<const uint4*>(from + kDim / 2);
      RotateChunk<T, kDim>(first, second, chunk, rope.positions[tile.begin + row], rope);
    }
    T* const to = parts + (part * kRows + row) * kStride<kDim> + chunk * 8;
    *reinterpret_cast<uint4*>(to) = first;
    *reinterpret_cast<uint4*>(to + kDim / 2) = second;
  }
}

// A block is one window and one head; a warp has 16 of its queries.
template <typename T, int kDim, bool kRotate>
__global__ __launch_bounds__(128) void WindowKernel(const T* qkv, int heads, RopeAngles rope,
                                                    const AttentionTile* tiles, T* out) {
  constexpr int kRows = kWindowRows;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const parts = reinterpret_cast<T*>(shared);  // queries, keys, values
  const int64_t width = int64_t{heads} * kDim;
  const int head = static_cast<int>(blockIdx.x);
  const AttentionTile tile = tiles[blockIdx.y];
  WaitForPrevious();
  AllowNext();
  LoadAsTheyAre<T, kDim>(qkv + head * kDim, width, tile, kRotate ? 2 : 0, parts);
  if constexpr (kRotate) LoadRotated<T, kDim>(qkv + head * kDim, width, tile, rope, parts);
  WaitForCopies<0>();
  __syncthreads();

  const int first_row = static_cast<int>(threadIdx.x / 32) * 16, lane = threadIdx.x % 32;
  if (first_row >= tile.length) return;
  T* const queries = parts + first_row * kStride<kDim>;
  const T* const keys = parts + kRows * kStride<kDim>;
  uint32_t q[kDim / 16][4];
  LoadQueries<T, kDim>(queries, q);
  float s[kRows / 8][4] = {};
  MultiplyKeys<T, kDim, kRows / 8>(q, keys, s);

  const float scale = kLog2E * rsqrtf(static_cast<float>(kDim));
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
#pragma unroll
  for (int t = 0; t < kRows / 8; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (t * 8 + lane % 4 * 2 + i % 2 >= tile.length) s[t][i] = -INFINITY;
      top[i / 2] = fmaxf(top[i / 2], s[t][i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) top[i] = MaxOfQuad(top[i]) * scale;
#pragma unroll
  for (int t = 0; t < kRows / 8; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[t][i] = exp2f(s[t][i] * scale - top[i / 2]);
      sum[i / 2] += s[t][i];
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) sum[i] = SumOfQuad(sum[i]);
  float o[kDim / 8][4] = {};
  MultiplyValues<T, kDim, kRows / 8>(s, keys + kRows * kStride<kDim>, o);
  StoreRows<T, kDim>(o, sum, queries, tile.length - first_row,
                     out + (tile.begin + first_row) * width + head * kDim, width);
}

// A block is kFullTileRows queries of one head over all keys of their segment, kBlock at a time; a
// warp has 32 queries, so that every fragment of keys and values is used twice.
template <typename T, int kDim>
struct FullKernelLayout {
  static constexpr int kBlock = 64, kStages = 2;
  // Fragments of the queries stay in registers where there are enough.
  static constexpr bool kKeepQueries = kDim <= 80;
  static constexpr int kKeys = kBlock * kStride<kDim>;  // elements of one stage
  static constexpr size_t kBytes =
      (kFullTileRows * kStride<kDim> + 2 * kStages * kKeys) * sizeof(T);
};

template <typename T, int kDim>
__device__ inline void FetchRows(const T* from, int64_t stride, int rows, int valid, T* to) {
  constexpr int kChunks = kDim / 8;
  for (int at = threadIdx.x; at < rows * kChunks; at += 128) {
    const int row = at / kChunks, chunk = at % kChunks;
    const bool there = row < valid;
    CopyAsync16(to + row * kStride<kDim> + chunk * 8, from + (there ? row : 0) * stride + chunk * 8,
                there);
  }
}

template <typename T, int kDim>
__global__ __launch_bounds__(128) void FullKernel(const T* qkv, int heads,
                                                  const AttentionTile* tiles, T* out) {
  using Layout = FullKernelLayout<T, kDim>;
  constexpr int kBlock = Layout::kBlock, kTiles = kBlock / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const queries = reinterpret_cast<T*>(shared);
  T* const keys = queries + kFullTileRows * kStride<kDim>;
  T* const values = keys + Layout::kStages * Layout::kKeys;
  const int64_t width = int64_t{heads} * kDim, stride = 3 * width;
  const int head = static_cast<int>(blockIdx.x);
  const AttentionTile tile = tiles[blockIdx.y];
  const T* const base = qkv + tile.begin * stride + head * kDim;
  const int blocks = (tile.length + kBlock - 1) / kBlock;
  WaitForPrevious();
  AllowNext();

  const auto fetch = [&](int block) {
    const int first = block * kBlock, stage = block % Layout::kStages;
    const T* const from = base + first * stride + width;
    FetchRows<T, kDim>(from, stride, kBlock, tile.length - first, keys + stage * Layout::kKeys);
    FetchRows<T, kDim>(from + width, stride, kBlock, tile.length - first,
                       values + stage * Layout::kKeys);
  };
  FetchRows<T, kDim>(base + tile.query * stride, stride, kFullTileRows, tile.length - tile.query,
                     queries);
  fetch(0);
  CommitCopies();

  const int lane = threadIdx.x % 32, first_row = static_cast<int>(threadIdx.x / 32) * 32;
  const float scale = kLog2E * rsqrtf(static_cast<float>(kDim));
  uint32_t q[2][Layout::kKeepQueries ? kDim / 16 : 1][4];
  float o[2][kDim / 8][4] = {};
  float top[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}}, sum[2][2] = {};
  for (int block = 0; block < blocks; ++block) {
    if (block + 1 < blocks) fetch(block + 1);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    const T* const query_row = queries + (first_row + lane % 16) * kStride<kDim> + (lane / 16) * 8;
    if (Layout::kKeepQueries && block == 0) {
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        LoadTiles(q[0][step], query_row + step * 16);
        LoadTiles(q[1][step], query_row + 16 * kStride<kDim> + step * 16);
      }
    }
    const T* const k = keys + block % Layout::kStages * Layout::kKeys;
    const T* const v = values + block % Layout::kStages * Layout::kKeys;
    float s[2][kTiles][4] = {};
    {
      const T* row = k + ((lane / 16) * 8 + lane % 8) * kStride<kDim> + (lane / 8 % 2) * 8;
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        constexpr bool kKeep = Layout::kKeepQueries;
        if (!kKeep) {
          LoadTiles(q[0][0], query_row + step * 16);
          LoadTiles(q[1][0], query_row + 16 * kStride<kDim> + step * 16);
        }
#pragma unroll
        for (int t = 0; t < kTiles; t += 2) {
          uint32_t b[4];
          LoadTiles(b, row + t * 8 * kStride<kDim> + step * 16);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            Mma<T>(s[m][t], q[m][kKeep ? step : 0], b[0], b[1]);
            Mma<T>(s[m][t + 1], q[m][kKeep ? step : 0], b[2], b[3]);
          }
        }
      }
    }
    const int left = tile.length - block * kBlock;
    if (left < kBlock) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (t * 8 + lane % 4 * 2 + i % 2 >= left) s[0][t][i] = s[1][t][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      float highest[2] = {top[m][0], top[m][1]};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) highest[i / 2] = fmaxf(highest[i / 2], s[m][t][i]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        highest[i] = MaxOfQuad(highest[i]);
        const float shrink = exp2f((top[m][i] - highest[i]) * scale);  // 0 in the first block
        top[m][i] = highest[i];
        sum[m][i] *= shrink;
#pragma unroll
        for (int t = 0; t < kDim / 8; ++t) {
          o[m][t][2 * i] *= shrink;
          o[m][t][2 * i + 1] *= shrink;
        }
        highest[i] *= scale;
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[m][t][i] = exp2f(s[m][t][i] * scale - highest[i / 2]);
          sum[m][i / 2] += s[m][t][i];
        }
      }
    }
    {
      const T* row = v + (lane % 16) * kStride<kDim> + (lane / 16) * 8;
#pragma unroll
      for (int step = 0; step < kTiles / 2; ++step) {
        uint32_t a[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float* x = s[m][2 * step + i / 2] + i % 2 * 2;
            a[m][i] = NarrowPair<T>(x[0], x[1]);
          }
        }
#pragma unroll
        for (int t = 0; t < kDim / 8; t += 2) {
          uint32_t b[4];
          LoadTilesTransposed(b, row + step * 16 * kStride<kDim> + t * 8);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            Mma<T>(o[m][t], a[m], b[0], b[1]);
            Mma<T>(o[m][t + 1], a[m], b[2], b[3]);
          }
        }
      }
    }
    __syncthreads();  // before the next fetch writes into this stage
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int row = first_row + 16 * m;
#pragma unroll
    for (int i = 0; i < 2; ++i) sum[m][i] = SumOfQuad(sum[m][i]);
    StoreRows<T, kDim>(o[m], sum[m], queries + row * kStride<kDim>, tile.length - tile.query - row,
                       out + (tile.begin + tile.query + row) * width + head * kDim, width);
  }
}

template <typename Kernel>
cudaError_t AllowShared(Kernel* kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

// Calls fn.template operator()<T, kDim>() for the pair at hand.
template <typename Fn>
cudaError_t ForTypeAndDim(HalfType type, int dim, const Fn& fn) {
  const auto with = [&]<typename T>() {
    switch (dim) {
      case 48:
        return fn.template operator()<T, 48>();
      case 64:
        return fn.template operator()<T, 64>();
      case 80:
        return fn.template operator()<T, 80>();
      case 128:
        return fn.template operator()<T, 128>();
      default:
        return cudaErrorInvalidValue;
    }
  };
  return type == HalfType::kBf16 ? with.template operator()<__nv_bfloat16>()
                                 : with.template operator()<__half>();
}

}  // namespace

bool HasAttention(int dim) { return dim == 48 || dim == 64 || dim == 80 || dim == 128; }

cudaError_t RotateInPlace(HalfType type, void* qkv, int64_t rows, const AttentionShape& shape,
                          const RopeAngles& rope, const Queue& queue) {
  return ForTypeAndDim(type, shape.dim, [&]<typename T, int kDim>() {
    const int64_t items = rows * 2 * shape.heads * (kDim / 16);
    return Launch(queue, dim3(static_cast<unsigned>((items + 255) / 256)), 256, 0,
                  RotateKernel<T, kDim>, static_cast<T*>(qkv), rows, shape.heads, rope);
  });
}

cudaError_t WindowAttention(HalfType type, const void* qkv, const AttentionShape& shape,
                            const RopeAngles& rope, const AttentionTile* tiles, int count,
                            void* out, const Queue& queue) {
  return ForTypeAndDim(type, shape.dim, [&]<typename T, int kDim>() {
    constexpr size_t kBytes = 3 * kWindowRows * kStride<kDim> * sizeof(T);
    const auto run = [&]<bool kRotate>() {
      static const cudaError_t ready = AllowShared(WindowKernel<T, kDim, kRotate>, kBytes);
      if (ready != cudaSuccess) return ready;
      return Launch(queue, dim3(shape.heads, count), 128, kBytes, WindowKernel<T, kDim, kRotate>,
                    static_cast<const T*>(qkv), shape.heads, rope, tiles, static_cast<T*>(out));
    };
    return rope.positions == nullptr ? run.template operator()<false>()
                                     : run.template operator()<true>();
  });
}

cudaError_t SegmentAttention(HalfType type, const void* qkv, const AttentionShape& shape,
                             const AttentionTile* tiles, int count, void* out, const Queue& queue) {
  return ForTypeAndDim(type, shape.dim, [&]<typename T, int kDim>() {
    constexpr size_t kBytes = FullKernelLayout<T, kDim>::kBytes;
    static const cudaError_t ready = AllowShared(FullKernel<T, kDim>, kBytes);
    if (ready != cudaSuccess) return ready;
    return Launch(queue, dim3(shape.heads, count), 128, kBytes, FullKernel<T, kDim>,
                  static_cast<const T*>(qkv), shape.heads, tiles, static_cast<T*>(out));
  });
}

}  // namespace chord::cuda::vision
