// The vision tower of libchord_cuda (cuda_api.h): resized pixels or patches in, embeddings out,
// with no host synchronisation between. The engine's side of it is cuda_vision_tower.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/engine/cuda/cuda_api.h"

namespace chord::cuda {

// A matrix [rows, cols] on the host, dense and row-major, at any address. Read during the call that
// takes it, and never again.
struct HostTensor {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
};

struct TowerBlockWeights {
  HostTensor norm1, norm2;                  // [1, width]
  HostTensor qkv, qkv_bias;                 // [3·width, width]
  HostTensor proj, proj_bias;               // [width, width]
  HostTensor gate, gate_bias, up, up_bias;  // [inner, width]
  HostTensor down, down_bias;               // [width, inner]
  bool full_attention = false;
};

struct TowerOptions {
  int device = 0;
  Dtype dtype = Dtype::kBFloat16;  // of weights and results: kBFloat16 or kFloat16
  int depth = 0;
  int width = 0;
  int heads = 0;
  int inner = 0;
  int out_width = 0;
  int cell = 0;  // patches of a merged cell
  int patch_side = 0, temporal = 0;
  float norm_eps = 0;
  // cuBLASLt and separate kernels even where the device has faster ones; for comparisons.
  bool portable = false;

  // [3][256]: the normalised value of every sample of every channel.
  const float* samples = nullptr;
  const TowerBlockWeights* blocks = nullptr;  // `depth` of them
  HostTensor patch_embed;                     // [width, 3·temporal·side²]
  HostTensor merger_norm;                     // [1, width]
  HostTensor merger_in, merger_in_bias;       // [cell·width, cell·width]
  HostTensor merger_out, merger_out_bias;     // [out_width, cell·width]
};

struct TowerSegment {
  int32_t begin = 0;
  int32_t length = 0;
};

// All that depends on the sizes of a batch's images and not on what they show. Rows are patches in
// the order in which the tower works: cell by cell, window by window. All pointers are host memory.
struct TowerPlan {
  int64_t rows = 0;
  const int32_t* source = nullptr;     // [rows]: the row of `patches` that row r is
  const int32_t* pixel = nullptr;      // [rows]: its first byte in `pixels`, ...
  const int32_t* stride = nullptr;     // [rows]: ... and the bytes of a line there
  const int16_t* positions = nullptr;  // [rows][2]: (y, x)
  const int32_t* target = nullptr;     // [rows / cell]: the row of the result that a cell becomes
  const TowerSegment* windows = nullptr;
  int window_count = 0;
  const TowerSegment* images = nullptr;
  int image_count = 0;
  // [rope_side, width / heads / 4] float32; rope_side is greater than every y and x.
  const float* rope_cos = nullptr;
  const float* rope_sin = nullptr;
  int rope_side = 0;
};

// One thread at a time.
class Tower {
 public:
  virtual ~Tower() = default;
  // What the next calls encode. Memory that they need is taken here: kOutOfMemory leaves no plan,
  // and the tower is usable with a smaller one.
  virtual Status SetPlan(const TowerPlan& plan) = 0;
  // Enqueues a whole pass. Exactly one of `patches` [rows, 3·temporal·side²] and `pixels`
  // [pixel_bytes], interleaved RGB; neither is read after the return.
  virtual Status Start(const float* patches, const uint8_t* pixels, int64_t pixel_bytes) = 0;
  // Waits for it. `out` [rows / cell, out_width] of the tower's dtype, host memory.
  virtual Status Finish(void* out) = 0;
  // Gives back what SetPlan took.
  virtual void Release() = 0;
};

// kUnsupported: a head size without an attention kernel, sizes that are not multiples of 8, or a
// device before Ampere.
Status CreateTower(const TowerOptions& options, Tower** tower);

}  // namespace chord::cuda
