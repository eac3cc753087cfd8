#include "services/cli/inspect/inspect.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <numeric>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "common/base/checked_math.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/device.h"
#include "common/engine/language_model.h"
#include "common/engine/sampler.h"
#include "common/engine/vision_tower.h"
#include "common/engine/weight_values.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/image/preprocess.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"
#include "common/model/prompt.h"
#include "common/model/tensor_names.h"
#include "common/model/tokenizer.h"
#include "common/text/utf8.h"

namespace chord::cli {
namespace {

using engine::LanguageModel;
using model::DType;
using Stage = InspectOptions::Stage;

// The images of a prompt as the vision tower takes them.
struct Images {
  std::vector<float> patches;
  int64_t patch_values = 0;  // floats of one patch
  std::vector<image::Grid> grids;
};

// The tensors of the result; owns their bytes.
class ResultFile {
 public:
  template <typename T>
  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape,
           const std::vector<T>& values) {
    const auto* data = reinterpret_cast<const std::byte*>(values.data());
    bytes_.emplace_back(data, data + values.size() * sizeof(T));
    tensors_.push_back({name, dtype, std::move(shape), {}});
  }
  absl::Status Write(const std::string& path) {
    for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].data = bytes_[i];
    return model::WriteSafetensors(path, tensors_);
  }

 private:
  std::vector<std::vector<std::byte>> bytes_;
  std::vector<model::NamedTensor> tensors_;
};

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(error ? error.message() : "not a file");
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) return absl::NotFoundError("cannot be read");
  if (size > max_bytes) return errors::ImageBytesLimit(size, max_bytes);
  std::string bytes(static_cast<size_t>(size), '\0');
  file.seekg(0);
  file.read(bytes.data(), size);
  if (!file) return absl::NotFoundError("cannot be read");
  return bytes;
}

absl::StatusOr<Images> LoadImages(const std::vector<std::string>& paths,
                                  const model::ModelConfig& config) {
  const image::Limits limits = image::Limits::ForTools();
  const image::PatchGeometry& geometry = config.geometry;
  Images images;
  images.patch_values = int64_t{config.vision.in_channels} * geometry.temporal_patch_size *
                        geometry.patch_size * geometry.patch_size;
  for (const std::string& path : paths) {
    const auto load = [&]() -> absl::Status {
      CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, limits.max_bytes));
      CHORD_ASSIGN_OR_RETURN(const image::Header header, image::Probe(bytes, limits));
      CHORD_ASSIGN_OR_RETURN(
          const image::FramePlan plan,
          image::PlanFrame(header, geometry, std::numeric_limits<int64_t>::max()));
      image::DecodeOptions decode;
      decode.limits = limits;
      CHORD_ASSIGN_OR_RETURN(image::RgbImage image, image::Decode(bytes, decode));
      image = image::Resize(image, plan.resized, image::ResizeMode::kTorch);
      const size_t begin = images.patches.size();
      const int64_t count = plan.grid.patches() * images.patch_values;
      images.patches.resize(begin + count);
      CHORD_RETURN_IF_ERROR(image::Patchify(image, geometry, config.normalization,
                                            image::ResizeMode::kTorch,
                                            absl::MakeSpan(images.patches).subspan(begin)));
      images.grids.push_back(plan.grid);
      return absl::OkStatus();
    };
    if (absl::Status status = load(); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
    }
  }
  return images;
}

// One sequence in a model of its own.
class Sequence {
 public:
  static absl::StatusOr<std::unique_ptr<Sequence>> Open(
      std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
      const engine::Device& device, const engine::Precision& precision, model::EncodedPrompt prompt,
      const engine::VisionTower::Output* images, int max_new_tokens) {
    const auto length = static_cast<int64_t>(prompt.ids.size());
    if (length + max_new_tokens > std::numeric_limits<int>::max()) {
      return errors::ContextLimit(length + max_new_tokens, std::numeric_limits<int>::max());
    }
    auto sequence = std::make_unique<Sequence>();
    LanguageModel::Options options;
    options.device = device;
    options.dtype = precision.compute;
    options.weights = precision.weights;
    options.max_sequence_tokens = static_cast<int>(length) + max_new_tokens;
    options.kv_tokens = options.max_sequence_tokens;
    CHORD_ASSIGN_OR_RETURN(sequence->model_,
                           LanguageModel::Load(std::move(checkpoint), config, options));
    sequence->pages_.resize(sequence->model_->kv_pages());
    std::iota(sequence->pages_.begin(), sequence->pages_.end(), 0);
    if (images != nullptr) {
      CHORD_ASSIGN_OR_RETURN(sequence->embeddings_,
                             sequence->model_->CreateEmbeddings(images->rows, images->dtype));
      CHORD_RETURN_IF_ERROR(sequence->embeddings_->Write(0, images->bytes));
    }
    sequence->prompt_ = std::move(prompt);
    return sequence;
  }

  // Logits of every token, or of the last one.
  absl::Status Prefill(bool all_logits, std::vector<float>* logits) {
    std::vector<int32_t> image_rows(prompt_.ids.size(), -1);
    int32_t next = 0;
    for (const model::ImageSpan& span : prompt_.images) {
      for (int64_t i = 0; i < span.tokens; ++i) image_rows[span.begin + i] = next++;
    }
    LanguageModel::Chunk chunk;
    chunk.pages = pages_;
    chunk.ids = prompt_.ids;
    chunk.positions = prompt_.positions;
    chunk.image_rows = image_rows;
    chunk.embeddings = embeddings_.get();
    length_ = static_cast<int>(prompt_.ids.size());
    chunk.logits = all_logits ? length_ : 1;
    return model_->Step({&chunk, 1}, logits);
  }

  absl::Status Append(int32_t id, std::vector<float>* logits) {
    const auto position = static_cast<int32_t>(length_ + prompt_.rope_delta);
    const int32_t positions[] = {position, position, position};
    LanguageModel::Chunk chunk;
    chunk.pages = pages_;
    chunk.start = length_++;
    chunk.ids = {&id, 1};
    chunk.positions = positions;
    return model_->Step({&chunk, 1}, logits);
  }

  const model::EncodedPrompt& prompt() const { return prompt_; }
  int vocab_size() const { return model_->vocab_size(); }
  int64_t packed_bytes() const { return model_->packed_bytes(); }

 private:
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<engine::EmbeddingBuffer> embeddings_;
  model::EncodedPrompt prompt_;
  std::vector<int32_t> pages_;  // all of them
  int length_ = 0;
};

// Greedy, by generation_config.json's penalty and end ids alone.
absl::StatusOr<std::vector<int64_t>> Generate(Sequence& sequence,
                                              const model::GenerationConfig& config,
                                              int max_new_tokens) {
  engine::SeenTokens seen(sequence.vocab_size());
  seen.Add(sequence.prompt().ids);
  std::vector<float> logits;
  std::vector<int64_t> tokens;
  CHORD_RETURN_IF_ERROR(sequence.Prefill(/*all_logits=*/false, &logits));
  while (true) {
    engine::ApplyRepetitionPenalty(absl::MakeSpan(logits), seen, config.repetition_penalty);
    const int32_t id = engine::Argmax(logits);
    tokens.push_back(id);
    seen.Add(id);
    const bool end = std::count(config.eos_token_ids.begin(), config.eos_token_ids.end(), id) > 0;
    if (end || static_cast<int>(tokens.size()) == max_new_tokens) return tokens;
    CHORD_RETURN_IF_ERROR(sequence.Append(id, &logits));
  }
}

std::vector<int64_t> ToInt64(absl::Span<const int32_t> values) {
  return {values.begin(), values.end()};
}

absl::StatusOr<model::EncodedPrompt> Encode(const InspectOptions& options,
                                            const model::ModelConfig& config,
                                            const std::vector<image::Grid>& grids) {
  CHORD_ASSIGN_OR_RETURN(const model::Tokenizer tokenizer,
                         model::Tokenizer::Load(options.model + "/tokenizer.json"));
  CHORD_ASSIGN_OR_RETURN(const model::ChatTemplate chat, model::LoadChatTemplate(options.model));
  model::Message message;
  message.role = "user";
  for (size_t i = 0; i < grids.size(); ++i) {
    message.parts.push_back(model::ImagePart{static_cast<int>(i)});
  }
  message.parts.push_back(options.prompt);
  return model::EncodePrompt(chat, tokenizer, config, {&message, 1}, grids);
}

void AddPixels(const Images& images, ResultFile& result) {
  std::vector<int64_t> grid_thw;
  for (const image::Grid& grid : images.grids) {
    grid_thw.insert(grid_thw.end(), {1, grid.h, grid.w});
  }
  const auto patches = static_cast<int64_t>(images.patches.size()) / images.patch_values;
  result.Add("pixel_values", DType::kFloat32, {patches, images.patch_values}, images.patches);
  result.Add("image_grid_thw", DType::kInt64, {static_cast<int64_t>(images.grids.size()), 3},
             grid_thw);
}

absl::Status AddTokens(Sequence& sequence, const model::ModelConfig& config, int max_new_tokens,
                       ResultFile& result) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<int64_t> answer,
                         Generate(sequence, config.generation, max_new_tokens));
  result.Add("tokens", DType::kInt64, {static_cast<int64_t>(answer.size())}, answer);
  return absl::OkStatus();
}

absl::Status AddLogits(Sequence& sequence, ResultFile& result) {
  const auto length = static_cast<int64_t>(sequence.prompt().ids.size());
  std::vector<float> logits;
  CHORD_RETURN_IF_ERROR(sequence.Prefill(/*all_logits=*/true, &logits));
  result.Add("position_ids", DType::kInt64, {3, length}, ToInt64(sequence.prompt().positions));
  result.Add("logits", DType::kFloat32, {length, sequence.vocab_size()}, logits);
  return absl::OkStatus();
}

// The tower's own setting, else the model's; packed only where it is asked for itself.
absl::StatusOr<engine::Precision> VisionPrecision(const InspectOptions& options,
                                                  const engine::Device& device) {
  std::string dtype = options.vision_dtype;
  if (dtype.empty()) dtype = engine::NamesWeightFormat(options.dtype) ? "fp32" : options.dtype;
  return engine::ParsePrecision(dtype, device, "");
}

absl::StatusOr<engine::VisionTower::Output> EncodeImages(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
    const InspectOptions& options, const engine::Device& device, const Images& images) {
  CHORD_ASSIGN_OR_RETURN(const engine::Precision precision, VisionPrecision(options, device));
  engine::VisionTower::Options tower_options;
  tower_options.device = device;
  tower_options.dtype = precision.compute;
  tower_options.weights = precision.weights;
  CHORD_ASSIGN_OR_RETURN(const std::unique_ptr<engine::VisionTower> tower,
                         engine::VisionTower::Load(std::move(checkpoint), config, tower_options));
  return tower->Encode(images.patches, images.grids, {});
}

// For the terminal: in what form the weights are, and what that takes.
void PrintWeights(const engine::Precision& precision, int64_t packed_bytes) {
  if (!precision.weights.packed()) return;
  std::fprintf(stderr, "weights: %s, %.1f MB packed, products by %s\n", precision.name.c_str(),
               static_cast<double>(packed_bytes) / 1e6,
               std::string(engine::PackedInstructionSet()).c_str());
}

// The decoder's linear layers, each as the values that products with it stand for.
absl::Status AddWeights(const model::Checkpoint& checkpoint, const model::ModelConfig& config,
                        const engine::Precision& precision, ResultFile* result) {
  for (const model::ExpectedTensor& tensor :
       model::ExpectedTensors(config, model::ModelPart::kLanguage)) {
    if (!tensor.may_be_quantized) continue;
    const int64_t out = tensor.shape[0], in = tensor.shape[1];
    CHORD_ASSIGN_OR_RETURN(
        const std::vector<float> values,
        engine::LinearWeights(checkpoint, config.quantization, precision.weights,
                              std::string(absl::StripSuffix(tensor.name, ".weight")), out, in));
    result->Add(tensor.name, DType::kFloat32, {out, in}, values);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Inspect(const InspectOptions& options) {
  if (!text::IsUtf8(options.prompt)) return errors::PromptNotUtf8();
  CHORD_RETURN_IF_ERROR(engine::InitEngine(options.threads));
  CHORD_ASSIGN_OR_RETURN(const engine::Device device, engine::ParseDevice(options.device));
  CHORD_ASSIGN_OR_RETURN(const engine::Precision precision,
                         engine::ParsePrecision(options.dtype, device, ""));
  CHORD_ASSIGN_OR_RETURN(const model::ModelConfig config, model::LoadModelConfig(options.model));
  const bool text = options.stage == Stage::kLogits || options.stage == Stage::kTokens;
  if (options.images.empty() && !text && options.stage != Stage::kWeights) {
    return absl::InvalidArgumentError("stages pixels and embeddings need at least one --image");
  }
  CHORD_ASSIGN_OR_RETURN(Images images, LoadImages(options.images, config));

  ResultFile result;
  if (options.stage == Stage::kPixels) {
    AddPixels(images, result);
    return result.Write(options.out);
  }

  CHORD_ASSIGN_OR_RETURN(const std::shared_ptr<const model::Checkpoint> checkpoint,
                         model::Checkpoint::Open(options.model));
  if (options.stage == Stage::kWeights) {
    CHORD_RETURN_IF_ERROR(AddWeights(*checkpoint, config, precision, &result));
    return result.Write(options.out);
  }
  engine::VisionTower::Output embeddings;
  if (!images.grids.empty()) {
    CHORD_ASSIGN_OR_RETURN(embeddings, EncodeImages(checkpoint, config, options, device, images));
    images.patches = {};
  }
  if (options.stage == Stage::kEmbeddings) {
    result.Add("image_embeds", DType::kFloat32, {embeddings.rows, embeddings.width},
               engine::Widen(embeddings.dtype, embeddings.bytes));
    return result.Write(options.out);
  }

  CHORD_ASSIGN_OR_RETURN(model::EncodedPrompt prompt, Encode(options, config, images.grids));
  const bool tokens = options.stage == Stage::kTokens;
  CHORD_ASSIGN_OR_RETURN(const std::unique_ptr<Sequence> sequence,
                         Sequence::Open(checkpoint, config, device, precision, std::move(prompt),
                                        images.grids.empty() ? nullptr : &embeddings,
                                        tokens ? options.max_new_tokens : 0));
  PrintWeights(precision, sequence->packed_bytes());
  const std::vector<int32_t>& ids = sequence->prompt().ids;
  result.Add("input_ids", DType::kInt64, {static_cast<int64_t>(ids.size())}, ToInt64(ids));
  CHORD_RETURN_IF_ERROR(tokens ? AddTokens(*sequence, config, options.max_new_tokens, result)
                               : AddLogits(*sequence, result));
  return result.Write(options.out);
}

}  // namespace chord::cli
