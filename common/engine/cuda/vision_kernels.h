// Launchers of the vision tower's kernels. Every pointer is device memory unless it says host;
// every launcher returns at once, and a failed launch is the returned error. Matrices are row-major
// and dense unless a stride (in elements) is given. Torch-free.
//
// T below is the compute dtype: bf16 or fp16. Accumulation is float32; results are rounded where
// the reference implementation rounds.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace chord::cuda::vision {

enum class HalfType { kBf16, kFp16 };

// How kernels are enqueued.
struct Queue {
  cudaStream_t stream = nullptr;
  bool overlap = false;  // let a kernel's prologue run while the one before it ends (Hopper)
};

// --- patches ------------------------------------------------------------------------------------

// out [rows, cols] T = patches[source[r]] float32 [.., cols], rounded.
cudaError_t GatherPatches(HalfType type, const float* patches, const int32_t* source, int64_t rows,
                          int64_t cols, void* out, const Queue& queue);

// Where a patch lies in the pixels of its batch.
struct PatchPlace {
  int32_t begin;   // byte of its top left sample
  int32_t stride;  // bytes of a line
};
// out [rows, 3·temporal·side²] T: sample v of channel c is `samples`[256·c + v], rounded; the same
// in each of `temporal` frames.
cudaError_t MakePatches(HalfType type, const uint8_t* pixels, const PatchPlace* places,
                        const float* samples, int side, int temporal, int64_t rows, void* out,
                        const Queue& queue);

// --- norm ---------------------------------------------------------------------------------------

// out = rms_norm(x) · weight: rounded after the division and after the product. cols % 8 == 0.
cudaError_t RmsNorm(HalfType type, const void* x, const void* weight, float eps, int64_t rows,
                    int64_t cols, void* out, const Queue& queue);

// --- attention ----------------------------------------------------------------------------------

// Rows [begin, begin + length) attend to each other; one tile of queries starts at `query`.
struct AttentionTile {
  int32_t begin;
  int32_t length;
  int32_t query;  // relative to begin
  int32_t unused;
};

struct AttentionShape {
  int heads = 0;
  int dim = 0;  // of a head
};
// Queries of one tile of SegmentAttention; of WindowAttention, also its longest segment.
constexpr int kFullTileRows = 128;
constexpr int kWindowRows = 64;
// Is there a kernel for heads of this size?
bool HasAttention(int dim);

// Angles of the 2-D rotary embedding: row r of the batch stands at (y, x) = positions[r]. cos and
// sin are [side, dim / 4] float32, side greater than every y and x.
struct RopeAngles {
  const short2* positions = nullptr;  // .x is y, .y is x
  const float* cos = nullptr;
  const float* sin = nullptr;
};

// Rotates queries and keys of qkv [rows, 3·heads·dim] in place.
cudaError_t RotateInPlace(HalfType type, void* qkv, int64_t rows, const AttentionShape& shape,
                          const RopeAngles& rope, const Queue& queue);
// out [rows, heads·dim]; tiles of at most kWindowRows rows, query 0. qkv is not rotated yet, or,
// without angles, is.
cudaError_t WindowAttention(HalfType type, const void* qkv, const AttentionShape& shape,
                            const RopeAngles& rope, const AttentionTile* tiles, int count,
                            void* out, const Queue& queue);
// out [rows, heads·dim] of rotated qkv; tiles of kFullTileRows queries over segments of any length.
cudaError_t SegmentAttention(HalfType type, const void* qkv, const AttentionShape& shape,
                             const AttentionTile* tiles, int count, void* out, const Queue& queue);

// The same on Hopper (HasSm90Gemm), for heads of kSm90HeadDim; qkv has `rows` rows.
constexpr int kSm90HeadDim = 80;
cudaError_t SegmentAttentionSm90(HalfType type, const void* qkv, int64_t rows,
                                 const AttentionShape& shape, const AttentionTile* tiles, int count,
                                 void* out, const Queue& queue);

// --- after a plain product
// ------------------------------------------------------------------------

// gated [rows, 2·inner], columns in groups of 16: 8 of the gate, then their 8 of `up` (the order of
// interleaved weights). out [rows, inner] = silu(gate) · up, rounded after each of both.
// inner % 8 == 0.
cudaError_t SwiGlu(HalfType type, const void* gated, int64_t rows, int64_t inner, void* out,
                   const Queue& queue);
// out = gelu(x), the exact one. count % 8 == 0.
cudaError_t Gelu(HalfType type, const void* x, int64_t count, void* out, const Queue& queue);
// out[target[r]] = x[r], rows of `cols` values; cols % 8 == 0.
cudaError_t ScatterRows(const void* x, const int32_t* target, int64_t rows, int64_t cols, void* out,
                        const Queue& queue);

}  // namespace chord::cuda::vision
