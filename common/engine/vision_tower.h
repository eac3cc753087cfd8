// The ViT of Qwen2.5-VL (spec §3): patches in, one row of embeddings per merged cell out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/cancel.h"
#include "common/engine/attention.h"
#include "common/engine/device.h"
#include "common/engine/weight_format.h"
#include "common/image/frame_plan.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

class VisionTower {
 public:
  struct Options {
    Device device;
    model::DType dtype = model::DType::kFloat32;  // what it computes in
    // Of the linear layers of blocks and merger; the patch embedding stays as stored. Packed
    // formats need the CPU.
    WeightFormat weights = {};
    Attention attention = Attention::kAuto;
    // Called when kAuto falls back from Chord's own kernels to libtorch's, with the reason.
    std::function<void(const absl::Status& reason)> on_fallback = {};
    // Of Chord's CUDA kernels only those that run on every device: for tests and comparisons.
    bool portable_kernels = false;
  };
  // On a CUDA device in bf16 or fp16: Chord's own kernels where they take the device and the shape
  // (cuda_vision_tower.h), else libtorch's operators; backend() says which.
  static absl::StatusOr<std::unique_ptr<VisionTower>> Load(
      std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
      const Options& options);
  virtual ~VisionTower() = default;

  // Embeddings of a packed batch of images.
  struct Output {
    model::DType dtype;            // the model's
    int64_t rows = 0;              // sum of the grids' tokens
    int64_t width = 0;             // text hidden size
    std::vector<std::byte> bytes;  // row major, raster order per image, images one after another
  };
  // `patches` [sum of grid patches, 1176] float32, images one after another, merge-group order.
  // Looks at `cancel` between blocks. Not thread-safe: one call at a time.
  // DEVICE_MEMORY when the device is full; the tower stays usable.
  virtual absl::StatusOr<Output> Encode(absl::Span<const float> patches,
                                        absl::Span<const image::Grid> grids,
                                        const CancelToken& cancel) = 0;

  // The same from resized pixels: images one after another, each interleaved RGB of
  // (grid.h · patch_size) rows of (grid.w · patch_size) pixels. The patches are those of
  // image::Patchify with the configuration's constants (mode kTorch), to the bit.
  virtual absl::StatusOr<Output> EncodePixels(absl::Span<const uint8_t> pixels,
                                              absl::Span<const image::Grid> grids,
                                              const CancelToken& cancel) {
    return absl::UnimplementedError("this tower takes patches");
  }
  // Are pixels the better input? On a GPU they are an eighth of the bytes to upload, and the host
  // makes no patches; on a CPU the caller makes patches beside the tower's work.
  virtual bool prefers_pixels() const { return false; }

  // Memory that packed weights take; 0 where weights are used as they are stored.
  virtual int64_t packed_bytes() const { return 0; }
  // What computes, for logs: "cpu", "libtorch", "cuda kernels".
  virtual std::string backend() const { return ""; }
};

}  // namespace chord::engine
