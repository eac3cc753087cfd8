// chord.config.v1.VisionWorker with defaults filled in and every value checked.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/config/v1/config.pb.h"
#include "common/base/limits.h"
#include "common/engine/attention.h"

namespace chord::vision_worker {

struct Settings {
  std::string model_dir;
  std::string address;
  std::string metrics_address;  // empty: none
  std::string device;
  std::string dtype;
  int threads = 0;
  std::map<std::string, std::string> language_workers;  // name -> address
  int64_t max_image_bytes = limits::kDefaultImageBytes;
  int64_t max_image_pixels = limits::kDefaultImagePixels;
  int64_t max_image_metadata_bytes = limits::kDefaultImageMetadataBytes;
  int max_queue = 32;
  int64_t max_pixels_in_flight = 100'000'000;
  int64_t max_batch_patches = 0;  // 0: by the device, kBatchPatchesOn…
  engine::Attention attention = engine::Attention::kAuto;
  absl::Duration drain = absl::Seconds(10);
};

// Patches of one batch of several images when nothing is configured. One small image keeps a CPU
// busy, so batching only pays for images that are cheaper than the fixed cost of a batch. A GPU
// needs some thousand rows to be busy: 8192 are two images of 1024 x 768, or thirty small ones.
inline constexpr int64_t kBatchPatchesOnCpu = 512;
inline constexpr int64_t kBatchPatchesOnGpu = 8'192;

// CONFIG_INVALID names the field and its range.
absl::StatusOr<Settings> CheckSettings(const config::v1::VisionWorker& config);

}  // namespace chord::vision_worker
