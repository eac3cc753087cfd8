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

constexpr int kMaxSplits = 32;
constexpr float kLog2E = 1.4426950408889634f;

constexpr int RowsOf(AttentionShape shape) { return shape == AttentionShape::kFewRows ? 16 : 64; }

// A block: its warps, the KV rows of one of its steps, and how many steps' rows it holds at once.
// kFewRows mostly takes one step, of which only latency counts.
template <AttentionShape kShape>
struct Block {
  static constexpr bool kFew = kShape == AttentionShape::kFewRows;
  static constexpr int kWarps = kFew ? 8 : 4;
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kContext = kFew ? 128 : 64;
  static constexpr int kStages = kFew ? 1 : 2;
};

template <AttentionShape kShape, int kDim>
constexpr int StageBytes() {
  return 2 * Block<kShape>::kContext * kDim * 2;
}

// Address of 16-byte piece `piece` of row `row` of a tile of kDim columns.
template <int kDim>
__device__ __forceinline__ int TileOffset(int row, int piece) {
  return row * kDim * 2 + ((piece ^ (row & 7)) * 16);
}

// Eight int8 values, scaled, as T.
template <typename T>
__device__ __forceinline__ void WidenPiece(const void* tensor, int64_t from, float scale,
                                           bool valid, char* to) {
  Eight<T> out = {};
  if (valid) {
    const auto packed = *reinterpret_cast<const uint2*>(static_cast<const int8_t*>(tensor) + from);
    int8_t values[8];
    memcpy(values, &packed, 8);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      out.word[j] = Pack<T>(values[2 * j] * scale, values[2 * j + 1] * scale);
  }
  *reinterpret_cast<Eight<T>*>(to) = out;
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

// The KV rows of a split: whole steps, as even as they come.
template <int kContext>
__device__ inline Range SplitRange(int length, int split, int splits, int* used) {
  const int steps = (length + kContext - 1) / kContext;
  const int per_split = (steps + splits - 1) / splits;
  *used = (steps + per_split - 1) / per_split;
  return {split * per_split * kContext, min((split + 1) * per_split * kContext, length)};
}

// Reads the KV rows [begin, end) of one head that lie in the tile of rows from `at` on,
// a multiple of kPageRows, to their places in shared memory; zeros in columns that the head does
// not have. A thread has the same columns of all its rows.
template <typename T, AttentionShape kShape, int kDim>
__device__ void LoadRows(const Attention& a, const int32_t* pages, int head, int at, int begin,
                         int end, char* shared) {
  constexpr int kContext = Block<kShape>::kContext;
  constexpr int kPieces = kDim / 8, kRowStep = Block<kShape>::kThreads / kPieces;
  const int piece = threadIdx.x % kPieces;
  const bool has_piece = piece < a.kv.dim / 8;
  const int64_t head_rows = static_cast<int64_t>(a.kv.heads) * kPageRows;
  const int32_t* table = pages + at / kPageRows;
#pragma unroll 2
  for (int i = 0; i < kContext / kRowStep; ++i) {
    const int row = threadIdx.x / kPieces + i * kRowStep;
    if (at + row < begin || at + row >= end) continue;
    const int64_t index = table[row / kPageRows] * head_rows + head * kPageRows + row % kPageRows;
    const int64_t from = has_piece ? index * a.kv.dim + piece * 8 : 0;
    char* keys = shared + TileOffset<kDim>(row, piece);
    char* values = keys + kContext * kDim * 2;
    if (a.kv.key_scales == nullptr) {
      CopyAsync16(keys, static_cast<const T*>(a.kv.keys) + from, has_piece);
      CopyAsync16(values, static_cast<const T*>(a.kv.values) + from, has_piece);
    } else {
      WidenPiece<T>(a.kv.keys, from, a.kv.key_scales[index], has_piece, keys);
      WidenPiece<T>(a.kv.values, from, a.kv.value_scales[index], has_piece, values);
    }
  }
}

// Zeros in the rows from `end` on: what is not there must not be NaN, which no weight of zero
// hides.
template <AttentionShape kShape, int kDim>
__device__ void ClearRows(int at, int end, char* shared) {
  constexpr int kContext = Block<kShape>::kContext, kPieces = kDim / 8;
  for (int i = max(0, end - at) * kPieces + threadIdx.x; i < kContext * kPieces;
       i += Block<kShape>::kThreads) {
    char* keys = shared + TileOffset<kDim>(i / kPieces, i % kPieces);
    *reinterpret_cast<uint4*>(keys) = uint4{};
    *reinterpret_cast<uint4*>(keys + kContext * kDim * 2) = uint4{};
  }
}

// Sixteen query rows of one warp and what it has attended to so far. Lane l has rows l / 4 and
// l / 4 + 8 of the accumulators.
template <typename T, int kDim>
struct Rows {
  static constexpr int kSteps = kDim / 16;   // of the head size
  static constexpr int kColumns = kDim / 8;  // column groups of the output
  uint32_t q[kSteps][4];
  float o[kColumns][4];
  float top[2];
  float sum[2];
  int limit[2];  // KV rows that the row sees; 0: no such row

  __device__ void Load(const Attention& a, const AttentionItem& item, int head, int first,
                       int group) {
    const int lane = threadIdx.x % kWarp;
    const T* rows[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = first + lane / 4 + half * 8, token = m / group;
      const bool valid = token < item.count;
      limit[half] = valid ? item.start + token + 1 : 0;
      rows[half] = static_cast<const T*>(a.q) +
                   (static_cast<int64_t>(item.begin + (valid ? token : 0)) * a.heads +
                    head * group + m % group) *
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
  template <int kRows, int kContext>
  __device__ void Attend(const char* tile, int first, int at, float scale) {
    const int lane = threadIdx.x % kWarp;
    const uint32_t keys = SharedAddress(tile);
    const uint32_t values = keys + kContext * kDim * 2;
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
    const int last_row = at + first + kRows;
    if (last_row > limit[0] || last_row > limit[1]) Mask<kRows>(at + first, s);
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n)
        most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      const float base = most == -INFINITY ? 0.f : most * scale;
      factor[half] = exp2f(top[half] * scale - base);
      top[half] = most;
      sum[half] *= factor[half];
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[n][2 * half + i];
          x = exp2f(fmaf(x, scale, -base));
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

  // Scores of rows that a query does not see; `row`: of the first score.
  template <int kRows>
  __device__ void Mask(int row, float (&s)[kRows / 8][4]) const {
    row += (threadIdx.x % 4) * 2;
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (row + n * 8 + i % 2 >= limit[i / 2]) s[n][i] = -INFINITY;
      }
    }
  }

  // Afterwards tops are logarithms to base 2 of weights, and sums those of whole rows.
  __device__ void Finish(float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) top[half] *= scale;
    SumOverLanes();
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

// The last of an item's blocks adds up what all of them left. `shared` holds tops and sums
// meanwhile.
template <typename T, AttentionShape kShape>
__device__ void Combine(const Params& p, const AttentionItem& item, int tile, int head, int first,
                        int group, int used, float* shared) {
  constexpr int kTileRows = RowsOf(kShape), kThreads = Block<kShape>::kThreads;
  const Partial partial = PartialOf(p, kTileRows, tile, head);
  const int dim = p.a.kv.dim, fours = dim / 4;
  const int rows = min(kTileRows, item.count * group - first);
  float2* stats = reinterpret_cast<float2*>(shared);  // [split][row] of top and sum
  for (int i = threadIdx.x; i < used * kTileRows; i += kThreads) {
    stats[i] = __ldcg(reinterpret_cast<const float2*>(partial.stats) + i);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows * fours; i += kThreads) {
    const int m = i / fours, column = i % fours * 4;
    const float* from = partial.values + m * dim + column;
    float4 sum = {0, 0, 0, 0};
    float total = 0, most = -INFINITY;
    for (int split = 0; split < used; ++split) most = fmaxf(most, stats[split * kTileRows + m].x);
    constexpr int kBatch = 8;  // loads under way at once
    for (int split = 0; split < used; split += kBatch) {
      float4 v[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (split + k < used)
          v[k] = __ldcg(reinterpret_cast<const float4*>(from + (split + k) * kTileRows * dim));
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (split + k >= used) break;
        const float2 stat = stats[(split + k) * kTileRows + m];
        const float weight = stat.y > 0 ? exp2f(stat.x - most) : 0.f;
        total += weight * stat.y;
        sum.x += weight * v[k].x, sum.y += weight * v[k].y, sum.z += weight * v[k].z,
            sum.w += weight * v[k].w;
      }
    }
    const float scale = total > 0 ? 1.f / total : 0.f;
    *reinterpret_cast<uint2*>(OutputRow<T>(p.a, item, head, first + m, group) + column) = {
        Pack<T>(sum.x * scale, sum.y * scale), Pack<T>(sum.z * scale, sum.w * scale)};
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

// What a block works on.
struct Work {
  AttentionItem item;
  int tile;
  int first;  // query row
  int head;   // of the keys
  int group;
  int split;
  int used;  // splits that have rows
  Range range;
};

// Runs the warp's rows over the block's part of the context.
template <typename T, int kDim, AttentionShape kShape>
__device__ void AttendRange(const Attention& a, const Work& w, Rows<T, kDim>* rows, char* shared) {
  using B = Block<kShape>;
  const int32_t* pages = a.pages + w.item.table;
  const int warp = threadIdx.x / kWarp;
  const auto load = [&](int at, int begin, int end, char* to) {
    LoadRows<T, kShape, kDim>(a, pages, w.head, at, begin, end, to);
  };
  // Rows that earlier steps wrote are on their way while the kernel before still computes this
  // one's.
  const Range& r = w.range;
  const int fresh = min(max(w.item.fresh, r.begin), r.end);
  load(r.begin, r.begin, fresh, shared);
  AwaitPrevious();
  load(r.begin, fresh, r.end, shared);
  CommitCopies();
  ClearRows<kShape, kDim>(r.begin, r.end, shared);
  rows->Load(a, w.item, w.head, w.first + (B::kFew ? 0 : warp * 16), w.group);
  const float scale = kLog2E * rsqrtf(static_cast<float>(a.kv.dim));
  int stage = 0;
  for (int at = r.begin; at < r.end; at += B::kContext) {
    const int next = at + B::kContext;
    const auto load_next = [&] {
      char* to = shared + (B::kStages - 1 - stage) * StageBytes<kShape, kDim>();
      load(next, next, r.end, to);
      CommitCopies();
      ClearRows<kShape, kDim>(next, r.end, to);
    };
    if (B::kStages == 2 && next < r.end) {
      load_next();
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    __syncthreads();
    constexpr int kRows = B::kFew ? B::kContext / B::kWarps : B::kContext;
    rows->template Attend<kRows, B::kContext>(shared + stage * StageBytes<kShape, kDim>(),
                                              B::kFew ? warp * kRows : 0, at, scale);
    __syncthreads();
    if (B::kStages == 1 && next < r.end) load_next();
    stage = B::kStages - 1 - stage;
  }
  rows->Finish(scale);
}

// The rows of a block of kManyRows: each warp has its own.
template <typename T, int kDim>
__device__ void StoreMany(const Params& p, const Work& w, const Rows<T, kDim>& rows) {
  constexpr int kTileRows = RowsOf(AttentionShape::kManyRows);
  const Attention& a = p.a;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Partial partial = PartialOf(p, kTileRows, w.tile, w.head);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int m = warp * 16 + lane / 4 + half * 8;
    T* out = OutputRow<T>(a, w.item, w.head, w.first + m, w.group);
    if (out == nullptr) continue;
    const float norm = rows.sum[half] > 0 ? 1.f / rows.sum[half] : 0.f;
    const int64_t part = static_cast<int64_t>(w.split) * kTileRows + m;
#pragma unroll
    for (int c = 0; c < kDim / 8; ++c) {
      const int column = c * 8 + (lane % 4) * 2;
      if (column >= a.kv.dim) break;
      const float x = rows.o[c][2 * half], y = rows.o[c][2 * half + 1];
      if (w.used > 1) {
        *reinterpret_cast<float2*>(partial.values + part * a.kv.dim + column) = make_float2(x, y);
      } else {
        *reinterpret_cast<uint32_t*>(out + column) = Pack<T>(x * norm, y * norm);
      }
    }
    if (w.used > 1 && lane % 4 == 0) {
      *reinterpret_cast<float2*>(partial.stats + part * 2) =
          make_float2(rows.top[half], rows.sum[half]);
    }
  }
}

// The rows of a block of kFewRows: all warps have parts of the same ones.
template <typename T, int kDim>
__device__ void StoreFew(const Params& p, const Work& w, const Rows<T, kDim>& rows, char* shared) {
  using B = Block<AttentionShape::kFewRows>;
  const Attention& a = p.a;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int count = min(16, w.item.count * w.group - w.first);              // rows that there are
  float* values = reinterpret_cast<float*>(shared);                         // [warp][16][kDim]
  auto* stats = reinterpret_cast<float2*>(values + B::kWarps * 16 * kDim);  // [warp][16]
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int m = lane / 4 + half * 8;
    if (m >= count) continue;
#pragma unroll
    for (int c = 0; c < kDim / 8; ++c) {
      *reinterpret_cast<float2*>(values + (warp * 16 + m) * kDim + c * 8 + (lane % 4) * 2) =
          make_float2(rows.o[c][2 * half], rows.o[c][2 * half + 1]);
    }
    if (lane % 4 == 0) stats[warp * 16 + m] = make_float2(rows.top[half], rows.sum[half]);
  }
  __syncthreads();
  const Partial partial = PartialOf(p, 16, w.tile, w.head);
  const int fours = a.kv.dim / 4;
  for (int i = threadIdx.x; i < count * fours; i += B::kThreads) {
    const int m = i / fours, column = i % fours * 4;
    float most = -INFINITY, total = 0;
#pragma unroll
    for (int k = 0; k < B::kWarps; ++k) most = fmaxf(most, stats[k * 16 + m].x);
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k < B::kWarps; ++k) {
      const float2 stat = stats[k * 16 + m];
      const float weight = stat.y > 0 ? exp2f(stat.x - most) : 0.f;
      const auto v = *reinterpret_cast<const float4*>(values + (k * 16 + m) * kDim + column);
      total += weight * stat.y;
      sum.x += weight * v.x, sum.y += weight * v.y, sum.z += weight * v.z, sum.w += weight * v.w;
    }
    if (w.used > 1) {
      const int64_t part = static_cast<int64_t>(w.split) * 16 + m;
      *reinterpret_cast<float4*>(partial.values + part * a.kv.dim + column) = sum;
      if (column == 0)
        *reinterpret_cast<float2*>(partial.stats + part * 2) = make_float2(most, total);
      continue;
    }
    const float norm = total > 0 ? 1.f / total : 0.f;
    *reinterpret_cast<uint2*>(OutputRow<T>(a, w.item, w.head, w.first + m, w.group) + column) = {
        Pack<T>(sum.x * norm, sum.y * norm), Pack<T>(sum.z * norm, sum.w * norm)};
  }
}

template <typename T, int kDim, AttentionShape kShape>
__device__ void AttendTile(const Params& p, int tile_index, int head, int split, char* shared) {
  constexpr int kTileRows = RowsOf(kShape);
  const Attention& a = p.a;
  const AttentionTile tile = a.tiles[tile_index];
  if (tile.item < 0) return;
  Work w = {a.items[tile.item], tile_index, tile.row, head, a.heads / a.kv.heads, split, 0, {}};
  const int tokens_end = min(w.item.count, (tile.row + kTileRows - 1) / w.group + 1);
  // What the tile's last row sees.
  w.range =
      SplitRange<Block<kShape>::kContext>(w.item.start + tokens_end, split, p.splits, &w.used);
  if (split >= w.used) return;
  Rows<T, kDim> rows;
  AttendRange<T, kDim, kShape>(a, w, &rows, shared);
  if constexpr (kShape == AttentionShape::kFewRows) {
    StoreFew<T, kDim>(p, w, rows, shared);
  } else {
    StoreMany<T, kDim>(p, w, rows);
  }
  if (w.used > 1 && ArrivesLast(a.counters + tile_index * a.kv.heads + head, w.used)) {
    Combine<T, kShape>(p, w.item, tile_index, head, tile.row, w.group, w.used,
                       reinterpret_cast<float*>(shared));
  }
}

template <typename T, int kDim, AttentionShape kShape>
__global__ void __launch_bounds__(Block<kShape>::kThreads, 2) AttentionKernel(const Params p) {
  extern __shared__ __align__(128) char shared[];
  AllowNext();
  const int job = blockIdx.x, split = job % p.splits, head = job / p.splits % p.a.kv.heads;
  AttendTile<T, kDim, kShape>(p, job / (p.splits * p.a.kv.heads), head, split, shared);
  AwaitPrevious();  // also in blocks without work
}

template <typename T, int kDim, AttentionShape kShape>
void Start(const Params& params, const Launch& launch) {
  using B = Block<kShape>;
  constexpr int kStageBytes = B::kStages * StageBytes<kShape, kDim>();
  constexpr int kMergeBytes =
      B::kFew ? B::kWarps * 16 * (kDim + 2) * static_cast<int>(sizeof(float)) : 0;
  auto* kernel = AttentionKernel<T, kDim, kShape>;
  constexpr int kBytes = std::max(kStageBytes, kMergeBytes);
  static_assert(kBytes <= kAttentionSharedBytes);
  const int jobs = params.tiles * params.a.kv.heads * params.splits;
  AllowSharedMemory(kernel, kBytes);
  LaunchKernel(kernel, dim3(jobs), B::kThreads, kBytes, launch, params);
}

template <typename T, AttentionShape kShape>
void StartForDim(const Params& params, const Launch& launch) {
  if (params.a.kv.dim <= 64) {
    Start<T, 64, kShape>(params, launch);
  } else {
    Start<T, 128, kShape>(params, launch);
  }
}

template <typename T>
void StartForShape(AttentionShape shape, const Params& params, const Launch& launch) {
  if (shape == AttentionShape::kFewRows) {
    StartForDim<T, AttentionShape::kFewRows>(params, launch);
  } else {
    StartForDim<T, AttentionShape::kManyRows>(params, launch);
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

void RunAttention(Dtype dtype, AttentionShape shape, const Attention& args, int tiles, int splits,
                  const Launch& launch) {
  if (tiles == 0) return;
  const Params params{args, tiles, splits};
  if (dtype == Dtype::kBFloat16) {
    StartForShape<__nv_bfloat16>(shape, params, launch);
  } else {
    StartForShape<__half>(shape, params, launch);
  }
}

}  // namespace chord::cuda
