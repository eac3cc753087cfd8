// The vision tower alone: tower_steps MODEL_DIR DEVICE ROUNDS HxW[,HxW...]...
// DEVICE may end in ":portable" (engine::VisionTower::Options::portable_kernels).
//
// Each last argument is a packed batch of images in pixels (multiples of 28). One JSON line a
// batch: median and least wall time in ms, from pixels and from patches.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/engine/device.h"
#include "common/engine/vision_tower.h"
#include "common/image/preprocess.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord {
namespace {

double Now() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Times {
  double median = 0, least = 0;
};
absl::StatusOr<Times> Measure(int rounds, const std::function<absl::Status()>& fn) {
  std::vector<double> times;
  for (int round = -3; round < rounds; ++round) {
    const double begin = Now();
    CHORD_RETURN_IF_ERROR(fn());
    if (round >= 0) times.push_back(Now() - begin);
  }
  std::sort(times.begin(), times.end());
  return Times{times[times.size() / 2], times.front()};
}

absl::Status Batch(engine::VisionTower& tower, const model::ModelConfig& config,
                   const std::string& text, int rounds) {
  std::vector<image::Grid> grids;
  int64_t count = 0;
  for (const auto& size : absl::StrSplit(text, ',')) {
    const std::vector<std::string> sides = absl::StrSplit(size, 'x');
    int h = 0, w = 0;
    if (sides.size() != 2 || !absl::SimpleAtoi(sides[0], &h) || !absl::SimpleAtoi(sides[1], &w)) {
      return absl::InvalidArgumentError("sizes are written HxW");
    }
    grids.push_back({h / config.geometry.patch_size, w / config.geometry.patch_size});
    count += grids.back().patches();
  }
  std::mt19937 random(1);
  std::vector<uint8_t> pixels(count * 3 * config.geometry.patch_size * config.geometry.patch_size);
  for (uint8_t& sample : pixels) sample = static_cast<uint8_t>(random());
  std::vector<float> patches(pixels.size() * config.geometry.temporal_patch_size);
  std::normal_distribution<float> normal;
  for (float& value : patches) value = normal(random);
  const auto run = [](const absl::StatusOr<engine::VisionTower::Output>& out) {
    return out.status();
  };
  CHORD_ASSIGN_OR_RETURN(const Times from_pixels, Measure(rounds, [&] {
                           return run(tower.EncodePixels(pixels, grids, {}));
                         }));
  CHORD_ASSIGN_OR_RETURN(const Times from_patches,
                         Measure(rounds, [&] { return run(tower.Encode(patches, grids, {})); }));
  std::printf(
      "{\"batch\": \"%s\", \"backend\": \"%s\", \"patches\": %ld, \"pixels_median\": %.3f, "
      "\"pixels_min\": %.3f, \"patches_median\": %.3f, \"patches_min\": %.3f}\n",
      text.c_str(), tower.backend().c_str(), static_cast<long>(count), from_pixels.median,
      from_pixels.least, from_patches.median, from_patches.least);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Run(int argc, char** argv) {
  int rounds = 0;
  if (argc < 5 || !absl::SimpleAtoi(argv[3], &rounds) || rounds < 1) {
    return absl::InvalidArgumentError("usage: tower_steps MODEL_DIR DEVICE ROUNDS HxW[,HxW...]...");
  }
  CHORD_RETURN_IF_ERROR(engine::InitEngine(0));
  CHORD_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadModelConfig(argv[1]));
  CHORD_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::Open(argv[1]));
  engine::VisionTower::Options options;
  absl::string_view device = argv[2];
  options.portable_kernels = absl::ConsumeSuffix(&device, ":portable");
  CHORD_ASSIGN_OR_RETURN(options.device, engine::ParseDevice(device));
  CHORD_ASSIGN_OR_RETURN(options.dtype,
                         engine::ParseDType("auto", options.device, config.declared_dtype));
  const double begin = Now();
  CHORD_ASSIGN_OR_RETURN(auto tower, engine::VisionTower::Load(checkpoint, config, options));
  std::printf("{\"load_ms\": %.1f}\n", Now() - begin);
  for (int i = 4; i < argc; ++i) CHORD_RETURN_IF_ERROR(Batch(*tower, config, argv[i], rounds));
  return absl::OkStatus();
}

}  // namespace
}  // namespace chord

int main(int argc, char** argv) {
  const absl::Status status = chord::Run(argc, argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
