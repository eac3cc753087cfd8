// Attention over whole images on Hopper, for heads of 80: TMA, wgmma, a running softmax.
//
// A block has 128 queries of one head. One warp loads keys and values, 128 rows at a time; two
// warpgroups have 64 queries each. While a warpgroup's product with the values of one step runs, it
// works on the softmax of the next. 80 is no multiple of the wide swizzles, so all three matrices
// lie in shared memory as five columns of 16 values, [column][row][16], swizzled by 32 bytes.
#include "common/engine/cuda/hopper.cuh"
#include "common/engine/cuda/vision_kernels.h"
#include "common/engine/cuda/vision_launch.cuh"
#include "common/engine/cuda/vision_math.cuh"
#include "common/engine/cuda/wgmma.cuh"

namespace chord::cuda::vision {
namespace {

constexpr int kDim = 80, kColumns = kDim / 16;
constexpr int kRows = 128;  // of queries in a block and of keys in a step
static_assert(kRows == kFullTileRows);
constexpr int kThreads = 2 * 128 + 32;
constexpr int kStages = 2;
constexpr int kColumnBytes = kRows * 32;
constexpr int kTileBytes = kColumns * kColumnBytes;
constexpr int kSharedBytes = (1 + 2 * kStages) * kTileBytes + 1024 + 256;

#ifdef CHORD_SM90
// Rows of 32 swizzled bytes, eight to 256 bytes. `columns`: bytes between columns of 16 values,
// where a product runs across them.
__device__ inline uint64_t Describe(uint32_t address, int columns = 16) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) |
         (static_cast<uint64_t>(columns >> 4) << 16) | (uint64_t{256 >> 4} << 32) |
         (uint64_t{3} << 62);
}
// kRows rows from `row` on of one head's queries (part 0), keys (1) or values (2).
__device__ inline void LoadRows(const CUtensorMap* map, uint32_t to, uint32_t barrier, int row,
                                int heads, int part, int head) {
  ExpectBytes(barrier, kTileBytes);
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(0), "r"(row), "r"((part * heads + head) * kColumns)
      : "memory");
}
__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One warpgroup's 64 queries.
template <typename T>
struct Rows {
  float s[kRows / 2];         // scores of a step, then their exponentials
  uint32_t p[kRows / 16][4];  // the exponentials of the step before, rounded
  float o[kDim / 2];
  float top[2], sum[2];  // of the lane's two rows; sum: over the lane's columns

  __device__ void Multiply(uint32_t queries, uint32_t keys) {
    Pin(s);
    FenceProducts();
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      Wgmma<T, kRows>::Run(s, Describe(queries + c * kColumnBytes),
                           Describe(keys + c * kColumnBytes), c > 0);
    }
    CommitProducts();
    Pin(s);
  }
  __device__ void Weigh(uint32_t values, bool add) {
    Pin(o);
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kRows / 16; ++step) {
      WgmmaRows<T, kDim>::Run(o, p[step], Describe(values + step * 16 * 32, kColumnBytes),
                              add || step > 0);
    }
    CommitProducts();
    Pin(o);
  }
  // Scores -> exponentials relative to the highest so far; `left` columns count. Returns by how
  // much what was gathered before has to shrink.
  __device__ float2 Soften(int left, float scale) {
    const int lane = threadIdx.x % 32;
    if (left < kRows) {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) {
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= left) s[i] = -INFINITY;
      }
    }
    float shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float highest = top[r];
#pragma unroll
      for (int t = 0; t < kRows / 8; ++t) {
        highest = fmaxf(highest, fmaxf(s[4 * t + 2 * r], s[4 * t + 2 * r + 1]));
      }
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 2));
      shrink[r] = exp2f((top[r] - highest) * scale);
      top[r] = highest;
      sum[r] *= shrink[r];
      const float base = highest * scale;
#pragma unroll
      for (int t = 0; t < kRows / 8; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[4 * t + 2 * r + i];
          x = exp2f(x * scale - base);
          sum[r] += x;
        }
      }
    }
    return make_float2(shrink[0], shrink[1]);
  }
  __device__ void RoundScores() {
#pragma unroll
    for (int step = 0; step < kRows / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[step][i] = NarrowPair<T>(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
      }
    }
  }
  __device__ void Shrink(float2 by) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) o[i] *= i % 4 < 2 ? by.x : by.y;
  }
  // `out`: the first of the warpgroup's 64 rows, of which `rows` exist.
  __device__ void Store(T* out, int64_t stride, int rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = sum[r];
      total += __shfl_xor_sync(0xffffffff, total, 1);
      total += __shfl_xor_sync(0xffffffff, total, 2);
      const float inverse = 1 / total;
      const int row = static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4 + 8 * r;
      if (row >= rows) continue;
      T* const to = out + row * stride + lane % 4 * 2;
#pragma unroll
      for (int t = 0; t < kDim / 8; ++t) {
        *reinterpret_cast<uint32_t*>(to + 8 * t) =
            NarrowPair<T>(o[4 * t + 2 * r] * inverse, o[4 * t + 2 * r + 1] * inverse);
      }
    }
  }
};

// Rows of values behind the segment's end are another image's: their weight is zero, but zero times
// what is not finite is not zero.
__device__ inline void ClearRows(unsigned char* values, int from) {
  for (int at = threadIdx.x; at < kColumns * (kRows - from) * 2; at += 256) {
    const int column = at / ((kRows - from) * 2), piece = at % ((kRows - from) * 2);
    *reinterpret_cast<uint4*>(values + column * kColumnBytes + from * 32 + piece * 16) = uint4{};
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("bar.sync 1, 256;" ::: "memory");
}
#endif  // CHORD_SM90

template <typename T>
__global__ __launch_bounds__(kThreads, 1) void FullKernel(const __grid_constant__ CUtensorMap map,
                                                          int heads, const AttentionTile* tiles,
                                                          T* out) {
#ifdef CHORD_SM90
  extern __shared__ unsigned char raw[];
  const uint32_t base = (SharedAddress(raw) + 1023) & ~1023u;
  const uint32_t keys = base + kTileBytes, values = keys + kStages * kTileBytes;
  const uint32_t barriers = values + kStages * kTileBytes;
  const uint32_t queries_full = barriers, keys_full = barriers + 8,
                 values_full = keys_full + 8 * kStages, keys_empty = values_full + 8 * kStages,
                 values_empty = keys_empty + 8 * kStages;
  const int head = static_cast<int>(blockIdx.x);
  const AttentionTile tile = tiles[blockIdx.y];
  const int steps = (tile.length + kRows - 1) / kRows;
  if (threadIdx.x == 0) {
    InitBarrier(queries_full, 1);
    for (int s = 0; s < kStages; ++s) {
      InitBarrier(keys_full + 8 * s, 1);
      InitBarrier(values_full + 8 * s, 1);
      InitBarrier(keys_empty + 8 * s, 8);  // the warps that multiply
      InitBarrier(values_empty + 8 * s, 8);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  WaitForPrevious();
  AllowNext();

  if (threadIdx.x >= 256) {
    if (threadIdx.x == 256) {
      LoadRows(&map, base, queries_full, tile.begin + tile.query, heads, 0, head);
      for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages, phase = step / kStages % 2;
        WaitForPhase(keys_empty + 8 * stage, phase ^ 1);
        LoadRows(&map, keys + stage * kTileBytes, keys_full + 8 * stage, tile.begin + step * kRows,
                 heads, 1, head);
        WaitForPhase(values_empty + 8 * stage, phase ^ 1);
        LoadRows(&map, values + stage * kTileBytes, values_full + 8 * stage,
                 tile.begin + step * kRows, heads, 2, head);
      }
    }
    return;
  }

  const int group = static_cast<int>(threadIdx.x) / 128, lane = threadIdx.x % 32;
  const uint32_t queries = base + group * 64 * 32;
  const float scale = 1.4426950408889634f * rsqrtf(static_cast<float>(kDim));
  Rows<T> rows;
  rows.top[0] = rows.top[1] = -INFINITY;
  rows.sum[0] = rows.sum[1] = 0;
  WaitForPhase(queries_full, 0);
  WaitForPhase(keys_full, 0);
  rows.Multiply(queries, keys);
  WaitForProducts<0>();
  Pin(rows.s);
  if (lane == 0) Arrive(keys_empty);
  rows.Soften(tile.length, scale);
  rows.RoundScores();
  for (int step = 1; step < steps; ++step) {
    const int stage = step % kStages, phase = step / kStages % 2;
    const int before = (step - 1) % kStages, phase_before = (step - 1) / kStages % 2;
    WaitForPhase(keys_full + 8 * stage, phase);
    rows.Multiply(queries, keys + stage * kTileBytes);
    WaitForPhase(values_full + 8 * before, phase_before);
    rows.Weigh(values + before * kTileBytes, step > 1);
    WaitForProducts<1>();
    Pin(rows.s);
    if (lane == 0) Arrive(keys_empty + 8 * stage);
    const float2 shrink = rows.Soften(tile.length - step * kRows, scale);
    WaitForProducts<0>();
    Pin(rows.o);
    if (lane == 0) Arrive(values_empty + 8 * before);
    rows.Shrink(shrink);
    rows.RoundScores();
  }
  const int last = (steps - 1) % kStages;
  WaitForPhase(values_full + 8 * last, (steps - 1) / kStages % 2);
  const int left = tile.length - (steps - 1) * kRows;
  if (left < kRows) {
    ClearRows(raw + (values + last * kTileBytes - SharedAddress(raw)), left);
  }
  rows.Weigh(values + last * kTileBytes, steps > 1);
  WaitForProducts<0>();
  Pin(rows.o);
  const int64_t width = int64_t{heads} * kDim;
  const int first = tile.query + group * 64;
  rows.Store(out + (tile.begin + first) * width + head * kDim, width, tile.length - first);
#endif
}

template <typename T>
cudaError_t Run(HalfType type, const void* qkv, int64_t rows, int heads, const AttentionTile* tiles,
                int count, void* out, const Queue& queue) {
  static const EncodeTiled encode = FindEncodeTiled();
  static const cudaError_t ready = cudaFuncSetAttribute(
      FullKernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (ready != cudaSuccess) return ready;
  const auto row_bytes = static_cast<cuuint64_t>(3 * heads * kDim * 2);
  const cuuint64_t sizes[3] = {16, static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(3 * heads * kColumns)};
  const cuuint64_t strides[2] = {row_bytes, 32};
  const cuuint32_t box[3] = {16, kRows, kColumns};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  if (encode == nullptr ||
      encode(&map,
             type == HalfType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                     : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
             3, const_cast<void*>(qkv), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_32B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    return cudaErrorInvalidConfiguration;
  }
  return Launch(queue, dim3(heads, count), kThreads, kSharedBytes, FullKernel<T>, map, heads, tiles,
                static_cast<T*>(out));
}

}  // namespace

cudaError_t SegmentAttentionSm90(HalfType type, const void* qkv, int64_t rows,
                                 const AttentionShape& shape, const AttentionTile* tiles, int count,
                                 void* out, const Queue& queue) {
  if (shape.dim != kDim) return cudaErrorInvalidValue;
  return type == HalfType::kBf16
             ? Run<__nv_bfloat16>(type, qkv, rows, shape.heads, tiles, count, out, queue)
             : Run<__half>(type, qkv, rows, shape.heads, tiles, count, out, queue);
}

}  // namespace chord::cuda::vision
