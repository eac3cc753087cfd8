// Products of 1 .. 8 rows with a large matrix, bound by the reading of the matrix.
//
// A block takes a contiguous range of tiles, a tile being eight rows of the weight. Tiles are cut
// into units of 128 columns (2 KB) that the block's warps take in turn. Every warp has a ring of
// units in shared memory, filled by the copy engine (compute capability 9.0; cp.async before) a
// whole ring ahead, the first of them before the previous kernel has ended: weights do not depend
// on it. Units go through the tensor cores with the tokens as rows; what the warps of a block have
// summed up of a tile meets in shared memory, in a fixed order. So a row's result does not depend
// on how many rows there are.
//
// The inner loop is kept to some sixty instructions a unit: with eight warps on a multiprocessor
// every instruction's latency counts, and the memory delivers a unit to each every 900 cycles.
#include <algorithm>

#include "common/engine/cuda/device.cuh"
#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/rotary.cuh"

namespace chord::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileRows = 8;
constexpr int kUnitColumns = 128;
constexpr int kUnitBytes = kTileRows * kUnitColumns * 2;
// More than three units a warp under way made nothing faster on an H200, and steps with attention
// slower: its reads queue behind theirs.
constexpr int kMaxStages = 3;
constexpr int kMinStages = 2;
constexpr int kRoundOutputs = 16;  // tiles x tokens between two sums over the warps

enum class Epilogue { kQkv, kSwiGlu, kAdd, kHead };

struct Product {
  const void* x = nullptr;     // [tokens, in]
  const void* norm = nullptr;  // x is normalised with it, unless null
  float eps = 0;
  Weight weight = {};
  int tokens = 0;
  int stages = 0;  // of the ring
  int round = 0;   // groups of tiles between two sums over the warps
  void* y = nullptr;
  int y_stride = 0;
  FewQkv qkv = {};  // of kQkv
};

__host__ __device__ inline int UnitsOf(int in) { return (in + kUnitColumns - 1) / kUnitColumns; }

// Bytes of shared memory: the rings and their barriers, the rows of x (unless they stay in global
// memory), two sets of partial sums.
struct Layout {
  int x_stride = 0;  // elements
  int x_bytes = 0;
  int sums_floats = 0;  // of one set
  int ring_bytes = 0;
  int barrier_bytes = 0;
  int total() const { return ring_bytes + barrier_bytes + x_bytes + 2 * sums_floats * 4; }
};
template <bool kSharedX, int kTiles>
__host__ __device__ inline Layout LayOut(const Product& p) {
  Layout layout;
  layout.ring_bytes = kWarps * p.stages * kTiles * kUnitBytes;
  layout.barrier_bytes = kWarps * kMaxStages * 8;
  layout.x_stride = UnitsOf(p.weight.columns) * kUnitColumns + 32;
  layout.x_bytes = kSharedX ? p.tokens * layout.x_stride * 2 : 0;
  layout.sums_floats = p.round * kTiles * kWarps * kTileRows * p.tokens;
  return layout;
}

// --- a warp's ring ------------------------------------------------------------------------------

// Units arrive in the order in which the warp consumes them: of the block's units in sequence,
// every eighth. Rows and columns that the weight does not have arrive as zeros.
template <int kTiles>
class Ring {
 public:
  static constexpr int kStageBytes = kTiles * kUnitBytes;

  __device__ void Start(const Product& p, int first, int last, char* memory, uint64_t* barriers) {
    product_ = &p;
    memory_ = memory, barriers_ = SharedAddress(barriers);
    stages_ = p.stages, units_ = UnitsOf(p.weight.columns);
    group_ = first, last_ = last;
    unit_ = static_cast<int>(threadIdx.x / kWarp), lane_ = threadIdx.x % kWarp;
#if __CUDA_ARCH__ >= 900
    if (lane_ == 0) {
#pragma unroll 1
      for (int s = 0; s < stages_; ++s) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8 * s));
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
#endif
    __syncwarp();
    Settle();
#pragma unroll 1
    for (int s = 0; s < stages_; ++s) Fetch(s);
  }

  // Waits for the oldest unit that was not released.
  __device__ const char* Wait() {
#if __CUDA_ARCH__ >= 900
    uint32_t done;
    do {
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, "
          "0, p; }"
          : "=r"(done)
          : "r"(barriers_ + 8 * stage_), "r"(phase_)
          : "memory");
    } while (done == 0);
#else
    if (stages_ == 3) {
      WaitCopies<2>();
    } else {
      WaitCopies<1>();
    }
    __syncwarp();
#endif
    return memory_ + stage_ * kStageBytes;
  }

  // All lanes have read the unit that was waited for.
  __device__ void Release() {
    __syncwarp();
    Fetch(stage_);
    if (++stage_ == stages_) stage_ = 0, phase_ ^= 1;
  }

 private:
  // Starts the copies of the next unit into stage `s`.
  __device__ void Fetch(int s) {
    if (group_ < last_) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        CopyUnit(s, t, unit_ * kUnitColumns, (group_ * kTiles + t) * kTileRows);
      }
      unit_ += kWarps;
      Settle();
    }
#if __CUDA_ARCH__ < 900
    CommitCopies();
#endif
  }
  __device__ void CopyUnit(int s, int t, int column, int row) {
    char* to = memory_ + s * kStageBytes + t * kUnitBytes;
#if __CUDA_ARCH__ >= 900
    if (lane_ != 0) return;
    const uint32_t barrier = barriers_ + 8 * s;
    if (t == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                   "n"(kStageBytes)
                   : "memory");
    }
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::"
        "cache_hint "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(SharedAddress(to)),
        "l"(&product_->weight.map), "r"(column), "r"(row), "r"(barrier), "l"(policy_)
        : "memory");
#else
    const Weight& w = product_->weight;
    const auto* data = static_cast<const char*>(w.data);
    constexpr int kRowPieces = kUnitColumns / 8;
    column += lane_ % kRowPieces * 8;
#pragma unroll
    for (int r = lane_ / kRowPieces; r < kTileRows; r += kWarp / kRowPieces) {
      const bool valid = column < w.columns && row + r < w.rows;
      const int64_t from = valid ? (static_cast<int64_t>(row + r) * w.columns + column) * 2 : 0;
      CopyAsync16(to + r * kUnitColumns * 2 + lane_ % kRowPieces * 16, data + from, valid);
    }
#endif
  }
  // From behind the last unit of a group to where the warp goes on in a later one.
  __device__ void Settle() {
#pragma unroll 1
    while (unit_ >= units_ && group_ < last_) unit_ -= units_, ++group_;
  }

  const Product* product_;
  char* memory_;
  uint64_t policy_ = 0;
  uint32_t barriers_;
  int stages_, units_, lane_;
  int group_, last_, unit_;  // next to fetch
  int stage_ = 0;
  uint32_t phase_ = 0;
};

// --- rows of x ----------------------------------------------------------------------------------

// The norm of one row, by the whole block. Its weights are read before the block waits: every layer
// has its own, and the products between have pushed them out of the caches.
template <typename T>
struct RowNorm {
  static constexpr int kPieces = 2;
  static constexpr int kMaxColumns = kPieces * kThreads * 8;
  Eight<T> weight[kPieces];

  static __device__ bool Serves(const Product& p) {
    return p.norm != nullptr && p.tokens == 1 && p.weight.columns <= kMaxColumns;
  }
  static __device__ int Column(int piece) { return (piece * kThreads + threadIdx.x) * 8; }

  __device__ void ReadWeight(const Product& p) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (Column(i) >= p.weight.columns) continue;
      weight[i] = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.norm) + Column(i));
    }
  }

  // norm(x)·w to shared memory, zeros behind the last column.
  __device__ void Run(const Product& p, T* to) const {
    __shared__ float sums[kWarps];
    Eight<T> x[kPieces] = {};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (Column(i) >= p.weight.columns) continue;
      x[i] = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.x) + Column(i));
      sum += SquareSum(x[i]);
    }
    sum = WarpSum(sum);
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += sums[i];
    const float scale = rsqrtf(sum / static_cast<float>(p.weight.columns) + p.eps);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (Column(i) >= UnitsOf(p.weight.columns) * kUnitColumns) continue;
      const bool exists = Column(i) < p.weight.columns;
      *reinterpret_cast<Eight<T>*>(to + Column(i)) =
          exists ? Scaled(x[i], scale, weight[i]) : Eight<T>{};
    }
  }

  static __device__ float SquareSum(const Eight<T>& x) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = x.pair(i);
      sum += pair.x * pair.x + pair.y * pair.y;
    }
    return sum;
  }
  static __device__ Eight<T> Scaled(const Eight<T>& x, float scale, const Eight<T>& weight) {
    Eight<T> y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 a = x.pair(i), b = weight.pair(i);
      y.word[i] = Pack<T>(Round<T>(a.x * scale) * b.x, Round<T>(a.y * scale) * b.y);
    }
    return y;
  }
};

// Pieces first, first + step, … of a row of `width` values, kBatch of them under way at once:
// behind a store to shared memory the compiler would not start the next read. Zeros behind the last
// value.
inline constexpr int kBatch = 8;
template <typename T>
__device__ __forceinline__ void ReadBatch(const T* row, int first, int step, int width,
                                          Eight<T> (&pieces)[kBatch]) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int at = first + i * step;
    pieces[i] = at < width ? *reinterpret_cast<const Eight<T>*>(row + at) : Eight<T>{};
  }
}

// The same for several rows, a warp each.
template <typename T>
__device__ void NormToShared(const Product& p, T* to, int stride) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int width = p.weight.columns, columns = UnitsOf(width) * kUnitColumns;
  constexpr int kStep = kWarp * 8;
  Eight<T> pieces[kBatch];
#pragma unroll 1
  for (int token = warp; token < p.tokens; token += kWarps) {
    const T* x = static_cast<const T*>(p.x) + static_cast<int64_t>(token) * width;
    T* row = to + token * stride;
    float sum = 0;
#pragma unroll 1
    for (int first = lane * 8; first < columns; first += kBatch * kStep) {
      ReadBatch(x, first, kStep, width, pieces);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int at = first + i * kStep;
        sum += RowNorm<T>::SquareSum(pieces[i]);
        if (at < columns) *reinterpret_cast<Eight<T>*>(row + at) = pieces[i];
      }
    }
    const float scale = rsqrtf(WarpSum(sum) / static_cast<float>(width) + p.eps);
#pragma unroll 1
    for (int first = lane * 8; first < columns; first += kBatch * kStep) {
      ReadBatch(static_cast<const T*>(p.norm), first, kStep, width, pieces);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        auto* piece = reinterpret_cast<Eight<T>*>(row + first + i * kStep);
        if (first + i * kStep < columns) *piece = RowNorm<T>::Scaled(*piece, scale, pieces[i]);
      }
    }
  }
}

template <typename T>
__device__ void CopyToShared(const Product& p, T* to, int stride) {
  const int width = p.weight.columns, columns = UnitsOf(width) * kUnitColumns;
  constexpr int kStep = kThreads * 8;
  Eight<T> pieces[kBatch];
#pragma unroll 1
  for (int token = 0; token < p.tokens; ++token) {
    const T* from = static_cast<const T*>(p.x) + static_cast<int64_t>(token) * width;
#pragma unroll 1
    for (int first = threadIdx.x * 8; first < columns; first += kBatch * kStep) {
      ReadBatch(from, first, kStep, width, pieces);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int at = first + i * kStep;
        if (at < columns) *reinterpret_cast<Eight<T>*>(to + token * stride + at) = pieces[i];
      }
    }
  }
}

// --- what becomes of the products ---------------------------------------------------------------

// One output: the products of rows `row()` and `row()` + 4 of the weight for one token. What else
// it needs is read early, while the block waits for something else.
struct Output {
  int token;
  int tile;
  int j;
  float low = 0, high = 0;  // kQkv: bias; kAdd: what is added to
  float cos = 0, sin = 0;
  int slot = -1;
  __device__ int row() const { return tile * kTileRows + j; }
};

// Operands that no kernel of the step writes.
template <typename T, Epilogue kEpilogue>
__device__ void ReadConstants(const Product& p, Output* o) {
  if (kEpilogue != Epilogue::kQkv) return;
  const FewQkv& a = p.qkv;
  const auto* bias = static_cast<const T*>(a.bias) + o->row();
  o->low = ToFloat(bias[0]), o->high = ToFloat(bias[4]);
  o->slot = a.slots[o->token];
  const QkvPlace place = PlaceOf(a.shape, o->tile);
  if (place.part == QkvPart::kValue) return;
  const int frequency = place.first + o->j;
  const int position = a.rotary.positions[a.rotary.axes[frequency] * a.rotary.stride + o->token];
  const int64_t at = static_cast<int64_t>(position) * (a.shape.dim / 2) + frequency;
  o->cos = a.rotary.cos[at], o->sin = a.rotary.sin[at];
}

template <typename T, Epilogue kEpilogue>
__device__ void ReadRows(const Product& p, Output* o) {
  if (kEpilogue != Epilogue::kAdd) return;
  const T* y = static_cast<const T*>(p.y) + static_cast<int64_t>(o->token) * p.y_stride + o->row();
  if (o->row() < p.weight.rows) o->low = ToFloat(y[0]);
  if (o->row() + 4 < p.weight.rows) o->high = ToFloat(y[4]);
}

template <typename T>
__device__ void StoreQkv(const FewQkv& a, const Output& o, float low, float high) {
  const QkvPlace place = PlaceOf(a.shape, o.tile);
  if (place.part != QkvPart::kValue) Rotate<T>(o.cos, o.sin, &low, &high);
  T* to = nullptr;
  if (place.part == QkvPart::kQuery) {
    to = static_cast<T*>(a.q) +
         (static_cast<int64_t>(o.token) * a.shape.heads + place.head) * a.shape.dim;
  } else if (a.kv.key_scales != nullptr) {
    to = static_cast<T*>(place.part == QkvPart::kKey ? a.k : a.v) +
         (static_cast<int64_t>(o.token) * a.shape.kv_heads + place.head) * a.shape.dim;
  } else if (o.slot >= 0) {
    to = KvRow<T>(a.kv, place.part == QkvPart::kKey ? a.kv.keys : a.kv.values, o.slot, place.head);
  }
  if (to == nullptr) return;
  to[place.first + o.j] = FromFloat<T>(low);
  to[place.second + o.j] = FromFloat<T>(high);
}

template <typename T, Epilogue kEpilogue>
__device__ void Finish(const Product& p, const Output& o, float low, float high) {
  if (kEpilogue == Epilogue::kQkv) {
    StoreQkv<T>(p.qkv, o, Round<T>(low + o.low), Round<T>(high + o.high));
    return;
  }
  T* y = static_cast<T*>(p.y) + static_cast<int64_t>(o.token) * p.y_stride;
  if (kEpilogue == Epilogue::kSwiGlu) {
    y[o.tile * 4 + o.j] = FromFloat<T>(GatedValue<T>(Round<T>(low), Round<T>(high)));
    return;
  }
  if (kEpilogue == Epilogue::kAdd) low = o.low + Round<T>(low), high = o.high + Round<T>(high);
  if (o.row() < p.weight.rows) y[o.row()] = FromFloat<T>(low);
  if (o.row() + 4 < p.weight.rows) y[o.row() + 4] = FromFloat<T>(high);
}

// --- the kernel ---------------------------------------------------------------------------------

// kSharedX: x lies in shared memory, else it is read from global memory, for kTiles tiles at once.
// kXUnits: a tile has that many units for each warp, which then multiplies with the same columns
// throughout and keeps them in registers; 0: another number.
template <typename T, Epilogue kEpilogue, bool kSharedX, int kXUnits, int kTiles>
__global__ void __launch_bounds__(kThreads, 2) FewRowsKernel(const __grid_constant__ Product p) {
  extern __shared__ __align__(128) char shared[];
  const Layout layout = LayOut<kSharedX, kTiles>(p);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  auto* barriers = reinterpret_cast<uint64_t*>(shared + layout.ring_bytes) + warp * kMaxStages;
  T* x = reinterpret_cast<T*>(shared + layout.ring_bytes + layout.barrier_bytes);
  float* sums =
      reinterpret_cast<float*>(shared + layout.ring_bytes + layout.barrier_bytes + layout.x_bytes);

  AllowNext();
  const int groups = (p.weight.rows + kTiles * kTileRows - 1) / (kTiles * kTileRows);
  const int first = static_cast<int>(static_cast<int64_t>(groups) * blockIdx.x / gridDim.x);
  const int last = static_cast<int>(static_cast<int64_t>(groups) * (blockIdx.x + 1) / gridDim.x);
  Ring<kTiles> ring;
  ring.Start(p, first, last, shared + warp * p.stages * Ring<kTiles>::kStageBytes, barriers);

  // The thread's output of a round, if it has one.
  Output output;
  output.j = threadIdx.x % 4, output.token = threadIdx.x / 4 % p.tokens;
  const int tile = threadIdx.x / (4 * p.tokens);  // of the round
  output.tile = first * kTiles + tile;
  const bool early = tile < min(p.round, last - first) * kTiles;
  if (early) ReadConstants<T, kEpilogue>(p, &output);
  RowNorm<T> row_norm;
  const bool one_row = kSharedX && RowNorm<T>::Serves(p);
  if (one_row) row_norm.ReadWeight(p);
  AwaitPrevious();
  if (early) ReadRows<T, kEpilogue>(p, &output);
  if (kSharedX) {
    if (one_row) {
      row_norm.Run(p, x);
    } else if (p.norm != nullptr) {
      NormToShared<T>(p, x, layout.x_stride);
    } else {
      CopyToShared<T>(p, x, layout.x_stride);
    }
    __syncthreads();
  }

  const int row = lane / 4, quarter = lane % 4;
  const int token = min(row, p.tokens - 1);  // rows without a token repeat the last one's
  const int units = UnitsOf(p.weight.columns);
  const T* x_row =
      (kSharedX ? x + token * layout.x_stride
                : static_cast<const T*>(p.x) + static_cast<int64_t>(token) * p.weight.columns) +
      quarter * 8;
  constexpr int kSteps = kUnitColumns / 32;
  using Columns = Eight<T>[kSteps];
  const auto read_x = [&](int unit, Columns& a) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int column = unit * kUnitColumns + s * 32;
      a[s] = kSharedX || column + quarter * 8 < p.weight.columns
                 ? *reinterpret_cast<const Eight<T>*>(x_row + column)
                 : Eight<T>{};
    }
  };
  float total[kTiles][4][4];  // four chains, so that products overlap
  const auto multiply = [&](const Columns& a) {
    const char* weights = ring.Wait() + row * kUnitColumns * 2 + quarter * 16;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const auto b = *reinterpret_cast<const Eight<T>*>(weights + t * kUnitBytes + s * 64);
        Mma<T>(total[t][s % 4], a[s].word[0], 0, a[s].word[1], 0, b.word[0], b.word[1]);
        Mma<T>(total[t][s % 4], a[s].word[2], 0, a[s].word[3], 0, b.word[2], b.word[3]);
      }
    }
    ring.Release();
  };
  Columns kept[kXUnits > 0 ? kXUnits : 1];
#pragma unroll
  for (int i = 0; i < kXUnits; ++i) read_x(warp + i * kWarps, kept[i]);

  int unit = warp, set = 0;
#pragma unroll 1
  for (int round = first; round < last; round += p.round, set ^= 1) {
    const int round_end = min(round + p.round, last);
    float* set_sums = sums + set * layout.sums_floats;
#pragma unroll 1
    for (int group = round; group < round_end; ++group) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int s = 0; s < 4; ++s)
          total[t][s][0] = total[t][s][1] = total[t][s][2] = total[t][s][3] = 0;
      }
      if (kXUnits > 0) {
#pragma unroll
        for (int i = 0; i < kXUnits; ++i) multiply(kept[i]);
      } else {
#pragma unroll 1
        for (; unit < units; unit += kWarps) {
          Columns a;
          read_x(unit, a);
          multiply(a);
        }
        unit -= units;
      }
      if (row < p.tokens) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          float* to =
              set_sums +
              ((((group - round) * kTiles + t) * kWarps + warp) * p.tokens + row) * kTileRows +
              quarter * 2;
          *reinterpret_cast<float2*>(to) = {
              (total[t][0][0] + total[t][1][0]) + (total[t][2][0] + total[t][3][0]),
              (total[t][0][1] + total[t][1][1]) + (total[t][2][1] + total[t][3][1])};
        }
      }
    }
    __syncthreads();
    // The other set is written next, so that no warp has to wait for this sum.
    if (tile < (round_end - round) * kTiles) {
      if (round != first) {
        output.tile = round * kTiles + tile;
        ReadConstants<T, kEpilogue>(p, &output);
        ReadRows<T, kEpilogue>(p, &output);
      }
      const float* from =
          set_sums + (tile * kWarps * p.tokens + output.token) * kTileRows + output.j;
      float low = 0, high = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        low += from[w * p.tokens * kTileRows];
        high += from[w * p.tokens * kTileRows + 4];
      }
      Finish<T, kEpilogue>(p, output, low, high);
    }
  }
}

// --- launching ----------------------------------------------------------------------------------

// A multiprocessor holds one of these blocks and beside it one of attention, of the kernel before
// or after. With room for two, early blocks of the next kernel meet on one multiprocessor and leave
// another idle (2.9 instead of 2.1 ms a token).
struct Room {
  int least = 0;
  int most = 0;
};
Room RoomOf(const Device& device) {
  constexpr int kReserved = 1024;  // of each block
  const int all = device.shared_bytes_per_multiprocessor;
  if (!device.overlap) return {0, device.shared_bytes_per_block - kReserved};
  return {all / 2, all - kAttentionSharedBytes - 3 * kReserved};
}

// Chooses groups a round and the ring's stages. False: there is no room for x.
template <bool kSharedX, int kTiles>
bool Fit(const Device& device, Product* p) {
  p->round = std::max(1, kRoundOutputs / (p->tokens * kTiles));
  for (p->stages = kMaxStages; p->stages >= kMinStages; --p->stages) {
    if (LayOut<kSharedX, kTiles>(*p).total() <= RoomOf(device).most) return true;
  }
  return false;
}

template <typename T, Epilogue kEpilogue, bool kSharedX, int kXUnits, int kTiles>
void Start(const Device& device, Product p, const Launch& launch) {
  if (!Fit<kSharedX, kTiles>(device, &p)) {
    throw Error(Code::kUnsupported, "rows of %d values do not fit into shared memory",
                p.weight.columns);
  }
  auto* kernel = FewRowsKernel<T, kEpilogue, kSharedX, kXUnits, kTiles>;
  const Room room = RoomOf(device);
  AllowSharedMemory(kernel, room.most);
  LaunchKernel(kernel, dim3(device.multiprocessors), kThreads,
               std::max(LayOut<kSharedX, kTiles>(p).total(), room.least), launch, p);
}

template <Epilogue kEpilogue, bool kSharedX, int kXUnits, int kTiles>
void StartTyped(Dtype dtype, const Device& device, const Product& p, const Launch& launch) {
  if (dtype == Dtype::kBFloat16) {
    Start<__nv_bfloat16, kEpilogue, kSharedX, kXUnits, kTiles>(device, p, launch);
  } else {
    Start<__half, kEpilogue, kSharedX, kXUnits, kTiles>(device, p, launch);
  }
}

template <Epilogue kEpilogue>
void StartShared(Dtype dtype, const Device& device, const Product& p, const Launch& launch) {
  if (UnitsOf(p.weight.columns) == 2 * kWarps) {
    StartTyped<kEpilogue, true, 2, 1>(dtype, device, p, launch);
  } else {
    StartTyped<kEpilogue, true, 0, 1>(dtype, device, p, launch);
  }
}

Product ProductOf(const void* x, const void* norm, float eps, const Weight& weight, int tokens) {
  Product p;
  p.x = x, p.norm = norm, p.eps = eps, p.weight = weight, p.tokens = tokens;
  return p;
}

}  // namespace

Weight DescribeWeight(const Device& device, const void* data, int rows, int columns) {
  Weight weight = {data, rows, columns, {}};
  if (!device.overlap) return weight;
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    CHORD_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                      cudaEnableDefault, &result));
    return reinterpret_cast<Encode>(function);
  }();
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {kUnitColumns, kTileRows}, steps[] = {1, 1};
  // Copies do not look at the values, so one type serves for both.
  const CUresult error =
      encode(&weight.map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<void*>(data), sizes,
             strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (error != CUDA_SUCCESS) {
    throw Error(Code::kFailed, "no tensor map for a matrix of %d x %d: error %d", rows, columns,
                error);
  }
  return weight;
}

bool FewRowsFit(const Device& device, int tokens, int in) {
  Product p;
  p.tokens = tokens, p.weight.columns = in;
  return Fit<true, 1>(device, &p);
}

void FewRowsQkv(Dtype dtype, const Device& device, const FewQkv& args, int tokens,
                const Launch& launch) {
  Product p = ProductOf(args.hidden, args.norm, args.eps, *args.weight, tokens);
  p.qkv = args;
  StartShared<Epilogue::kQkv>(dtype, device, p, launch);
}

void FewRowsSwiGlu(Dtype dtype, const Device& device, const void* hidden, const void* norm,
                   float eps, const Weight& weight, int tokens, void* out, const Launch& launch) {
  Product p = ProductOf(hidden, norm, eps, weight, tokens);
  p.y = out, p.y_stride = weight.rows / 2;
  StartShared<Epilogue::kSwiGlu>(dtype, device, p, launch);
}

void FewRowsAdd(Dtype dtype, const Device& device, const void* x, const Weight& weight, int tokens,
                void* hidden, const Launch& launch) {
  Product p = ProductOf(x, nullptr, 0, weight, tokens);
  p.y = hidden, p.y_stride = weight.rows;
  if (Fit<true, 1>(device, &p)) {
    StartShared<Epilogue::kAdd>(dtype, device, p, launch);
  } else {
    StartTyped<Epilogue::kAdd, false, 0, 2>(dtype, device, p, launch);
  }
}

void FewRowsHead(Dtype dtype, const Device& device, const void* hidden, const void* norm, float eps,
                 const Weight& weight, int tokens, int stride, void* logits, const Launch& launch) {
  Product p = ProductOf(hidden, norm, eps, weight, tokens);
  p.y = logits, p.y_stride = stride;
  StartShared<Epilogue::kHead>(dtype, device, p, launch);
}

}  // namespace chord::cuda
