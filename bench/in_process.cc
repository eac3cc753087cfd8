// One request without processes: file -> pixels -> patches -> tower -> prefill -> tokens, in this
// program alone. The floor that bench/three_processes.py compares the service with.
//
// Reads "PATH<TAB>PROMPT" lines on stdin, answers each with one JSON line of stage times (ms), so
// that the script can alternate between this program and the service.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/base/status_macros.h"
#include "common/engine/device.h"
#include "common/engine/language_model.h"
#include "common/engine/sampler.h"
#include "common/engine/vision_tower.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/image/preprocess.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"
#include "common/model/prompt.h"
#include "common/model/tokenizer.h"

namespace chord {
namespace {

double Now() {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Engine {
  model::ModelConfig config;
  model::ChatTemplate chat;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::unique_ptr<engine::VisionTower> tower;
  std::unique_ptr<engine::LanguageModel> language;
};

absl::StatusOr<Engine> Load(const std::string& dir, const std::string& device_text) {
  CHORD_RETURN_IF_ERROR(engine::InitEngine(0));
  Engine out;
  CHORD_ASSIGN_OR_RETURN(out.config, model::LoadModelConfig(dir));
  CHORD_ASSIGN_OR_RETURN(out.chat, model::LoadChatTemplate(dir));
  CHORD_ASSIGN_OR_RETURN(model::Tokenizer tokenizer,
                         model::Tokenizer::Load(dir + "/tokenizer.json"));
  out.tokenizer = std::make_unique<model::Tokenizer>(std::move(tokenizer));
  CHORD_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::Open(dir));
  CHORD_ASSIGN_OR_RETURN(const engine::Device device, engine::ParseDevice(device_text));
  CHORD_ASSIGN_OR_RETURN(const model::DType dtype,
                         engine::ParseDType("auto", device, out.config.declared_dtype));
  CHORD_ASSIGN_OR_RETURN(out.tower, engine::VisionTower::Load(checkpoint, out.config,
                                                              {.device = device, .dtype = dtype}));
  CHORD_ASSIGN_OR_RETURN(
      out.language,
      engine::LanguageModel::Load(checkpoint, out.config, {.device = device, .dtype = dtype}));
  return out;
}

absl::Status Answer(Engine& engine, const std::string& path, const std::string& prompt,
                    int max_tokens) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());

  const double begin = Now();
  const image::Limits limits;
  CHORD_ASSIGN_OR_RETURN(const image::Header header, image::Probe(bytes, limits));
  CHORD_ASSIGN_OR_RETURN(const image::FramePlan plan,
                         image::PlanFrame(header, engine.config.geometry));
  CHORD_ASSIGN_OR_RETURN(const image::RgbImage image, image::Decode(bytes, {.limits = limits}));
  const image::RgbImage resized = image::Resize(image, plan.resized, image::ResizeMode::kTorch);
  std::vector<float> patches;
  if (!engine.tower->prefers_pixels()) {
    patches.resize(resized.rgb.size() * engine.config.geometry.temporal_patch_size);
    CHORD_RETURN_IF_ERROR(image::Patchify(resized, engine.config.geometry,
                                          engine.config.normalization, image::ResizeMode::kTorch,
                                          absl::MakeSpan(patches)));
  }
  const double pixels = Now();
  CHORD_ASSIGN_OR_RETURN(auto rows,
                         patches.empty()
                             ? engine.tower->EncodePixels(resized.rgb, {plan.grid}, CancelToken())
                             : engine.tower->Encode(patches, {plan.grid}, CancelToken()));
  const double tower = Now();

  const std::vector<model::Message> messages = {
      {"user", {model::ImagePart{0}, model::Part(prompt)}}};
  CHORD_ASSIGN_OR_RETURN(
      const model::EncodedPrompt encoded,
      model::EncodePrompt(engine.chat, *engine.tokenizer, engine.config, messages, {plan.grid}));
  CHORD_ASSIGN_OR_RETURN(auto embeddings, engine.language->CreateEmbeddings(rows.rows, rows.dtype));
  CHORD_RETURN_IF_ERROR(embeddings->Write(0, rows.bytes));
  std::vector<int32_t> image_rows(encoded.ids.size(), -1);
  for (int64_t i = 0; i < encoded.images[0].tokens; ++i) {
    image_rows[static_cast<size_t>(encoded.images[0].begin + i)] = static_cast<int32_t>(i);
  }
  engine::SeenTokens seen(engine.language->vocab_size());
  seen.Add(encoded.ids);
  engine::SampleSpec spec;
  spec.repetition_penalty = engine.config.generation.repetition_penalty;
  spec.penalized = seen.ids();
  std::vector<engine::SampledToken> sampled;
  engine::LanguageModel::Chunk chunk;
  std::vector<int32_t> pages(engine.language->kv_pages());
  std::iota(pages.begin(), pages.end(), 0);
  chunk.pages = pages;
  chunk.ids = encoded.ids;
  chunk.positions = encoded.positions;
  chunk.image_rows = image_rows;
  chunk.embeddings = embeddings.get();
  CHORD_RETURN_IF_ERROR(engine.language->StepAndSample({chunk}, {spec}, &sampled));
  const double prefill = Now();

  int tokens = 0;
  auto index = static_cast<int>(encoded.ids.size());
  const auto& eos = engine.config.generation.eos_token_ids;
  while (true) {
    const int32_t id = sampled[0].id;
    seen.Add(id);
    spec.penalized = seen.ids();
    ++tokens;
    if (tokens == max_tokens || std::find(eos.begin(), eos.end(), id) != eos.end()) break;
    const auto position = static_cast<int32_t>(index + encoded.rope_delta);
    const int32_t positions[3] = {position, position, position};
    engine::LanguageModel::Chunk next;
    next.pages = pages;
    next.start = index++;
    next.ids = absl::MakeSpan(&id, 1);
    next.positions = positions;
    CHORD_RETURN_IF_ERROR(engine.language->StepAndSample({next}, {spec}, &sampled));
  }
  const double end = Now();
  std::printf(
      "{\"vision_ms\": %.3f, \"pixels_ms\": %.3f, \"tower_ms\": %.3f, \"prefill_ms\": %.3f, "
      "\"decode_ms\": %.3f, \"total_ms\": %.3f, \"tokens\": %d}\n",
      tower - begin, pixels - begin, tower - pixels, prefill - tower, end - prefill, end - begin,
      tokens);
  std::fflush(stdout);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  int max_tokens = 512;
  if (argc < 2 || argc > 4 ||
      (argc == 4 && (!absl::SimpleAtoi(argv[3], &max_tokens) || max_tokens < 1))) {
    std::fprintf(stderr, "in_process MODEL_DIR [DEVICE [MAX_TOKENS]] < lines of PATH<TAB>PROMPT\n");
    return 2;
  }
  absl::StatusOr<Engine> engine = Load(argv[1], argc > 2 ? argv[2] : "auto");
  absl::Status status = engine.status();
  for (std::string line; status.ok() && std::getline(std::cin, line);) {
    const size_t tab = line.find('\t');
    if (tab == std::string::npos) continue;
    status = Answer(*engine, line.substr(0, tab), line.substr(tab + 1), max_tokens);
  }
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace chord

int main(int argc, char** argv) { return chord::Main(argc, argv); }
