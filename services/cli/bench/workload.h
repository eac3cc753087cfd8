// What a load generator asks and when: arrivals, the mix of prompts, and the files they come
// from. Everything but LoadDataset is pure; the same seed gives the same load on every machine.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::cli {

// --- arrivals -----------------------------------------------------------------------------------

// Offsets of a Poisson process: gaps are independent and exponential with mean 1 / rate.
class Arrivals {
 public:
  // `rate` > 0, requests per second.
  Arrivals(double rate, uint64_t seed) : rate_(rate), random_(seed) {}
  // Seconds since the start, growing.
  double Next();

 private:
  const double rate_;
  std::mt19937_64 random_;
  double at_ = 0;
};

inline constexpr double kMaxBenchRate = 100'000;  // requests per second
inline constexpr size_t kMaxBenchRuns = 64;       // rates of one sweep

// "5", "2,4,8" or a sweep "FROM:TO:COUNT" of rates with equal ratios, both ends included.
// PARAMETER_INVALID for anything else, a rate outside (0, kMaxBenchRate] or too many of them.
absl::StatusOr<std::vector<double>> ParseRates(absl::string_view text);

// --- prompts ----------------------------------------------------------------------------------

struct NamedPrompt {
  std::string file;  // as written in the data
  std::string prompt;
};

// Requests of one data file, in its order. Understands
//   * a JSON array of rows or one JSON row a line, {"file": …, "prompt": …}; also "image" or
//     "file_name", and "question", "sentence" or "prompts": [several];
//   * COCO: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "category_id"}],
//     "categories": [{"id", "name"}]}: one prompt "all NAME" for each category of an image, or
//     the "caption" of each image that has one;
//   * RefCOCO as chord eval does (eval_data.h), with `instances` for a list of refs; and COCO whose
//     annotations carry "sentences", "sentence" or "caption".
// CONFIG_INVALID says what cannot be read, with the line for JSON lines.
absl::StatusOr<std::vector<NamedPrompt>> ParsePrompts(absl::string_view text,
                                                      absl::string_view instances = "");

struct BenchImage {
  std::string name;
  std::string bytes;  // the file as it is
};

struct BenchRequest {
  int image = 0;  // index into Dataset::images
  std::string prompt;
};

struct Dataset {
  std::vector<BenchImage> images;
  std::vector<BenchRequest> prompts;  // at least one
};

// Reads `path`: a folder with data files (*.json, *.jsonl) and images, a data file, or an image.
// A non-empty `prompt` replaces the prompts of the data: it is asked of every image, and no
// data file is needed. Images are in `images`, else beside their data file or in images/ there.
// They stay in memory, 1 GiB of them at most. CONFIG_INVALID otherwise.
absl::StatusOr<Dataset> LoadDataset(const std::string& path, const std::string& prompt,
                                    const std::string& images = "");

// Draws prompts uniformly, each one by reference with the probability `reuse`.
class WorkloadSampler {
 public:
  struct Draw {
    int prompt = 0;
    bool by_id = false;  // name the image by its image_id instead of sending it
  };
  // `prompts` > 0; `reuse` in [0, 1].
  WorkloadSampler(int prompts, double reuse, uint64_t seed)
      : prompts_(prompts), reuse_(reuse), random_(seed) {}
  Draw Next();

 private:
  const int prompts_;
  const double reuse_;
  std::mt19937_64 random_;
};

}  // namespace chord::cli
