// The engine alone: tower, prefill and decode steps of several shapes on random input.
//
// One JSON line per case: the least and the median of the rounds, as wall time and as processor
// time of the process, in ms. With one thread the processor time tells on a busy machine too.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/base/status_macros.h"
#include "common/engine/device.h"
#include "common/engine/language_model.h"
#include "common/engine/vision_tower.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord {
namespace {

struct Times {
  std::vector<double> wall, processor;
};

double Now() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double ProcessorTime() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

absl::Status Measure(const std::string& name, int rounds, const std::function<absl::Status()>& fn) {
  Times times;
  for (int round = -2; round < rounds; ++round) {
    const double wall = Now(), processor = ProcessorTime();
    CHORD_RETURN_IF_ERROR(fn());
    if (round < 0) continue;
    times.wall.push_back(Now() - wall);
    times.processor.push_back(ProcessorTime() - processor);
  }
  for (std::vector<double>* values : {&times.wall, &times.processor}) {
    std::sort(values->begin(), values->end());
  }
  std::printf(
      "{\"case\": \"%s\", \"wall_min\": %.3f, \"wall_median\": %.3f, \"processor_min\": %.3f, "
      "\"processor_median\": %.3f}\n",
      name.c_str(), times.wall.front(), times.wall[times.wall.size() / 2], times.processor.front(),
      times.processor[times.processor.size() / 2]);
  std::fflush(stdout);
  return absl::OkStatus();
}

class Steps {
 public:
  static constexpr int kSequences = 16;

  Steps(engine::LanguageModel* model, int prompt) : model_(model), prompt_(prompt) {
    const int pages = (prompt + 64 + engine::kKvPageTokens - 1) / engine::kKvPageTokens;
    for (int i = 0; i < kSequences; ++i) {
      pages_.emplace_back(pages);
      std::iota(pages_.back().begin(), pages_.back().end(), i * pages);
    }
    std::mt19937 random(1);
    for (int i = 0; i < prompt + 64; ++i) {
      ids_.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(model->vocab_size())));
    }
  }

  // `sequences` of them take `n` ids from row `start` on, logits of the last `logits`.
  absl::Status Run(int sequences, int start, int n, int logits) {
    std::vector<int32_t> positions;
    for (int axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < n; ++i) positions.push_back(start + i);
    }
    std::vector<engine::LanguageModel::Chunk> chunks(sequences);
    for (int i = 0; i < sequences; ++i) {
      chunks[i].pages = pages_[i];
      chunks[i].start = start;
      chunks[i].ids = absl::MakeConstSpan(ids_).subspan(start, n);
      chunks[i].positions = positions;
      chunks[i].logits = logits;
    }
    return model_->Step(chunks, &out_);
  }

  int prompt() const { return prompt_; }

 private:
  engine::LanguageModel* model_;
  int prompt_;
  std::vector<std::vector<int32_t>> pages_;
  std::vector<int32_t> ids_;
  std::vector<float> out_;
};

absl::Status Run(const std::string& dir, int rounds, int threads, const std::string& dtype_text) {
  CHORD_RETURN_IF_ERROR(engine::InitEngine(threads));
  CHORD_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadModelConfig(dir));
  CHORD_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::Open(dir));
  const engine::Device device;
  CHORD_ASSIGN_OR_RETURN(const model::DType dtype,
                         engine::ParseDType(dtype_text, device, config.declared_dtype));
  {
    CHORD_ASSIGN_OR_RETURN(auto tower, engine::VisionTower::Load(
                                           checkpoint, config, {.device = device, .dtype = dtype}));
    const image::Grid grid{24, 32};  // 336 x 448 px
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> patches(static_cast<size_t>(grid.patches()) * 1176);
    for (float& value : patches) value = normal(random);
    CHORD_RETURN_IF_ERROR(Measure("tower_768_patches", rounds,
                                  [&] { return tower->Encode(patches, {grid}, {}).status(); }));
  }
  for (const engine::KvType kv_type : {engine::KvType::kModel, engine::KvType::kInt8}) {
    engine::LanguageModel::Options options;
    options.dtype = dtype;
    options.kv_type = kv_type;
    CHORD_ASSIGN_OR_RETURN(auto model, engine::LanguageModel::Load(checkpoint, config, options));
    Steps steps(model.get(), 250);
    const std::string suffix = kv_type == engine::KvType::kInt8 ? "_int8_kv" : "";
    const int at = steps.prompt();
    CHORD_RETURN_IF_ERROR(
        Measure("prefill_250" + suffix, rounds, [&] { return steps.Run(1, 0, at, 1); }));
    CHORD_RETURN_IF_ERROR(steps.Run(Steps::kSequences, 0, at, 0));
    CHORD_RETURN_IF_ERROR(
        Measure("decode_1" + suffix, 4 * rounds, [&] { return steps.Run(1, at, 1, 1); }));
    CHORD_RETURN_IF_ERROR(
        Measure("decode_1_of_4_ids" + suffix, 2 * rounds, [&] { return steps.Run(1, at, 4, 4); }));
    CHORD_RETURN_IF_ERROR(Measure("decode_16" + suffix, rounds,
                                  [&] { return steps.Run(Steps::kSequences, at, 1, 1); }));
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  int rounds = 20, threads = 0;
  if (argc < 2 || argc > 5 || (argc > 2 && !absl::SimpleAtoi(argv[2], &rounds)) || rounds < 1 ||
      (argc > 3 && !absl::SimpleAtoi(argv[3], &threads))) {
    std::fprintf(stderr, "engine_steps MODEL_DIR [ROUNDS [THREADS [DTYPE]]]\n");
    return 2;
  }
  const absl::Status status = Run(argv[1], rounds, threads, argc > 4 ? argv[4] : "auto");
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace chord

int main(int argc, char** argv) { return chord::Main(argc, argv); }
