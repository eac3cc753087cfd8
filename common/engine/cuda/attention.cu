// Attention from pages: query rows of a group of heads against the keys and values of their kv
// head, with tensor cores and the softmax kept online (FlashAttention's scheme).
//
// The query heads that share a kv head are packed as rows: row m of a tile is token m / group, head
// m % group. Two shapes of block share the code. kManyRows: four warps have sixteen rows each and
// walk the context together. kFewRows: all warps have the same sixteen rows and share out the
// context. Where tiles are few, the context is also cut among blocks; the last one to finish an
// item puts the parts together, in the order of the context, so that results repeat.
#include <algorithm>

#include "common/engine/cuda/device.cuh"
#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/rotary.cuh"

namespace chord::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileContext = 64;  // KV rows of one step of a block
constexpr int kStages = 2;
constexpr int kMaxSplits = 32;
constexpr float kLog2E = 1.4426950408889634f;

constexpr int RowsOf(AttentionShape shape) { return shape == AttentionShape::kFewRows ? 16 : 64; }

template <int kDim>
constexpr int StageBytes() {
  return 2 * kTileContext * kDim * 2;
}

// Address of 16-byte piece `piece` of row `row` of a tile of kDim columns.
template <int kDim>
__device__ __forceinline__ int TileOffset(int row, int piece) {
  return row * kDim * 2 + ((piece ^ (row & 7)) * 16);
}

struct Range {
  int begin = 0;
  int end = 0;
};

struct Params {
  Attention a;
  int tiles = 0;
  int splits = 0;
};

// The KV rows of a split: whole steps of kTileContext, as even as they come.
__device__ inline Range SplitRange(int length, int split, int splits, int* used) {
  const int steps = (length + kTileContext - 1) / kTileContext;
  const int per_split = (steps + splits - 1) / splits;
  *used = (steps + per_split - 1) / per_split;
  return {split * per_split * kTileContext, min((split + 1) * per_split * kTileContext, length)};
}

// Reads KV rows [at, at + kTileContext) of one head to shared memory; zeros from `end` on and in
// columns that the head does not have.
template <typename T, int kDim>
__device__ void LoadTile(const Attention& a, const int32_t* pages, int head, int at, int end,
                         char* shared) {
  constexpr int kPieces = kDim / 8;
  const int pieces = a.kv.dim / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTileContext * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool valid = at + row < end && piece < pieces;
    const int slot = valid ? pages[(at + row) / kPageRows] * kPageRows + (at + row) % kPageRows : 0;
    const int64_t index = KvRowIndex(a.kv, slot, head);
    const int offset = TileOffset<kDim>(row, piece);
    char* keys = shared + offset;
    char* values = shared + kTileContext * kDim * 2 + offset;
    if (a.kv.key_scales == nullptr) {
      const int64_t from = valid ? index * a.kv.dim + piece * 8 : 0;
      CopyAsync16(keys, static_cast<const T*>(a.kv.keys) + from, valid);
      CopyAsync16(values, static_cast<const T*>(a.kv.values) + from, valid);
      continue;
    }
    const auto widen = [&](const void* tensor, const float* scales, char* to) {
      Eight<T> out = {};
      if (valid) {
        const int64_t from = index * a.kv.dim + piece * 8;
        const auto packed = *reinterpret_cast<const uint2*>(static_cast<const int8_t*>(tensor) + from);
        int8_t values8[8];
        memcpy(values8, &packed, 8);
        const float scale = scales[index];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          out.word[j] = Pack<T>(values8[2 * j] * scale, values8[2 * j + 1] * scale);
        }
      }
      *reinterpret_cast<Eight<T>*>(to) = out;
    };
    widen(a.kv.keys, a.kv.key_scales, keys);
    widen(a.kv.values, a.kv.value_scales, values);
  }
  CommitCopies();
}

// Sixteen query rows of one warp and what it has attended to so far. Lane l has rows l / 4 and
// l / 4 + 8 of the accumulators.
template <typename T, int kDim>
struct Rows {
  static constexpr int kSteps = kDim / 16;    // of the head size
  static constexpr int kColumns = kDim / 8;   // column groups of the output
  uint32_t q[kSteps][4];
  float o[kColumns][4];
  float top[2];
  float sum[2];
  int limit[2];  // KV rows that the row sees; 0: no such row

  __device__ void Load(const Attention& a, const AttentionItem& item, int head, int first, int group) {
    const int lane = threadIdx.x % kWarp;
    const T* rows[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = first + lane / 4 + half * 8, token = m / group;
      const bool valid = token < item.count;
      limit[half] = valid ? item.start + token + 1 : 0;
      rows[half] = static_cast<const T*>(a.q) +
                   (static_cast<int64_t>(item.begin + (valid ? token : 0)) * a.heads + head * group + m % group) *
                       a.kv.dim;
      top[half] = -INFINITY;
      sum[half] = 0;
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = s * 16 + (i / 2) * 8 + (lane % 4) * 2, half = i % 2;
        q[s][i] = limit[half] > 0 && column < a.kv.dim
                      ? *reinterpret_cast<const uint32_t*>(rows[half] + column)
                      : 0;
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) o[c][0] = o[c][1] = o[c][2] = o[c][3] = 0;
  }

  // Attends to rows [first, first + kRows) of a tile that begins at KV row `at`.
  template <int kRows>
  __device__ void Attend(const char* tile, int first, int at, float scale) {
    const int lane = threadIdx.x % kWarp;
    const uint32_t keys = SharedAddress(tile);
    const uint32_t values = keys + kTileContext * kDim * 2;
    float s[kRows / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < kRows / 16; ++n) {
        const int row = first + n * 16 + (lane / 16) * 8 + lane % 8;
        uint32_t b[4];
        LoadMatrices(b, keys + TileOffset<kDim>(row, step * 2 + (lane / 8) % 2));
        Mma<T>(s[2 * n], q[step][0], q[step][1], q[step][2], q[step][3], b[0], b[1]);
        Mma<T>(s[2 * n + 1], q[step][0], q[step][1], q[step][2], q[step][3], b[2], b[3]);
      }
    }
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = at + first + n * 8 + (lane % 4) * 2 + i;
          float& x = s[n][2 * half + i];
          x = row < limit[half] ? x * scale : -INFINITY;
          most = fmaxf(most, x);
        }
      }
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      const float base = most == -INFINITY ? 0.f : most;
      factor[half] = exp2f(top[half] - base);
      top[half] = most;
      sum[half] *= factor[half];
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[n][2 * half + i];
          x = exp2f(x - base);
          sum[half] += x;
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      o[c][0] *= factor[0], o[c][1] *= factor[0];
      o[c][2] *= factor[1], o[c][3] *= factor[1];
    }
#pragma unroll
    for (int n = 0; n < kRows / 16; ++n) {
      const uint32_t p0 = Pack<T>(s[2 * n][0], s[2 * n][1]), p1 = Pack<T>(s[2 * n][2], s[2 * n][3]);
      const uint32_t p2 = Pack<T>(s[2 * n + 1][0], s[2 * n + 1][1]);
      const uint32_t p3 = Pack<T>(s[2 * n + 1][2], s[2 * n + 1][3]);
      const int row = first + n * 16 + ((lane / 8) % 2) * 8 + lane % 8;
#pragma unroll
      for (int c = 0; c < kColumns / 2; ++c) {
        uint32_t b[4];
        LoadMatricesTransposed(b, values + TileOffset<kDim>(row, 2 * c + lane / 16));
        Mma<T>(o[2 * c], p0, p1, p2, p3, b[0], b[1]);
        Mma<T>(o[2 * c + 1], p0, p1, p2, p3, b[2], b[3]);
      }
    }
  }

  __device__ void SumOverLanes() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 1);
      sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 2);
    }
  }
};

// Where row m of a tile belongs in the output; null: there is no such row.
template <typename T>
__device__ T* OutputRow(const Attention& a, const AttentionItem& item, int head, int m, int group) {
  const int token = m / group;
  if (token >= item.count) return nullptr;
  return static_cast<T*>(a.out) +
         (static_cast<int64_t>(item.begin + token) * a.heads + head * group + m % group) * a.kv.dim;
}

// Parts of one row: unnormalised values with their top and sum, one of them for each of `parts`.
// Weights of the parts, whose sum is 1; a part without rows has top -inf and counts nothing.
template <typename Top, typename Sum>
__device__ float PartsTop(int parts, Top&& top, Sum&& sum, float* total) {
  float most = -INFINITY;
  for (int i = 0; i < parts; ++i) most = fmaxf(most, top(i));
  *total = 0;
  if (most == -INFINITY) return 0.f;
  for (int i = 0; i < parts; ++i) *total += sum(i) * exp2f(top(i) - most);
  return most;
}

// Partial results of one (tile, kv head): values [split][rows][dim], then tops and sums
// [split][rows][2].
struct Partial {
  float* values;
  float* stats;
};
__device__ inline Partial PartialOf(const Params& p, int rows, int tile, int head) {
  const int64_t per_item = static_cast<int64_t>(p.splits) * rows * (p.a.kv.dim + 2);
  float* base = p.a.partial + (static_cast<int64_t>(tile) * p.a.kv.heads + head) * per_item;
  return {base, base + static_cast<int64_t>(p.splits) * rows * p.a.kv.dim};
}

// The last of an item's blocks adds up what all of them left. `shared` holds the weight of every
// part and row meanwhile.
template <typename T, int kTileRows>
__device__ void Combine(const Params& p, const AttentionItem& item, int tile, int head, int first,
                        int group, int used, float* shared) {
  const Partial partial = PartialOf(p, kTileRows, tile, head);
  const int dim = p.a.kv.dim, fours = dim / 4;
  float2* stats = reinterpret_cast<float2*>(shared);  // [split][row] of top and sum
  for (int i = threadIdx.x; i < used * kTileRows; i += kThreads) {
    stats[i] = __ldcg(reinterpret_cast<const float2*>(partial.stats) + i);
  }
  __syncthreads();
  for (int m = threadIdx.x; m < kTileRows; m += kThreads) {
    float total;
    const float most = PartsTop(
        used, [&](int s) { return stats[s * kTileRows + m].x; },
        [&](int s) { return stats[s * kTileRows + m].y; }, &total);
    for (int split = 0; split < used; ++split) {
      float2& stat = stats[split * kTileRows + m];
      stat.x = total > 0 ? exp2f(stat.x - most) / total : 0.f;  // now the weight
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileRows * fours; i += kThreads) {
    const int m = i / fours, column = i % fours * 4;
    T* out = OutputRow<T>(p.a, item, head, first + m, group);
    if (out == nullptr) continue;
    float4 sum = {0, 0, 0, 0};
    const float* from = partial.values + m * dim + column;
#pragma unroll 8
    for (int split = 0; split < used; ++split) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(from + split * kTileRows * dim));
      const float weight = stats[split * kTileRows + m].x;
      sum.x += weight * v.x, sum.y += weight * v.y, sum.z += weight * v.z, sum.w += weight * v.w;
    }
    *reinterpret_cast<uint2*>(out + column) = {Pack<T>(sum.x, sum.y), Pack<T>(sum.z, sum.w)};
  }
}

// True in the block that arrives last; its reads then see what the others wrote.
__device__ inline bool ArrivesLast(unsigned* counter, int of) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1u) + 1 == static_cast<unsigned>(of);
    if (last) *counter = 0;  // for the next launch
    __threadfence();
  }
  __syncthreads();
  return last;
}

template <typename T, int kDim, AttentionShape kShape>
__device__ void AttendTile(const Params& p, int tile_index, int head, int split, char* shared) {
  constexpr bool kFew = kShape == AttentionShape::kFewRows;
  constexpr int kTileRows = RowsOf(kShape);
  const Attention& a = p.a;
  const AttentionTile tile = a.tiles[tile_index];
  if (tile.item < 0) return;
  const AttentionItem item = a.items[tile.item];
  const int group = a.heads / a.kv.heads;
  const int tokens_end = min(item.count, (tile.row + kTileRows - 1) / group + 1);
  const int length = item.start + tokens_end;  // what the tile's last row sees
  int used;
  const Range range = SplitRange(length, split, p.splits, &used);
  if (split >= used) return;
  const int32_t* pages = a.pages + item.table;

  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first = tile.row + (kFew ? 0 : warp * 16);
  Rows<T, kDim> rows;
  LoadTile<T, kDim>(a, pages, head, range.begin, range.end, shared);
  rows.Load(a, item, head, first, group);
  const float scale = kLog2E * rsqrtf(static_cast<float>(a.kv.dim));
  int stage = 0;
  for (int at = range.begin; at < range.end; at += kTileContext, stage ^= 1) {
    if (at + kTileContext < range.end) {
      LoadTile<T, kDim>(a, pages, head, at + kTileContext, range.end,
                        shared + (stage ^ 1) * StageBytes<kDim>());
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    __syncthreads();
    const char* current = shared + stage * StageBytes<kDim>();
    if (kFew) {
      rows.template Attend<kTileContext / kWarps>(current, warp * (kTileContext / kWarps), at, scale);
    } else {
      rows.template Attend<kTileContext>(current, 0, at, scale);
    }
    __syncthreads();
  }
  rows.SumOverLanes();

  // Unnormalised rows of the warp: with kFew the warps' parts of the same rows meet in shared memory.
  const Partial partial = used > 1 ? PartialOf(p, kTileRows, tile_index, head) : Partial{};
  if (kFew) {
    float* values = reinterpret_cast<float*>(shared);           // [warp][16][kDim]
    float* stats = values + kWarps * 16 * kDim;                 // [warp][16][2]
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = lane / 4 + half * 8;
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
        float* to = values + (warp * 16 + m) * kDim + c * 8 + (lane % 4) * 2;
        to[0] = rows.o[c][2 * half], to[1] = rows.o[c][2 * half + 1];
      }
      if (lane % 4 == 0) {
        stats[(warp * 16 + m) * 2] = rows.top[half];
        stats[(warp * 16 + m) * 2 + 1] = rows.sum[half];
      }
    }
    __syncthreads();
    const int fours = a.kv.dim / 4;
    for (int i = threadIdx.x; i < 16 * fours; i += kThreads) {
      const int m = i / fours, column = i % fours * 4;
      if ((first + m) / group >= item.count) continue;
      const auto stat = [&](int w, int which) { return stats[(w * 16 + m) * 2 + which]; };
      float total;
      const float most = PartsTop(
          kWarps, [&](int w) { return stat(w, 0); }, [&](int w) { return stat(w, 1); }, &total);
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float weight = exp2f(stat(w, 0) - most);
        const auto v = *reinterpret_cast<const float4*>(values + (w * 16 + m) * kDim + column);
        sum.x += weight * v.x, sum.y += weight * v.y, sum.z += weight * v.z, sum.w += weight * v.w;
      }
      if (used > 1) {
        *reinterpret_cast<float4*>(partial.values +
                                   (static_cast<int64_t>(split) * kTileRows + m) * a.kv.dim + column) = sum;
        if (column == 0) {
          partial.stats[(split * kTileRows + m) * 2] = total > 0 ? most : -INFINITY;
          partial.stats[(split * kTileRows + m) * 2 + 1] = total;
        }
        continue;
      }
      const float norm = total > 0 ? 1.f / total : 0.f;
      *reinterpret_cast<uint2*>(OutputRow<T>(a, item, head, first + m, group) + column) = {
          Pack<T>(sum.x * norm, sum.y * norm), Pack<T>(sum.z * norm, sum.w * norm)};
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = warp * 16 + lane / 4 + half * 8;  // in the tile
      T* out = OutputRow<T>(a, item, head, tile.row + m, group);
      if (out == nullptr) continue;
      const float norm = rows.sum[half] > 0 ? 1.f / rows.sum[half] : 0.f;
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
        const int column = c * 8 + (lane % 4) * 2;
        if (column >= a.kv.dim) break;
        const float x = rows.o[c][2 * half], y = rows.o[c][2 * half + 1];
        if (used > 1) {
          *reinterpret_cast<float2*>(partial.values +
                                     (static_cast<int64_t>(split) * kTileRows + m) * a.kv.dim + column) =
              make_float2(x, y);
        } else {
          *reinterpret_cast<uint32_t*>(out + column) = Pack<T>(x * norm, y * norm);
        }
      }
      if (used > 1 && lane % 4 == 0) {
        partial.stats[(split * kTileRows + m) * 2] = rows.top[half];
        partial.stats[(split * kTileRows + m) * 2 + 1] = rows.sum[half];
      }
    }
  }
  if (used > 1 && ArrivesLast(a.counters + tile_index * a.kv.heads + head, used)) {
    Combine<T, kTileRows>(p, item, tile_index, head, tile.row, group, used,
                          reinterpret_cast<float*>(shared));
  }
  __syncthreads();  // shared memory is used again
}

template <typename T, int kDim, AttentionShape kShape>
__global__ void __launch_bounds__(kThreads) AttentionKernel(const Params p) {
  extern __shared__ __align__(128) char shared[];
  AllowNext();
  AwaitPrevious();
  const int jobs = p.tiles * p.a.kv.heads * p.splits;
  for (int job = blockIdx.x; job < jobs; job += gridDim.x) {
    const int split = job % p.splits, head = job / p.splits % p.a.kv.heads;
    AttendTile<T, kDim, kShape>(p, job / (p.splits * p.a.kv.heads), head, split, shared);
  }
}

template <typename T, int kDim, AttentionShape kShape>
void Start(const Device& device, const Params& params, const Launch& launch) {
  constexpr int kBytes = std::max(kStages * StageBytes<kDim>(),
                                  kWarps * 16 * (kDim + 2) * static_cast<int>(sizeof(float)));
  auto* kernel = AttentionKernel<T, kDim, kShape>;
  const int jobs = params.tiles * params.a.kv.heads * params.splits;
  // Among overlapping kernels each has one block a multiprocessor (see few_rows.cu); alone, jobs
  // are dealt out by the hardware as blocks end.
  int bytes = kBytes, blocks = jobs;
  if (launch.overlap) {
    bytes = std::max(kBytes, device.shared_bytes_per_multiprocessor / 3);
    blocks = device.multiprocessors;
  }
  AllowSharedMemory(kernel, bytes);
  LaunchKernel(kernel, dim3(blocks), kThreads, bytes, launch, params);
}

template <typename T, AttentionShape kShape>
void StartForDim(const Device& device, const Params& params, const Launch& launch) {
  if (params.a.kv.dim <= 64) {
    Start<T, 64, kShape>(device, params, launch);
  } else {
    Start<T, 128, kShape>(device, params, launch);
  }
}

template <typename T>
void StartForShape(const Device& device, AttentionShape shape, const Params& params,
                   const Launch& launch) {
  if (shape == AttentionShape::kFewRows) {
    StartForDim<T, AttentionShape::kFewRows>(device, params, launch);
  } else {
    StartForDim<T, AttentionShape::kManyRows>(device, params, launch);
  }
}

}  // namespace

int AttentionTileRows(AttentionShape shape) { return RowsOf(shape); }

bool AttentionSupports(int dim, int heads, int kv_heads) {
  return dim % 8 == 0 && dim <= 128 && heads % kv_heads == 0;
}

int AttentionSplits(const Device& device, AttentionShape shape, int tiles, int kv_heads) {
  const int jobs = std::max(1, tiles * kv_heads);
  const int per_multiprocessor = shape == AttentionShape::kFewRows ? 1 : 2;
  return std::clamp(device.multiprocessors * per_multiprocessor / jobs, 1, kMaxSplits);
}

int64_t AttentionPartialFloats(AttentionShape shape, int tiles, int kv_heads, int splits, int dim) {
  if (splits == 1) return 0;
  return static_cast<int64_t>(tiles) * kv_heads * splits * RowsOf(shape) * (dim + 2);
}

void RunAttention(Dtype dtype, const Device& device, AttentionShape shape, const Attention& args,
                  int tiles, int splits, const Launch& launch) {
  if (tiles == 0) return;
  const Params params{args, tiles, splits};
  if (dtype == Dtype::kBFloat16) {
    StartForShape<__nv_bfloat16>(device, shape, params, launch);
  } else {
    StartForShape<__half>(device, shape, params, launch);
  }
}

}  // namespace chord::cuda
