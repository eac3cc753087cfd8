// Choosing tokens where the logits are: the rule of SampleToken (sampler.h), in two kernels. The
// first gives every block a slice of the vocabulary of one row, the second puts the slices
// together.
#include <algorithm>

#include "common/engine/cuda/device.cuh"
#include "common/engine/cuda/kernels.h"

namespace chord::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSlices = 64;

struct Slice {
  double sum;  // of exp(logit - top)
  double mass[kMaxMassSets];
  float top;
  float best;  // among the allowed ids, after the penalty
  int32_t best_id;
  int32_t finite;
};

struct Choice {
  float score;
  int32_t id;  // -1: none
};
// Lower ids win among equals.
__device__ Choice Better(Choice a, Choice b) {
  if (b.id < 0) return a;
  if (a.id < 0) return b;
  if (a.score != b.score) return a.score > b.score ? a : b;
  return a.id < b.id ? a : b;
}

__device__ Choice WarpBest(Choice x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x = Better(
        x, {__shfl_xor_sync(kAllLanes, x.score, offset), __shfl_xor_sync(kAllLanes, x.id, offset)});
  }
  return x;
}
__device__ float WarpMax(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  }
  return x;
}
__device__ double WarpSum(double x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__host__ __device__ inline int SliceIds(int vocab) {
  return ((vocab + kSlices - 1) / kSlices + 63) / 64 * 64;  // whole words of a set
}

__device__ bool Contains(const uint64_t* set, int id) { return (set[id / 64] >> (id % 64)) & 1; }

// Bits of the slice's ids that the penalty applies to.
__device__ void MarkPenalized(const SampleBuffers& b, const SampleRow& row, int first, int ids,
                              uint32_t* marks) {
  for (int i = threadIdx.x; i < ids / 32; i += kThreads) marks[i] = 0;
  __syncthreads();
  if (row.penalty != 1.f) {
    for (int i = threadIdx.x; i < row.penalized_count; i += kThreads) {
      const int id = b.penalized[row.penalized_begin + i] - first;
      if (id >= 0 && id < ids) atomicOr(&marks[id / 32], 1u << (id % 32));
    }
  }
  __syncthreads();
}

template <typename T>
__global__ void SliceKernel(const SampleBuffers b) {
  extern __shared__ uint32_t marks[];
  __shared__ float tops[kThreads / kWarp];
  __shared__ Choice bests[kThreads / kWarp];
  __shared__ double sums[1 + kMaxMassSets][kThreads / kWarp];
  __shared__ int bad;
  AwaitPrevious();
  AllowNext();
  const SampleRow row = b.rows[blockIdx.y];
  if (row.logits_row < 0) return;
  const int ids = SliceIds(b.vocab), first = blockIdx.x * ids;
  const int end = min(first + ids, b.vocab);
  const T* logits = static_cast<const T*>(b.logits) + row.logits_row * b.stride;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (threadIdx.x == 0) bad = 0;
  MarkPenalized(b, row, first, ids, marks);

  const uint64_t* allowed =
      row.allowed < 0 ? nullptr : b.sets + static_cast<int64_t>(row.allowed) * b.words;
  float top = -INFINITY;
  Choice best = {-INFINITY, -1};
  for (int id = first + threadIdx.x; id < end; id += kThreads) {
    const float logit = ToFloat(logits[id]);
    if (!isfinite(logit)) bad = 1;
    top = fmaxf(top, logit);
    if (allowed != nullptr && !Contains(allowed, id)) continue;
    const bool penalized = (marks[(id - first) / 32] >> ((id - first) % 32)) & 1;
    const float score = !penalized ? logit : logit < 0 ? logit * row.penalty : logit / row.penalty;
    best = Better(best, {score, id});
  }
  top = WarpMax(top);
  best = WarpBest(best);
  if (lane == 0) tops[warp] = top, bests[warp] = best;
  __syncthreads();
  for (int i = 0; i < kThreads / kWarp; ++i) top = fmaxf(top, tops[i]);

  double sum[1 + kMaxMassSets] = {};
  for (int id = first + threadIdx.x; id < end; id += kThreads) {
    const float p = expf(ToFloat(logits[id]) - top);
    sum[0] += p;
#pragma unroll
    for (int i = 0; i < kMaxMassSets; ++i) {
      if (i < row.mass_sets && Contains(b.sets + static_cast<int64_t>(row.mass[i]) * b.words, id))
        sum[1 + i] += p;
    }
  }
#pragma unroll
  for (int i = 0; i <= kMaxMassSets; ++i) {
    sum[i] = WarpSum(sum[i]);
    if (lane == 0) sums[i][warp] = sum[i];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  Slice out = {};
  best = bests[0];
  for (int w = 1; w < kThreads / kWarp; ++w) best = Better(best, bests[w]);
  for (int w = 0; w < kThreads / kWarp; ++w) {
    out.sum += sums[0][w];
    for (int i = 0; i < kMaxMassSets; ++i) out.mass[i] += sums[1 + i][w];
  }
  out.top = top, out.best = best.score, out.best_id = best.id, out.finite = !bad;
  static_cast<Slice*>(b.partial)[blockIdx.y * kSlices + blockIdx.x] = out;
}

// One warp a row.
template <typename T>
__global__ void MergeKernel(const SampleBuffers b) {
  AwaitPrevious();
  const SampleRow row = b.rows[blockIdx.x];
  if (row.logits_row < 0) return;
  const auto* slices = static_cast<const Slice*>(b.partial) + blockIdx.x * kSlices;
  const int lane = threadIdx.x;
  float top = -INFINITY;
  Choice best = {-INFINITY, -1};
  bool finite = true;
  for (int i = lane; i < kSlices; i += kWarp) {
    top = fmaxf(top, slices[i].top);
    best = Better(best, {slices[i].best, slices[i].best_id});
    finite = finite && slices[i].finite;
  }
  top = WarpMax(top);
  best = WarpBest(best);
  finite = __all_sync(kAllLanes, finite);
  double sum = 0, mass[kMaxMassSets] = {};
  for (int i = lane; i < kSlices; i += kWarp) {
    const double weight = slices[i].sum > 0 ? exp(static_cast<double>(slices[i].top) - top) : 0;
    sum += slices[i].sum * weight;
    for (int m = 0; m < kMaxMassSets; ++m) mass[m] += slices[i].mass[m] * weight;
  }
  sum = WarpSum(sum);
  for (int m = 0; m < kMaxMassSets; ++m) mass[m] = WarpSum(mass[m]);
  if (lane != 0) return;
  SampleResult out = {};
  out.id = best.id;
  out.finite = finite;
  if (finite && best.id >= 0) {
    const double logit =
        ToFloat(static_cast<const T*>(b.logits)[row.logits_row * b.stride + best.id]);
    out.log_probability = logit - top - log(sum);
    for (int m = 0; m < row.mass_sets; ++m) out.log_mass[m] = log(mass[m]) - log(sum);
  }
  b.results[blockIdx.x] = out;
}

template <typename T>
__global__ void WidenKernel(const T* __restrict__ logits, int64_t stride,
                            const int32_t* __restrict__ row_of, int vocab,
                            float* __restrict__ out) {
  const T* from = logits + row_of[blockIdx.y] * stride;
  float* to = out + static_cast<int64_t>(blockIdx.y) * vocab;
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < vocab; i += gridDim.x * kThreads) {
    to[i] = ToFloat(from[i]);
  }
}

template <typename T>
void StartSample(const SampleBuffers& b, int rows, const Launch& launch) {
  LaunchKernel(SliceKernel<T>, dim3(kSlices, rows), kThreads, SliceIds(b.vocab) / 8, launch, b);
  LaunchKernel(MergeKernel<T>, dim3(rows), kWarp, 0, launch, b);
}

}  // namespace

int64_t SamplePartialBytes(int rows) {
  return static_cast<int64_t>(rows) * kSlices * sizeof(Slice);
}

void Sample(Dtype dtype, const SampleBuffers& buffers, int rows, const Launch& launch) {
  if (dtype == Dtype::kBFloat16) {
    StartSample<__nv_bfloat16>(buffers, rows, launch);
  } else {
    StartSample<__half>(buffers, rows, launch);
  }
}

void WidenRows(Dtype dtype, const void* logits, int64_t stride, const int32_t* row_of, int rows,
               int vocab, float* out, const Launch& launch) {
  const dim3 grid(std::clamp((vocab + kThreads - 1) / kThreads, 1, 64), rows);
  if (dtype == Dtype::kBFloat16) {
    WidenKernel<<<grid, kThreads, 0, launch.stream>>>(static_cast<const __nv_bfloat16*>(logits),
                                                      stride, row_of, vocab, out);
  } else {
    WidenKernel<<<grid, kThreads, 0, launch.stream>>>(static_cast<const __half*>(logits), stride,
                                                      row_of, vocab, out);
  }
  CHORD_CUDA_LAUNCHED();
}

}  // namespace chord::cuda
