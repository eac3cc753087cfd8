// Products of 1 .. 8 rows with a large matrix, bound by the reading of the matrix.
//
// A block takes a contiguous range of tiles, a tile being eight rows of the weight. The tiles are
// cut into units of 8 rows x 128 columns (2 KB) that the block's warps take in turn. Every warp has
// a ring of units in shared memory, filled by asynchronous copies that run several units ahead, the
// first of them before the previous kernel has ended: weights do not depend on it. Units go through
// the tensor cores with the tokens as rows, and what the warps of a block have summed up of a tile
// meets in shared memory, in a fixed order. So a row's result does not depend on how many rows
// there are.
//
// Two blocks fit on a multiprocessor, one of this kernel and one of the next, and no third: with
// more room two blocks of one kernel would meet on one multiprocessor and leave another idle.
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
constexpr int kMaxStages = 11;

enum class Epilogue { kQkv, kSwiGlu, kAdd, kHead };

struct Product {
  const void* x = nullptr;  // [tokens, in]
  const void* norm = nullptr;  // x is normalised with it, unless null
  float eps = 0;
  const void* weight = nullptr;
  int tokens = 0;
  int in = 0;
  int out = 0;      // rows of the weight
  int stages = 0;   // of the ring
  int round = 0;    // tiles between two sums over the warps
  void* y = nullptr;
  int y_stride = 0;
  FewQkv qkv = {};  // of kQkv
};

// Bytes of shared memory: the ring, the rows of x (unless they stay in global memory), two sets of
// partial sums.
struct Layout {
  int x_stride = 0;  // elements
  int x_bytes = 0;
  int sums_floats = 0;  // of one set
  int ring_bytes = 0;
  int total() const { return ring_bytes + x_bytes + 2 * sums_floats * 4; }
};

__host__ __device__ inline int UnitsOf(int in) { return (in + kUnitColumns - 1) / kUnitColumns; }

template <bool kSharedX, int kTiles>
__host__ __device__ inline Layout LayOut(const Product& p) {
  Layout layout;
  layout.ring_bytes = kWarps * p.stages * kTiles * kUnitBytes;
  // 64 bytes more than a multiple of 128, so that eight rows' pieces lie in different banks.
  layout.x_stride = UnitsOf(p.in) * kUnitColumns + 32;
  layout.x_bytes = kSharedX ? p.tokens * layout.x_stride * 2 : 0;
  layout.sums_floats = p.round * kWarps * kTileRows * p.tokens;
  return layout;
}

// The ring of one warp: units in the order in which the warp consumes them.
template <int kTiles>
struct UnitStream {
  const char* weight;
  int64_t row_bytes;
  int in, out, units;  // units of a tile
  int tile, end;       // groups of kTiles tiles
  int unit;            // next of the current group
  int warp, lane;

  __device__ void Start(const Product& p, int first, int last) {
    weight = static_cast<const char*>(p.weight);
    row_bytes = static_cast<int64_t>(p.in) * 2;
    in = p.in, out = p.out, units = UnitsOf(p.in);
    warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    tile = first, end = last;
    unit = First(0);
    Settle(first);
  }
  // The warp's first unit of the group that is `group` after the block's first.
  __device__ int First(int group) const {
    const int taken = static_cast<int>((static_cast<int64_t>(group) * units) % kWarps);
    return (warp + kWarps - taken) % kWarps;
  }
  __device__ void Settle(int first) {
    while (tile < end && unit >= units) {
      ++tile;
      unit = First(tile - first);
    }
  }
  __device__ void Next(int first) {
    unit += kWarps;
    Settle(first);
  }
  // Starts the copies of the next unit; an empty group of copies at the end of the stream.
  __device__ void Fetch(char* shared, int first) {
    if (tile < end) {
      const int column = unit * kUnitColumns + (lane % 16) * 8;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < kTileRows / 2; ++i) {
          const int r = 2 * i + lane / 16;
          const int row = (tile * kTiles + t) * kTileRows + r;
          const bool valid = row < out && column < in;
          const char* from = valid ? weight + row * row_bytes + column * 2 : weight;
          CopyAsync16(shared + t * kUnitBytes + r * 256 + (((lane % 16) ^ ((r & 1) << 2)) * 16),
                      from, valid);
        }
      }
      Next(first);
    }
    CommitCopies();
  }
};

// At most `stages` - 1 groups of copies stay pending. The branch is uniform.
__device__ __forceinline__ void WaitForUnit(int stages) {
  switch (stages) {
#define CHORD_WAIT(n)  \
  case n:              \
    WaitCopies<n - 1>(); \
    break;
    CHORD_WAIT(3)
    CHORD_WAIT(4)
    CHORD_WAIT(5)
    CHORD_WAIT(6)
    CHORD_WAIT(7)
    CHORD_WAIT(8)
    CHORD_WAIT(9)
    CHORD_WAIT(10)
    CHORD_WAIT(11)
#undef CHORD_WAIT
    default:
      WaitCopies<0>();
  }
}

// norm(x)·w to shared memory, zeros behind the last column. One token: the whole block; several: a
// warp a token.
template <typename T>
__device__ void NormToShared(const Product& p, T* to, int stride) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto* weight = static_cast<const T*>(p.norm);
  const bool whole = p.tokens == 1;
  const int step = (whole ? kThreads : kWarp) * 8, begin = (whole ? threadIdx.x : lane) * 8;
  const int columns = UnitsOf(p.in) * kUnitColumns;
  __shared__ float sums[kWarps];
  for (int token = whole ? 0 : warp; token < p.tokens; token += kWarps) {
    const T* x = static_cast<const T*>(p.x) + static_cast<int64_t>(token) * p.in;
    float sum = 0;
    for (int at = begin; at < p.in; at += step) {
      const auto piece = *reinterpret_cast<const Eight<T>*>(x + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = piece.pair(i);
        sum += pair.x * pair.x + pair.y * pair.y;
      }
      *reinterpret_cast<Eight<T>*>(to + token * stride + at) = piece;
    }
    sum = WarpSum(sum);
    if (whole) {
      if (lane == 0) sums[warp] = sum;
      __syncthreads();
      sum = 0;
      for (int i = 0; i < kWarps; ++i) sum += sums[i];
    }
    const float scale = rsqrtf(sum / static_cast<float>(p.in) + p.eps);
    for (int at = begin; at < columns; at += step) {
      auto* piece = reinterpret_cast<Eight<T>*>(to + token * stride + at);
      if (at >= p.in) {
        *piece = Eight<T>{};
        continue;
      }
      const auto w = *reinterpret_cast<const Eight<T>*>(weight + at);
      Eight<T> y;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = piece->pair(i), b = w.pair(i);
        y.word[i] = Pack<T>(Round<T>(a.x * scale) * b.x, Round<T>(a.y * scale) * b.y);
      }
      *piece = y;
    }
  }
}

template <typename T>
__device__ void CopyToShared(const Product& p, T* to, int stride) {
  const int columns = UnitsOf(p.in) * kUnitColumns, pieces = columns / 8;
  for (int i = threadIdx.x; i < pieces * p.tokens; i += kThreads) {
    const int token = i / pieces, at = i % pieces * 8;
    Eight<T> piece = {};
    if (at < p.in) {
      piece = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(p.x) +
                                                 static_cast<int64_t>(token) * p.in + at);
    }
    *reinterpret_cast<Eight<T>*>(to + token * stride + at) = piece;
  }
}

// Small operands that are read late are on their way to L2 while the block waits: every layer has
// its own, and the weights of the layers between have pushed them out.
template <typename T, Epilogue kEpilogue>
__device__ void PrefetchOperands(const Product& p, int first, int last) {
  const auto prefetch = [](const void* base, int begin, int end) {
    for (int at = begin + threadIdx.x * 64; at < end; at += kThreads * 64) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const T*>(base) + at));
    }
  };
  if (p.norm != nullptr) prefetch(p.norm, 0, p.in);
  if (kEpilogue == Epilogue::kQkv) prefetch(p.qkv.bias, first * kTileRows, last * kTileRows);
}

// What becomes of the products of rows `row` and `row` + 4 of the weight for one token.
template <typename T, Epilogue kEpilogue>
__device__ void Finish(const Product& p, int token, int tile, int j, float low, float high) {
  const int row = tile * kTileRows + j;
  if (kEpilogue == Epilogue::kHead) {
    T* y = static_cast<T*>(p.y) + static_cast<int64_t>(token) * p.y_stride;
    if (row < p.out) y[row] = FromFloat<T>(low);
    if (row + 4 < p.out) y[row + 4] = FromFloat<T>(high);
  } else if (kEpilogue == Epilogue::kAdd) {
    T* y = static_cast<T*>(p.y) + static_cast<int64_t>(token) * p.y_stride;
    if (row < p.out) y[row] = FromFloat<T>(ToFloat(y[row]) + Round<T>(low));
    if (row + 4 < p.out) y[row + 4] = FromFloat<T>(ToFloat(y[row + 4]) + Round<T>(high));
  } else if (kEpilogue == Epilogue::kSwiGlu) {
    T* y = static_cast<T*>(p.y) + static_cast<int64_t>(token) * p.y_stride;
    y[tile * 4 + j] = FromFloat<T>(GatedValue<T>(Round<T>(low), Round<T>(high)));
  } else {
    const FewQkv& a = p.qkv;
    const auto* bias = static_cast<const T*>(a.bias);
    low = Round<T>(low + ToFloat(bias[row]));
    high = Round<T>(high + ToFloat(bias[row + 4]));
    FinishQkv<T>(a.shape, a.rotary, token, tile, j, &low, &high);
    const QkvPlace place = PlaceOf(a.shape, tile);
    const int slot = a.slots[token];
    T* to = nullptr;
    if (place.part == QkvPart::kQuery) {
      to = static_cast<T*>(a.q) + (static_cast<int64_t>(token) * a.shape.heads + place.head) * a.shape.dim;
    } else if (a.kv.key_scales != nullptr) {
      to = static_cast<T*>(place.part == QkvPart::kKey ? a.k : a.v) +
           (static_cast<int64_t>(token) * a.shape.kv_heads + place.head) * a.shape.dim;
    } else if (slot >= 0) {
      to = KvRow<T>(a.kv, place.part == QkvPart::kKey ? a.kv.keys : a.kv.values, slot, place.head);
    }
    if (to != nullptr) {
      to[place.first + j] = FromFloat<T>(low);
      to[place.second + j] = FromFloat<T>(high);
    }
  }
}

// kTiles tiles go together where x is read from global memory, so that it is read less often.
template <typename T, Epilogue kEpilogue, bool kSharedX, int kTiles>
__global__ void __launch_bounds__(kThreads, 2) FewRowsKernel(const Product p) {
  extern __shared__ __align__(128) char shared[];
  const Layout layout = LayOut<kSharedX, kTiles>(p);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  char* ring = shared + warp * p.stages * kTiles * kUnitBytes;
  T* x = reinterpret_cast<T*>(shared + layout.ring_bytes);
  float* sums = reinterpret_cast<float*>(shared + layout.ring_bytes + layout.x_bytes);

  AllowNext();
  const int groups = (p.out + kTiles * kTileRows - 1) / (kTiles * kTileRows);
  const int first = static_cast<int>(static_cast<int64_t>(groups) * blockIdx.x / gridDim.x);
  const int last = static_cast<int>(static_cast<int64_t>(groups) * (blockIdx.x + 1) / gridDim.x);
  UnitStream<kTiles> fetch, use;
  fetch.Start(p, first, last);
  use.Start(p, first, last);
  for (int s = 0; s < p.stages - 1; ++s) fetch.Fetch(ring + s * kTiles * kUnitBytes, first);
  PrefetchOperands<T, kEpilogue>(p, first, last);
  AwaitPrevious();
  if (kSharedX) {
    if (p.norm != nullptr) {
      NormToShared<T>(p, x, layout.x_stride);
    } else {
      CopyToShared<T>(p, x, layout.x_stride);
    }
    __syncthreads();
  }

  const int token = lane / 4, quarter = lane % 4;
  const bool has_token = token < p.tokens;
  const T* x_row = kSharedX ? x + token * layout.x_stride
                            : static_cast<const T*>(p.x) + static_cast<int64_t>(token) * p.in;
  int stage = 0, set = 0;
  for (int round = first; round < last; round += p.round / kTiles, set ^= 1) {
    const int round_end = min(round + p.round / kTiles, last);
    float* set_sums = sums + set * layout.sums_floats;
    for (int group = round; group < round_end; ++group) {
      float total[kTiles][4][4] = {};  // four chains, so that products overlap
      for (; use.tile == group; use.Next(first)) {
        // The stage that was used last is free: every lane is past it.
        const int free_stage = stage == 0 ? p.stages - 1 : stage - 1;
        __syncwarp();
        fetch.Fetch(ring + free_stage * kTiles * kUnitBytes, first);
        WaitForUnit(p.stages);
        __syncwarp();
        const char* unit = ring + stage * kTiles * kUnitBytes;
        const int column = use.unit * kUnitColumns + quarter * 8;
        Eight<T> a[4];
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          const bool read = has_token && (kSharedX || column + s * 32 < p.in);
          a[s] = read ? *reinterpret_cast<const Eight<T>*>(x_row + column + s * 32) : Eight<T>{};
        }
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int s = 0; s < 4; ++s) {
            const int piece = (s * 4 + quarter) ^ ((token & 1) << 2);
            const auto b = *reinterpret_cast<const Eight<T>*>(unit + t * kUnitBytes + token * 256 +
                                                              piece * 16);
            Mma<T>(total[t][s], a[s].word[0], 0, a[s].word[1], 0, b.word[0], b.word[1]);
            Mma<T>(total[t][s], a[s].word[2], 0, a[s].word[3], 0, b.word[2], b.word[3]);
          }
        }
        stage = stage + 1 == p.stages ? 0 : stage + 1;
      }
      if (has_token) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          float* to = set_sums +
                      ((((group - round) * kTiles + t) * kWarps + warp) * p.tokens + token) * kTileRows +
                      quarter * 2;
          to[0] = total[t][0][0] + total[t][1][0] + total[t][2][0] + total[t][3][0];
          to[1] = total[t][0][1] + total[t][1][1] + total[t][2][1] + total[t][3][1];
        }
      }
    }
    __syncthreads();
    // The other set is written next, so that no warp waits for this sum.
    const int outputs = (round_end - round) * kTiles * p.tokens * 4;
    for (int i = threadIdx.x; i < outputs; i += kThreads) {
      const int j = i % 4, of_token = i / 4 % p.tokens, tile = i / (4 * p.tokens);
      const float* from = set_sums + (tile * kWarps * p.tokens + of_token) * kTileRows + j;
      float low = 0, high = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        low += from[w * p.tokens * kTileRows];
        high += from[w * p.tokens * kTileRows + 4];
      }
      Finish<T, kEpilogue>(p, of_token, round * kTiles + tile, j, low, high);
    }
  }
}

// Where two blocks and no third fit on a multiprocessor; one, where kernels do not overlap.
struct Room {
  int most = 0;
  int least = 0;
};
Room RoomOf(const Device& device) {
  if (!device.overlap) return {device.shared_bytes_per_block - 1024, 0};
  return {device.shared_bytes_per_multiprocessor / 2 - 1024,
          device.shared_bytes_per_multiprocessor / 3};
}

// Chooses tiles a round and the ring's stages. False: there is no room for x.
template <bool kSharedX, int kTiles>
bool Fit(const Device& device, Product* p) {
  p->round = kTiles * std::clamp(512 / (kWarps * kTileRows * p->tokens * kTiles) * 2, 1, 16);
  for (p->stages = kMaxStages; p->stages >= 3; --p->stages) {
    if (LayOut<kSharedX, kTiles>(*p).total() <= RoomOf(device).most) return true;
  }
  return false;
}

template <typename T, Epilogue kEpilogue, bool kSharedX, int kTiles>
void Start(const Device& device, Product p, const Launch& launch) {
  const Room room = RoomOf(device);
  if (!Fit<kSharedX, kTiles>(device, &p)) {
    throw Error(Code::kUnsupported, "rows of %d values do not fit into shared memory", p.in);
  }
  const int bytes = std::max(LayOut<kSharedX, kTiles>(p).total(), room.least);
  auto* kernel = FewRowsKernel<T, kEpilogue, kSharedX, kTiles>;
  AllowSharedMemory(kernel, room.most);
  LaunchKernel(kernel, dim3(device.multiprocessors), kThreads, bytes, launch, p);
}

template <Epilogue kEpilogue, bool kSharedX = true, int kTiles = 1>
void StartTyped(Dtype dtype, const Device& device, const Product& p, const Launch& launch) {
  if (dtype == Dtype::kBFloat16) {
    Start<__nv_bfloat16, kEpilogue, kSharedX, kTiles>(device, p, launch);
  } else {
    Start<__half, kEpilogue, kSharedX, kTiles>(device, p, launch);
  }
}

}  // namespace

bool FewRowsFit(const Device& device, int tokens, int in) {
  Product p;
  p.tokens = tokens, p.in = in;
  return Fit<true, 1>(device, &p);
}

void FewRowsQkv(Dtype dtype, const Device& device, const FewQkv& args, int tokens, int in,
                const Launch& launch) {
  Product p;
  p.x = args.hidden, p.norm = args.norm, p.eps = args.eps, p.weight = args.weight;
  p.tokens = tokens, p.in = in, p.out = args.shape.width();
  p.qkv = args;
  StartTyped<Epilogue::kQkv>(dtype, device, p, launch);
}

void FewRowsSwiGlu(Dtype dtype, const Device& device, const void* hidden, const void* norm,
                   float eps, const void* weight, int tokens, int in, int inner, void* out,
                   const Launch& launch) {
  Product p;
  p.x = hidden, p.norm = norm, p.eps = eps, p.weight = weight;
  p.tokens = tokens, p.in = in, p.out = 2 * inner;
  p.y = out, p.y_stride = inner;
  StartTyped<Epilogue::kSwiGlu>(dtype, device, p, launch);
}

void FewRowsAdd(Dtype dtype, const Device& device, const void* x, const void* weight, int tokens,
                int in, int out, void* hidden, const Launch& launch) {
  Product p;
  p.x = x, p.weight = weight;
  p.tokens = tokens, p.in = in, p.out = out;
  p.y = hidden, p.y_stride = out;
  if (Fit<true, 1>(device, &p)) {
    StartTyped<Epilogue::kAdd>(dtype, device, p, launch);
  } else {
    StartTyped<Epilogue::kAdd, false, 2>(dtype, device, p, launch);
  }
}

void FewRowsHead(Dtype dtype, const Device& device, const void* hidden, const void* norm, float eps,
                 const void* weight, int tokens, int in, int out, int stride, void* logits,
                 const Launch& launch) {
  Product p;
  p.x = hidden, p.norm = norm, p.eps = eps, p.weight = weight;
  p.tokens = tokens, p.in = in, p.out = out;
  p.y = logits, p.y_stride = stride;
  StartTyped<Epilogue::kHead>(dtype, device, p, launch);
}

}  // namespace chord::cuda
