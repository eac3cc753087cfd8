// Persistent product for Hopper. A cluster of two blocks owns two tiles of kRows rows side by side
// over the same kN columns: each block loads its own rows of x, and half of the weight tile, which
// the copy engine hands to both. In a block, one thread keeps the ring of stages full; two
// warpgroups take whole tiles in turn, so that one multiplies while the other writes its tile out.
//
// Stages come in the order of tiles. A warpgroup may look at its first stage only when the other
// has seen its last one, since a barrier tells even from odd rounds and no more.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "common/engine/cuda/vision_gemm.h"
#include "common/engine/cuda/vision_launch.cuh"
#include "common/engine/cuda/vision_math.cuh"
#include "common/engine/cuda/wgmma.cuh"

namespace chord::cuda::vision {
namespace {

constexpr int kRows = 128;     // of x in a block's tile
constexpr int kDepth = 64;     // of k in a stage: 128 bytes, one swizzle row
constexpr int kCluster = 2;    // blocks that share weights
constexpr int kThreads = 384;  // a warpgroup that loads, two that multiply
constexpr int kMaxShared = 227 * 1024;

template <int kN>
struct Ring {
  static constexpr int kRowBytes = kRows * kDepth * 2;
  static constexpr int kWeightBytes = kN * kDepth * 2;
  static constexpr int kStageBytes = kRowBytes + kWeightBytes;
  static constexpr int kStages = (kMaxShared - 2048) / kStageBytes;
  static constexpr int kBytes = kStages * kStageBytes + 2048;  // + alignment and barriers
};

// Device code for 9.0a alone; the kernel is empty for other architectures and not launched there.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CHORD_SM90 1
#endif

struct Parameters {
  const void* bias;
  void* out;
  const int32_t* target;
  int m, n, k;
  int out_stride;
};

#ifdef CHORD_SM90
// --- barriers, copies, tensor cores ---------------------------------------------------------------

__device__ inline void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ inline void ExpectBytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline void WaitForPhase(uint32_t barrier, int phase) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
// On the barrier at the same place in block `rank` of the cluster. What it frees was read by the
// tensor cores alone, and those reads are over: no fence (a release over the cluster costs a
// microsecond).
__device__ inline void ArriveAt(uint32_t barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
__device__ inline void SyncCluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::
                   : "memory");
}
// The two warpgroups that multiply take turns: one waits until the other passes the turn on.
__device__ inline void WaitForTurn(int group) {
  asm volatile("bar.sync %0, 256;" ::"r"(group) : "memory");
}
__device__ inline void PassTurnTo(int group) {
  asm volatile("bar.arrive %0, 256;" ::"r"(group) : "memory");
}
__device__ inline int RankInCluster() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline void LoadTile(const CUtensorMap* map, uint32_t to, uint32_t barrier, int x,
                                int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}
__device__ inline void LoadTileForBoth(const CUtensorMap* map, uint32_t to, uint32_t barrier, int x,
                                       int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "h"(static_cast<uint16_t>(3))
      : "memory");
}

// A tile in rows of 128 swizzled bytes, eight rows to 1024 bytes.
__device__ inline uint64_t Describe(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | (uint64_t{1} << 16) |
         (uint64_t{64} << 32) | (uint64_t{1} << 62);
}
template <int kCount>
__device__ inline void Pin(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

// --- epilogue -------------------------------------------------------------------------------------

// Four words of each of four neighbouring lanes, turned: lane i's word j becomes lane j's word i.
__device__ inline void TurnQuad(uint32_t (&w)[4]) {
  const int lane = threadIdx.x % 4;
  const bool odd = lane & 1, high = lane & 2;
  // Rounds of exchange with lane ^ 1, then lane ^ 2.
  uint32_t a = __shfl_xor_sync(0xffffffff, odd ? w[0] : w[1], 1);
  uint32_t b = __shfl_xor_sync(0xffffffff, odd ? w[2] : w[3], 1);
  if (odd) {
    w[0] = a;
    w[2] = b;
  } else {
    w[1] = a;
    w[3] = b;
  }
  a = __shfl_xor_sync(0xffffffff, high ? w[0] : w[2], 2);
  b = __shfl_xor_sync(0xffffffff, high ? w[1] : w[3], 2);
  if (high) {
    w[0] = a;
    w[1] = b;
  } else {
    w[2] = a;
    w[3] = b;
  }
}

__device__ inline float Gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678118654752f)); }
__device__ inline float Silu(float x) { return x / (1 + __expf(-x)); }

// Writes [64, kN] accumulators of a warpgroup, whose first element is at (row, column) of the
// product. A lane holds, of each 8 columns, 2 of its row and 2 of the row 8 below; four lanes trade
// them so that each reads and writes 16 bytes.
template <typename T, int kN, Epilogue kEpilogue>
__device__ inline void WriteTile(const float (&acc)[kN / 2], const Parameters& p, int row,
                                 int column) {
  constexpr bool kPairs = kEpilogue == Epilogue::kBiasSwiGlu;
  constexpr int kTiles = kPairs ? kN / 16 : kN / 8;  // of 8 columns of out
  static_assert(kTiles % 4 == 0);
  const int lane = threadIdx.x % 32, quad = lane % 4;
  const T* const bias = static_cast<const T*>(p.bias);
  row += static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4;
  const int out_column = kPairs ? column / 2 : column, columns = kPairs ? p.n / 2 : p.n;
#pragma unroll
  for (int group = 0; group < kTiles; group += 4) {
    float2 b[kPairs ? 8 : 4];
#pragma unroll
    for (int i = 0; i < (kPairs ? 8 : 4); ++i) {
      const int at = column + (kPairs ? 2 * group : group) * 8 + i * 8 + quad * 2;
      b[i] = bias != nullptr && at < p.n
                 ? WidenPair<T>(*reinterpret_cast<const uint32_t*>(bias + at))
                 : float2{};
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 8 * half;
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kPairs) {
          const float* gate = acc + (2 * (group + i)) * 4 + half * 2;
          const float* up = gate + 4;
          const float2 g = b[2 * i], u = b[2 * i + 1];
          words[i] = NarrowPair<T>(
              Round<T>(Silu(Round<T>(gate[0] + g.x))) * Round<T>(up[0] + u.x),
              Round<T>(Silu(Round<T>(gate[1] + g.y))) * Round<T>(up[1] + u.y));
        } else {
          const float* x = acc + (group + i) * 4 + half * 2;
          float v = x[0] + b[i].x, w = x[1] + b[i].y;
          if constexpr (kEpilogue == Epilogue::kBiasGelu) {
            v = Gelu(Round<T>(v));
            w = Gelu(Round<T>(w));
          }
          words[i] = NarrowPair<T>(v, w);
        }
      }
      TurnQuad(words);
      const int c = out_column + (group + quad) * 8;
      if (r >= p.m || c >= columns) continue;
      const int64_t out_row = p.target == nullptr ? r : p.target[r];
      uint4* const at =
          reinterpret_cast<uint4*>(static_cast<T*>(p.out) + out_row * p.out_stride + c);
      uint4 result = make_uint4(words[0], words[1], words[2], words[3]);
      if constexpr (kEpilogue == Epilogue::kBiasResidual) {
        const uint4 before = *at;
        const uint32_t* old = &before.x;
        uint32_t* sum = &result.x;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 o = WidenPair<T>(old[i]), x = WidenPair<T>(words[i]);
          sum[i] = NarrowPair<T>(o.x + x.x, o.y + x.y);
        }
      }
      *at = result;
    }
  }
}

#endif  // CHORD_SM90
// --- kernel -------------------------------------------------------------------------------------

template <typename T, int kN, Epilogue kEpilogue>
__global__ __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1) void GemmKernel(
    const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap weights,
    const Parameters p) {
#ifdef CHORD_SM90
  using R = Ring<kN>;
  extern __shared__ unsigned char raw[];
  const uint32_t base = (SharedAddress(raw) + 1023) & ~1023u;
  const uint32_t full = base + R::kStages * R::kStageBytes, empty = full + R::kStages * 8;
  const int rank = RankInCluster();
  if (threadIdx.x == 0) {
    for (int s = 0; s < R::kStages; ++s) {
      InitBarrier(full + 8 * s, 1);
      InitBarrier(empty + 8 * s, kCluster * 4);  // the warps of one warpgroup of each block
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  SyncCluster();
  WaitForPrevious();

  const int row_tiles = (p.m + kRows * kCluster - 1) / (kRows * kCluster);
  const int tiles = row_tiles * ((p.n + kN - 1) / kN);
  const int steps = (p.k + kDepth - 1) / kDepth;
  const int first = static_cast<int>(blockIdx.x) / kCluster;
  const int stride = static_cast<int>(gridDim.x) / kCluster;
  const int group = static_cast<int>(threadIdx.x) / 128;

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) {
      int stage = 0, phase = 0;
      for (int tile = first; tile < tiles; tile += stride) {
        const int row = (tile % row_tiles * kCluster + rank) * kRows;
        const int column = tile / row_tiles * kN;
        for (int step = 0; step < steps; ++step) {
          WaitForPhase(empty + 8 * stage, phase ^ 1);
          const uint32_t at = base + stage * R::kStageBytes, barrier = full + 8 * stage;
          ExpectBytes(barrier, R::kStageBytes);
          LoadTile(&rows, at, barrier, step * kDepth, row);
          LoadTileForBoth(&weights, at + R::kRowBytes + rank * (R::kWeightBytes / 2), barrier,
                          step * kDepth, column + rank * (kN / 2));
          if (++stage == R::kStages) {
            stage = 0;
            phase ^= 1;
          }
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const int lane = threadIdx.x % 32;
    int turn = 0, used = 0;  // stages that passed, this warpgroup's and the other's
    for (int tile = first; tile < tiles; tile += stride, ++turn, used += steps) {
      if (turn % 2 != group - 1) continue;
      __syncwarp();
      if (turn > 0) WaitForTurn(group);
      float acc[2][kN / 2];
      int before = -1;
      for (int step = 0; step < steps; ++step) {
        const int stage = (used + step) % R::kStages, phase = (used + step) / R::kStages % 2;
        WaitForPhase(full + 8 * stage, phase);
        const uint32_t at = base + stage * R::kStageBytes;
        const uint64_t a = Describe(at), b = Describe(at + R::kRowBytes);
        Pin(acc[0]);
        Pin(acc[1]);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < kDepth / 16; ++k) {
          const int add = step > 0 || k > 0;
          Wgmma<T, kN>::Run(acc[0], a + 2 * k, b + 2 * k, add);
          Wgmma<T, kN>::Run(acc[1], a + 2 * k + 64 * 128 / 16, b + 2 * k, add);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        Pin(acc[0]);
        Pin(acc[1]);
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (before >= 0 && lane < kCluster) ArriveAt(empty + 8 * before, lane);
        before = stage;
      }
      if (tile + stride < tiles) PassTurnTo(3 - group);
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (lane < kCluster) ArriveAt(empty + 8 * before, lane);
      Pin(acc[0]);
      Pin(acc[1]);
      if (tile + 2 * stride >= tiles) AllowNext();
      const int row = (tile % row_tiles * kCluster + rank) * kRows;
      const int column = tile / row_tiles * kN;
      WriteTile<T, kN, kEpilogue>(acc[0], p, row, column);
      WriteTile<T, kN, kEpilogue>(acc[1], p, row + 64, column);
    }
  }
  SyncCluster();  // no block leaves while the other may still signal or fill it
#endif
}

// --- launch -------------------------------------------------------------------------------------

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled FindEncodeTiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                       cudaEnableDefault, &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<EncodeTiled>(function);
}

bool MakeMap(EncodeTiled encode, HalfType type, const void* data, int64_t rows, int64_t cols,
             int box_rows, CUtensorMap* map) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(cols) * 2};
  const cuuint32_t box[2] = {kDepth, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  return encode(map,
                type == HalfType::kBf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                        : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2, const_cast<void*>(data), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Clusters of the kernel that run at once on the current device.
template <typename Kernel>
int ResidentClusters(Kernel* kernel, int shared_bytes) {
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) !=
      cudaSuccess) {
    return 0;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kCluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) return 0;
  return clusters;
}

template <typename T, int kN, Epilogue kEpilogue>
cudaError_t Run(const GemmProblem& g, const Queue& queue) {
  static const EncodeTiled encode = FindEncodeTiled();
  static const int resident = ResidentClusters(GemmKernel<T, kN, kEpilogue>, Ring<kN>::kBytes);
  CUtensorMap rows, weights;
  if (encode == nullptr || resident < 1 ||
      !MakeMap(encode, g.type, g.x, g.m, g.k, kRows, &rows) ||
      !MakeMap(encode, g.type, g.weight, g.n, g.k, kN / 2, &weights)) {
    return cudaErrorInvalidConfiguration;
  }
  const int64_t tiles =
      (g.m + kRows * kCluster - 1) / (kRows * kCluster) * ((g.n + kN - 1) / kN);
  const auto grid = static_cast<unsigned>(std::min<int64_t>(tiles, resident) * kCluster);
  const int64_t out_columns = kEpilogue == Epilogue::kBiasSwiGlu ? g.n / 2 : g.n;
  const Parameters parameters{g.bias,
                              g.out,
                              g.target,
                              static_cast<int>(g.m),
                              static_cast<int>(g.n),
                              static_cast<int>(g.k),
                              static_cast<int>(out_columns)};
  return Launch(queue, dim3(grid), kThreads, Ring<kN>::kBytes, GemmKernel<T, kN, kEpilogue>, rows,
                weights, parameters);
}

// The tile width that leaves the fewest blocks idle in the last wave: fixed for a shape of weights
// and a number of row tiles; the result is the same with each.
template <typename T, Epilogue kEpilogue>
cudaError_t ChooseWidth(const GemmProblem& g, const Queue& queue) {
  constexpr int kClustersAtOnce = 66;
  const int64_t row_tiles = (g.m + kRows * kCluster - 1) / (kRows * kCluster);
  int best = 0;
  int64_t least = 0;
  for (const int width : {192, 160, 128}) {
    if (kEpilogue == Epilogue::kBiasSwiGlu && width == 160) continue;
    const int64_t tiles = row_tiles * ((g.n + width - 1) / width);
    const int64_t cost = (tiles + kClustersAtOnce - 1) / kClustersAtOnce * (width + 16);
    if (best == 0 || cost < least) {
      best = width;
      least = cost;
    }
  }
  if (best == 192) return Run<T, 192, kEpilogue>(g, queue);
  if constexpr (kEpilogue != Epilogue::kBiasSwiGlu) {
    if (best == 160) return Run<T, 160, kEpilogue>(g, queue);
  }
  return Run<T, 128, kEpilogue>(g, queue);
}

template <typename T>
cudaError_t ChooseEpilogue(const GemmProblem& g, const Queue& queue) {
  switch (g.epilogue) {
    case Epilogue::kBias:
      return ChooseWidth<T, Epilogue::kBias>(g, queue);
    case Epilogue::kBiasResidual:
      return ChooseWidth<T, Epilogue::kBiasResidual>(g, queue);
    case Epilogue::kBiasGelu:
      return ChooseWidth<T, Epilogue::kBiasGelu>(g, queue);
    case Epilogue::kBiasSwiGlu:
      return ChooseWidth<T, Epilogue::kBiasSwiGlu>(g, queue);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

bool HasSm90Gemm(int device) {
  int major = 0, minor = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
             cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) ==
             cudaSuccess &&
         major == 9 && minor == 0 && FindEncodeTiled() != nullptr;
}

cudaError_t Sm90Gemm(const GemmProblem& problem, const Queue& queue) {
  return problem.type == HalfType::kBf16 ? ChooseEpilogue<__nv_bfloat16>(problem, queue)
                                         : ChooseEpilogue<__half>(problem, queue);
}

}  // namespace chord::cuda::vision
