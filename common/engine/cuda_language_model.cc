#include "common/engine/cuda_language_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/cuda/decoder_api.h"
#include "common/engine/cuda_plugin.h"
#include "common/engine/rope.h"
#include "common/engine/step_check.h"
#include "common/engine/torch/torch_guard.h"

namespace chord::engine {
namespace {

using model::DType;

absl::StatusOr<cuda::Dtype> ToCuda(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return cuda::Dtype::kFloat32;
    case DType::kBFloat16:
      return cuda::Dtype::kBFloat16;
    case DType::kFloat16:
      return cuda::Dtype::kFloat16;
    default:
      return errors::DeviceUnavailable("the CUDA kernels compute in bf16 and fp16");
  }
}

// Embeddings of one image in device memory.
class CudaEmbeddings final : public EmbeddingBuffer {
 public:
  CudaEmbeddings(std::unique_ptr<cuda::EmbeddingRows> memory, int64_t rows, int64_t width,
                 DType source_dtype, DType dtype)
      : memory_(std::move(memory)),
        rows_(rows),
        width_(width),
        source_dtype_(source_dtype),
        dtype_(dtype) {}

  absl::Status Write(int64_t offset, absl::Span<const std::byte> data) override {
    CHORD_RETURN_IF_ERROR(status_);
    status_ = TryWrite(offset, data);
    return status_;
  }
  int64_t rows() const override { return rows_; }

  const void* data() const { return memory_->data(); }
  const absl::Status& status() const { return status_; }  // not OK once a Write has failed

 private:
  absl::Status TryWrite(int64_t offset, absl::Span<const std::byte> data) {
    const int64_t size = model::SizeOf(source_dtype_), total = rows_ * width_ * size;
    const auto bytes = static_cast<int64_t>(data.size());
    if (offset < 0 || offset > total || bytes > total - offset || offset % size != 0 ||
        bytes % size != 0) {
      return errors::EmbeddingMismatch("bytes");
    }
    const int64_t first = offset / size, count = bytes / size;
    if (source_dtype_ == dtype_) {
      if (!AllFinite(data)) return errors::EmbeddingNotFinite();
      CHORD_ASSIGN_OR_RETURN(const cuda::Dtype dtype, ToCuda(dtype_));
      return FromCuda(memory_->Write(first, data.data(), dtype, count));
    }
    const std::vector<float> wide = Widen(source_dtype_, data);
    const float largest = dtype_ == DType::kFloat16 ? 65'504.0f : 0x1.FEp+127f;
    const bool finite = std::all_of(wide.begin(), wide.end(), [largest](float value) {
      return std::abs(value) <= largest;  // false for NaN
    });
    if (!finite) return errors::EmbeddingNotFinite();
    return FromCuda(memory_->Write(first, wide.data(), cuda::Dtype::kFloat32, count));
  }

  // Of elements of the compute dtype: none has an exponent of ones.
  bool AllFinite(absl::Span<const std::byte> data) const {
    const uint16_t exponent = dtype_ == DType::kFloat16 ? 0x7c00 : 0x7f80;
    bool finite = true;
    for (size_t i = 0; i < data.size(); i += sizeof(uint16_t)) {
      uint16_t bits;
      std::memcpy(&bits, data.data() + i, sizeof(bits));
      finite &= (bits & exponent) != exponent;
    }
    return finite;
  }

  const std::unique_ptr<cuda::EmbeddingRows> memory_;
  const int64_t rows_;
  const int64_t width_;
  const DType source_dtype_;
  const DType dtype_;  // the compute dtype
  absl::Status status_;
};

// The tensors of a checkpoint as the plugin takes them.
class TensorReader {
 public:
  explicit TensorReader(const model::Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  absl::Status Read(const std::string& name, std::vector<int64_t> shape, cuda::Tensor* out) const {
    CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor, checkpoint_.Get(name, shape));
    CHORD_ASSIGN_OR_RETURN(out->dtype, ToCuda(tensor.dtype));
    out->data = tensor.data;
    return absl::OkStatus();
  }

  absl::Status ReadLayer(int index, const model::TextConfig& c, cuda::LayerTensors* out) const {
    const std::string name = absl::StrCat("model.layers.", index, ".");
    const int64_t width = c.hidden_size, inner = c.intermediate_size;
    const int64_t q = int64_t{c.num_attention_heads} * c.head_dim;
    const int64_t kv = int64_t{c.num_key_value_heads} * c.head_dim;
    const struct {
      const char* name;
      std::vector<int64_t> shape;
      cuda::Tensor* out;
    } tensors[] = {
        {"input_layernorm.weight", {width}, &out->input_norm},
        {"post_attention_layernorm.weight", {width}, &out->post_norm},
        {"self_attn.q_proj.weight", {q, width}, &out->q_weight},
        {"self_attn.k_proj.weight", {kv, width}, &out->k_weight},
        {"self_attn.v_proj.weight", {kv, width}, &out->v_weight},
        {"self_attn.q_proj.bias", {q}, &out->q_bias},
        {"self_attn.k_proj.bias", {kv}, &out->k_bias},
        {"self_attn.v_proj.bias", {kv}, &out->v_bias},
        {"self_attn.o_proj.weight", {width, q}, &out->o_weight},
        {"mlp.gate_proj.weight", {inner, width}, &out->gate_weight},
        {"mlp.up_proj.weight", {inner, width}, &out->up_weight},
        {"mlp.down_proj.weight", {width, inner}, &out->down_weight},
    };
    for (const auto& tensor : tensors) {
      CHORD_RETURN_IF_ERROR(Read(name + tensor.name, tensor.shape, tensor.out));
    }
    return absl::OkStatus();
  }

 private:
  const model::Checkpoint& checkpoint_;
};

class CudaLanguageModel final : public LanguageModel {
 public:
  CudaLanguageModel(const model::TextConfig& config, const Options& options, int kv_pages)
      : config_(config),
        options_(options),
        kv_pages_(kv_pages),
        checker_({options.max_sequence_tokens, kv_pages, config.vocab_size}) {}

  absl::Status Load(const model::Checkpoint& checkpoint, const cuda::Api& api) {
    CHORD_RETURN_IF_ERROR(CreateDecoder(api));
    const TensorReader reader(checkpoint);
    cuda::DecoderTensors tensors;
    const std::vector<int64_t> table = {config_.vocab_size, config_.hidden_size};
    CHORD_RETURN_IF_ERROR(
        reader.Read(model::EmbeddingTensor(checkpoint, config_), table, &tensors.embedding));
    CHORD_RETURN_IF_ERROR(
        reader.Read(model::HeadTensor(checkpoint, config_), table, &tensors.head));
    CHORD_RETURN_IF_ERROR(
        reader.Read("model.norm.weight", {config_.hidden_size}, &tensors.final_norm));
    std::vector<cuda::LayerTensors> layers(config_.num_hidden_layers);
    for (int i = 0; i < config_.num_hidden_layers; ++i) {
      CHORD_RETURN_IF_ERROR(reader.ReadLayer(i, config_, &layers[i]));
    }
    tensors.layers = layers.data();
    CHORD_RETURN_IF_ERROR(FromCuda(decoder_->Load(tensors, CpuThreads().threads())));
    return FromCuda(decoder_->WarmUp());
  }

  absl::StatusOr<std::unique_ptr<EmbeddingBuffer>> CreateEmbeddings(int64_t rows,
                                                                    DType source_dtype) override {
    if (rows < 0 || rows > options_.max_sequence_tokens) {
      return errors::ContextLimit(rows, options_.max_sequence_tokens);
    }
    if (source_dtype != DType::kFloat32 && source_dtype != DType::kBFloat16 &&
        source_dtype != DType::kFloat16) {
      return errors::EmbeddingMismatch("dtype");
    }
    cuda::EmbeddingRows* memory = nullptr;
    CHORD_RETURN_IF_ERROR(FromCuda(decoder_->CreateEmbeddings(rows, &memory)));
    return std::make_unique<CudaEmbeddings>(std::unique_ptr<cuda::EmbeddingRows>(memory), rows,
                                            config_.hidden_size, source_dtype, options_.dtype);
  }

  absl::Status Step(absl::Span<const Chunk> chunks, std::vector<float>* logits) override {
    CHORD_ASSIGN_OR_RETURN(const int64_t rows, Translate(chunks));
    logits->resize(rows * config_.vocab_size);
    return FromCuda(
        decoder_->Step(chunks_.data(), static_cast<int>(chunks_.size()), logits->data()));
  }

  absl::Status StepAndSample(absl::Span<const Chunk> chunks, absl::Span<const SampleSpec> specs,
                             std::vector<SampledToken>* tokens) override {
    if (!FitsDevice(specs)) return LanguageModel::StepAndSample(chunks, specs, tokens);
    CHORD_ASSIGN_OR_RETURN(const int64_t rows, Translate(chunks));
    if (rows != static_cast<int64_t>(specs.size())) {
      return absl::InvalidArgumentError("one sample spec is needed for each row of logits");
    }
    TranslateSpecs(specs);
    outcomes_.resize(specs.size());
    CHORD_RETURN_IF_ERROR(FromCuda(decoder_->StepAndSample(
        chunks_.data(), static_cast<int>(chunks_.size()), requests_.data(), outcomes_.data())));
    tokens->resize(specs.size());
    for (size_t i = 0; i < specs.size(); ++i) {
      const cuda::SampleOutcome& from = outcomes_[i];
      const auto masses = from.id < 0 ? 0 : specs[i].mass_sets.size();
      (*tokens)[i] = {from.id,
                      from.finite,
                      from.log_probability,
                      std::vector<double>(from.log_mass, from.log_mass + masses),
                      {}};
    }
    return absl::OkStatus();
  }

  absl::Status CopyPage(int32_t from, int32_t to, int rows) override {
    CHORD_RETURN_IF_ERROR(CheckCopyPage(from, to, rows, kv_pages_));
    if (from == to || rows == 0) return absl::OkStatus();
    return FromCuda(decoder_->CopyPage(from, to, rows));
  }

  int kv_pages() const override { return kv_pages_; }
  int vocab_size() const override { return config_.vocab_size; }
  const Options& options() const override { return options_; }
  int64_t kv_bytes() const override { return decoder_->kv_bytes(); }

 private:
  absl::Status CreateDecoder(const cuda::Api& api) {
    const RopeTable rope = MakeRopeTable(config_.rope_theta, config_.head_dim,
                                         options_.max_sequence_tokens, options_.dtype);
    const std::vector<int> axes = RopeAxes(config_.mrope_section);
    cuda::DecoderOptions o;
    o.device = options_.device.index;
    CHORD_ASSIGN_OR_RETURN(o.dtype, ToCuda(options_.dtype));
    o.layers = config_.num_hidden_layers, o.hidden = config_.hidden_size;
    o.intermediate = config_.intermediate_size, o.heads = config_.num_attention_heads;
    o.kv_heads = config_.num_key_value_heads, o.head_dim = config_.head_dim;
    o.vocab = config_.vocab_size, o.rms_norm_eps = config_.rms_norm_eps;
    o.kv_pages = kv_pages_, o.kv_int8 = options_.kv_type == KvType::kInt8;
    o.rope_cos = rope.cos.data(), o.rope_sin = rope.sin.data(), o.rope_axes = axes.data();
    o.rope_positions = static_cast<int>(rope.positions);
    cuda::Decoder* decoder = nullptr;
    CHORD_RETURN_IF_ERROR(FromCuda(api.create_decoder(o, &decoder)));
    decoder_.reset(decoder);
    return absl::OkStatus();
  }

  // Checks the chunks and lays them out in chunks_; returns the rows of logits that they want.
  absl::StatusOr<int64_t> Translate(absl::Span<const Chunk> chunks) {
    CHORD_RETURN_IF_ERROR(checker_.Check(chunks));
    chunks_.clear();
    int64_t rows = 0;
    for (const Chunk& chunk : chunks) {
      cuda::StepChunk out;
      out.pages = chunk.pages.data(), out.start = chunk.start;
      out.count = static_cast<int>(chunk.ids.size()), out.ids = chunk.ids.data();
      out.positions = chunk.positions.data(), out.logits = chunk.logits;
      if (const auto* embeddings = static_cast<const CudaEmbeddings*>(chunk.embeddings)) {
        CHORD_RETURN_IF_ERROR(embeddings->status());
        out.embeddings = embeddings->data();
        if (!chunk.image_rows.empty()) out.image_rows = chunk.image_rows.data();
      }
      chunks_.push_back(out);
      rows += chunk.logits;
    }
    return rows;
  }

  // Drawing with a temperature, the most probable ids, and what the device's buffers do not hold
  // are left to the host.
  bool FitsDevice(absl::Span<const SampleSpec> specs) const {
    const size_t penalized = std::min(options_.max_sequence_tokens, config_.vocab_size);
    return std::all_of(specs.begin(), specs.end(), [penalized](const SampleSpec& spec) {
      return spec.mass_sets.size() <= cuda::kMaxSampleSets && spec.penalized.size() <= penalized &&
             !NeedsHost(spec);
    });
  }

  void TranslateSpecs(absl::Span<const SampleSpec> specs) {
    size_t sets = 0;
    for (const SampleSpec& spec : specs) sets += spec.mass_sets.size();
    requests_.clear();
    mass_sets_.clear();
    mass_sets_.reserve(sets);  // the requests point into it
    const auto bits = [](IdSet set) {
      return cuda::IdBits{set.data(), static_cast<int>(set.size())};
    };
    for (const SampleSpec& spec : specs) {
      cuda::SampleRequest out;
      out.restricted = !spec.allowed.empty(), out.allowed = bits(spec.allowed);
      out.penalized = spec.penalized.data();
      out.penalized_count = static_cast<int>(spec.penalized.size());
      out.penalty = spec.repetition_penalty;
      out.mass_sets = mass_sets_.data() + mass_sets_.size();
      out.mass_set_count = static_cast<int>(spec.mass_sets.size());
      for (const IdSet& set : spec.mass_sets) mass_sets_.push_back(bits(set));
      requests_.push_back(out);
    }
  }

  const model::TextConfig config_;
  const Options options_;
  const int kv_pages_;
  StepChecker checker_;
  std::unique_ptr<cuda::Decoder> decoder_;
  // Of the step that runs; kept for their memory.
  std::vector<cuda::StepChunk> chunks_;
  std::vector<cuda::SampleRequest> requests_;
  std::vector<cuda::IdBits> mass_sets_;
  std::vector<cuda::SampleOutcome> outcomes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadCudaLanguageModel(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::TextConfig& config,
    const LanguageModel::Options& options) {
  CHORD_ASSIGN_OR_RETURN(const cuda::Api* api, LoadCudaPlugin());
  return Guard([&]() -> absl::StatusOr<std::unique_ptr<LanguageModel>> {
    const int pages = (options.kv_tokens + kKvPageTokens - 1) / kKvPageTokens;
    auto model = std::make_unique<CudaLanguageModel>(config, options, pages);
    CHORD_RETURN_IF_ERROR(model->Load(*checkpoint, *api));
    return model;
  });
}

}  // namespace chord::engine
