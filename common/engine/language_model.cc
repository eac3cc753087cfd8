#include "common/engine/language_model.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/backend.h"
#include "common/engine/cpu/cpu_backend.h"
#include "common/engine/cuda_language_model.h"
#include "common/engine/embedding_buffer.h"
#include "common/engine/packed/packed_cache.h"
#include "common/engine/rope.h"
#include "common/engine/step_check.h"
#include "common/engine/torch/torch_guard.h"
#include "common/engine/weights.h"

namespace chord::engine {
namespace {

using model::DType;

// Rows that go through the MLP or the head at once; bounds their intermediate results.
constexpr int64_t kMlpChunk = 2'048;
constexpr int64_t kHeadChunk = 64;

struct Layer {
  Mat input_norm, post_norm;
  LinearLayer q, k, v, o, gate, up, down;
  KvCache kv;
};

absl::Status CheckConfig(const model::TextConfig& c) {
  const auto invalid = [](absl::string_view what) {
    return errors::CheckpointInvalid(absl::StrCat("text config: ", what));
  };
  if (c.hidden_size < 1 || c.num_hidden_layers < 1 || c.num_attention_heads < 1 ||
      c.num_key_value_heads < 1 || c.head_dim < 2 || c.intermediate_size < 1 || c.vocab_size < 1) {
    return invalid("every size must be positive");
  }
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    return invalid("num_attention_heads must be a multiple of num_key_value_heads");
  }
  int64_t sections = 0;
  for (int section : c.mrope_section) sections += section;
  if (c.head_dim % 2 != 0 || sections != c.head_dim / 2) {
    return invalid("mrope_section must sum to head_dim / 2");
  }
  if (c.head_dim > kMaxHeadDim || c.hidden_size > kMaxWidth || c.intermediate_size > kMaxWidth ||
      int64_t{c.num_attention_heads} * c.head_dim > kMaxWidth ||
      c.num_attention_heads / c.num_key_value_heads > kMaxQueryGroup) {
    return invalid("wider than this engine takes");
  }
  return absl::OkStatus();
}

class LanguageModelImpl final : public LanguageModel {
 public:
  LanguageModelImpl(std::shared_ptr<const model::Checkpoint> checkpoint,
                    const model::ModelConfig& model, const Options& options)
      : checkpoint_(std::move(checkpoint)),
        config_(model.text),
        quantization_(model.quantization),
        options_(options),
        backend_(Backend::Create(options.device, options.dtype)),
        heads_{config_.num_attention_heads, config_.num_key_value_heads, config_.head_dim},
        kv_pages_((options.kv_tokens + kKvPageTokens - 1) / kKvPageTokens),
        rope_(MakeRopeTable(config_.rope_theta, config_.head_dim, options.max_sequence_tokens,
                            options.dtype)),
        axes_(RopeAxes(config_.mrope_section)),
        checker_({options.max_sequence_tokens, kv_pages_, config_.vocab_size}) {}

  absl::Status LoadWeights() {
    const model::TextConfig& c = config_;
    const int64_t width = c.hidden_size, inner = c.intermediate_size;
    const int64_t q_width = heads_.query * heads_.dim, kv_width = heads_.kv * heads_.dim;
    // Only what is packed is kept.
    const bool packs = options_.weights.packed() || quantization_.has_value();
    PackedCache cache(packs ? options_.packed_cache : PackedCacheOptions{}, *checkpoint_,
                      "language", options_.weights);
    WeightReader reader(*checkpoint_, *backend_, {options_.weights, quantization_, &cache});
    const std::string embedding = model::EmbeddingTensor(*checkpoint_, c);
    const std::string head = model::HeadTensor(*checkpoint_, c);
    const bool shared = head == embedding && !packs;  // by the head, which multiplies with it
    if (shared) {
      CHORD_ASSIGN_OR_RETURN(embed_, reader.Matrix(embedding, {c.vocab_size, width}));
    } else {
      CHORD_ASSIGN_OR_RETURN(embed_, reader.Table(embedding, c.vocab_size, width));
    }
    for (int i = 0; i < c.num_hidden_layers; ++i) {
      const std::string name = absl::StrCat("model.layers.", i, ".");
      Layer l;
      CHORD_ASSIGN_OR_RETURN(l.input_norm, reader.Vector(name + "input_layernorm.weight", width));
      CHORD_ASSIGN_OR_RETURN(l.post_norm,
                             reader.Vector(name + "post_attention_layernorm.weight", width));
      CHORD_ASSIGN_OR_RETURN(l.q, reader.Linear(name + "self_attn.q_proj", q_width, width, true));
      CHORD_ASSIGN_OR_RETURN(l.k, reader.Linear(name + "self_attn.k_proj", kv_width, width, true));
      CHORD_ASSIGN_OR_RETURN(l.v, reader.Linear(name + "self_attn.v_proj", kv_width, width, true));
      CHORD_ASSIGN_OR_RETURN(l.o, reader.Linear(name + "self_attn.o_proj", width, q_width, false));
      CHORD_ASSIGN_OR_RETURN(l.gate, reader.Linear(name + "mlp.gate_proj", inner, width, false));
      CHORD_ASSIGN_OR_RETURN(l.up, reader.Linear(name + "mlp.up_proj", inner, width, false));
      CHORD_ASSIGN_OR_RETURN(l.down, reader.Linear(name + "mlp.down_proj", width, inner, false));
      l.kv = backend_->AllocateKv(kv_pages_, heads_, options_.kv_type);
      layers_.push_back(l);
    }
    CHORD_ASSIGN_OR_RETURN(final_norm_, reader.Vector("model.norm.weight", width));
    if (shared) {
      head_.weight = embed_;
    } else {
      CHORD_ASSIGN_OR_RETURN(head_, reader.Head(head, c.vocab_size, width, packs));
    }
    packed_bytes_ = reader.packed_bytes();
    if (const absl::Status kept = cache.Save(); !kept.ok() && options_.on_cache_failure) {
      options_.on_cache_failure(kept);
    }
    Backend* backend = backend_.get();
    for (Rows* rows : {&all_, &asked_}) {
      rows->hidden = Workspace(backend, width);
      rows->normed = Workspace(backend, width);
      rows->cos = Workspace(backend, heads_.dim / 2, DType::kFloat32);
      rows->sin = Workspace(backend, heads_.dim / 2, DType::kFloat32);
    }
    q_ = Workspace(backend, q_width);
    k_ = Workspace(backend, kv_width);
    v_ = Workspace(backend, kv_width);
    attended_ = Workspace(backend, q_width);
    inner_ = Workspace(backend, inner);
    logits_ = Workspace(backend, c.vocab_size);
    return absl::OkStatus();
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
    return Guard([&]() -> absl::StatusOr<std::unique_ptr<EmbeddingBuffer>> {
      return std::make_unique<DeviceEmbeddings>(backend_, rows, config_.hidden_size, source_dtype);
    });
  }

  absl::Status Step(absl::Span<const Chunk> chunks, std::vector<float>* logits) override {
    CHORD_RETURN_IF_ERROR(Check(chunks));
    return Guard([&]() -> absl::Status {
      Run(chunks, logits);
      return absl::OkStatus();
    });
  }

  absl::Status CopyPage(int32_t from, int32_t to, int rows) override {
    CHORD_RETURN_IF_ERROR(CheckCopyPage(from, to, rows, kv_pages_));
    if (from == to || rows == 0) return absl::OkStatus();
    return Guard([&]() -> absl::Status {
      for (const Layer& layer : layers_) backend_->CopyKvPage(layer.kv, from, to, rows);
      return absl::OkStatus();
    });
  }

  int kv_pages() const override { return kv_pages_; }
  int vocab_size() const override { return config_.vocab_size; }
  const Options& options() const override { return options_; }
  int64_t kv_bytes() const override {
    return static_cast<int64_t>(layers_.size()) *
           backend_->KvBytes(kv_pages_, heads_, options_.kv_type);
  }
  int64_t packed_bytes() const override { return packed_bytes_; }

 private:
  // Rows on their way through the layers: all tokens of the step, or the asked ones alone.
  struct Rows {
    Workspace hidden, normed, cos, sin;
  };

  absl::Status Check(absl::Span<const Chunk> chunks) {
    CHORD_RETURN_IF_ERROR(checker_.Check(chunks));
    for (const Chunk& chunk : chunks) {
      const auto* embeddings = static_cast<const DeviceEmbeddings*>(chunk.embeddings);
      if (embeddings != nullptr) CHORD_RETURN_IF_ERROR(embeddings->status());
    }
    return absl::OkStatus();
  }

  void Run(absl::Span<const Chunk> chunks, std::vector<float>* logits) {
    const int64_t n = Plan(chunks);
    const int64_t asked = static_cast<int64_t>(asked_rows_.size());
    logits->resize(asked * config_.vocab_size);
    if (n == 0) return;

    Mat hidden = all_.hidden.Take(n), normed = all_.normed.Take(n);
    Mat cos = all_.cos.Take(n), sin = all_.sin.Take(n);
    backend_->Upload(host_cos_.data(), cos.cols, {}, cos);
    backend_->Upload(host_sin_.data(), sin.cols, {}, sin);
    Embed(chunks, hidden);
    absl::Span<const QueryRun> runs = runs_;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      backend_->RmsNorm(hidden, layer.input_norm, config_.rms_norm_eps, normed);
      const Mat k = k_.Take(n), v = v_.Take(n);
      // The last layer's keys and values are wanted of every token, the rest of it only of those
      // whose logits are.
      const bool last = i + 1 == layers_.size() && asked < n;
      if (last) {
        const Backend::LinearJob jobs[] = {{&layer.k, k}, {&layer.v, v}};
        backend_->Linear(normed, jobs, /*add=*/false);
      } else {
        const Backend::LinearJob jobs[] = {{&layer.q, q_.Take(n)}, {&layer.k, k}, {&layer.v, v}};
        backend_->Linear(normed, jobs, /*add=*/false);
      }
      backend_->Rotate(k, heads_.kv, cos, sin, /*round_each=*/true);
      backend_->StoreKv(k, v, kv_rows_, layer.kv);
      if (last) {
        if (asked == 0) return;
        hidden = Asked(hidden, &asked_.hidden);
        normed = Asked(normed, &asked_.normed);
        cos = Asked(cos, &asked_.cos);
        sin = Asked(sin, &asked_.sin);
        runs = asked_runs_;
        backend_->Linear(normed, layer.q, q_.Take(asked));
      }
      const Mat q = q_.Take(hidden.rows), attended = attended_.Take(hidden.rows);
      backend_->Rotate(q, heads_.query, cos, sin, /*round_each=*/true);
      backend_->CachedAttention(q, layer.kv, runs, attended);
      backend_->LinearAdd(attended, layer.o, hidden);
      backend_->RmsNorm(hidden, layer.post_norm, config_.rms_norm_eps, normed);
      for (int64_t begin = 0; begin < hidden.rows; begin += kMlpChunk) {
        const int64_t rows = std::min(kMlpChunk, hidden.rows - begin);
        const Mat inner = inner_.Take(rows);
        backend_->GatedLinear(normed.Rows(begin, rows), layer.gate, layer.up, inner);
        backend_->LinearAdd(inner, layer.down, hidden.Rows(begin, rows));
      }
    }
    backend_->RmsNorm(hidden, final_norm_, config_.rms_norm_eps, normed);
    for (int64_t begin = 0; begin < asked; begin += kHeadChunk) {
      const int64_t rows = std::min(kHeadChunk, asked - begin);
      const Mat out = logits_.Take(rows);
      backend_->Linear(normed.Rows(begin, rows), head_, out);
      backend_->DownloadFloat(out, logits->data() + begin * config_.vocab_size);
    }
  }

  // Lays the chunks' tokens one after another; returns how many there are.
  int64_t Plan(absl::Span<const Chunk> chunks) {
    runs_.clear();
    asked_runs_.clear();
    asked_rows_.clear();
    kv_rows_.clear();
    int64_t total = 0;
    for (const Chunk& chunk : chunks) total += chunk.ids.size();
    host_cos_.resize(total * rope_.freqs);
    host_sin_.resize(total * rope_.freqs);
    int64_t begin = 0;
    for (const Chunk& chunk : chunks) {
      const int64_t n = chunk.ids.size();
      AssembleMrope(rope_, axes_, chunk.positions, n, host_cos_.data() + begin * rope_.freqs,
                    host_sin_.data() + begin * rope_.freqs);
      runs_.push_back({begin, n, chunk.start, chunk.pages});
      for (int64_t row = chunk.start; row < chunk.start + n; ++row) {
        kv_rows_.push_back(static_cast<int32_t>(
            int64_t{chunk.pages[row / kKvPageTokens]} * kKvPageTokens + row % kKvPageTokens));
      }
      const int64_t first = n - chunk.logits;
      if (first < n) {
        asked_runs_.push_back({static_cast<int64_t>(asked_rows_.size()), n - first,
                               chunk.start + first, chunk.pages});
      }
      for (int64_t i = first; i < n; ++i) asked_rows_.push_back(static_cast<int32_t>(begin + i));
      begin += n;
    }
    return total;
  }

  void Embed(absl::Span<const Chunk> chunks, const Mat& hidden) {
    int64_t begin = 0;
    for (const Chunk& chunk : chunks) {
      const int64_t n = chunk.ids.size();
      const Mat out = hidden.Rows(begin, n);
      if (chunk.image_rows.empty()) {
        backend_->GatherRows(embed_, chunk.ids, out);
      } else {
        text_rows_.assign(chunk.ids.begin(), chunk.ids.end());
        for (int64_t i = 0; i < n; ++i) {
          if (chunk.image_rows[i] >= 0) text_rows_[i] = -1;
        }
        backend_->GatherRows(embed_, text_rows_, out);
        if (chunk.embeddings != nullptr) {
          const auto* embeddings = static_cast<const DeviceEmbeddings*>(chunk.embeddings);
          backend_->GatherRows(embeddings->mat(), chunk.image_rows, out);
        }
      }
      begin += n;
    }
  }

  Mat Asked(const Mat& all, Workspace* workspace) {
    const Mat out = workspace->Take(asked_rows_.size());
    backend_->GatherRows(all, asked_rows_, out);
    return out;
  }

  const std::shared_ptr<const model::Checkpoint> checkpoint_;  // its mapping holds the weights
  const model::TextConfig config_;
  const std::optional<model::Quantization> quantization_;
  const Options options_;
  const std::shared_ptr<Backend> backend_;  // shared with the embedding buffers
  const AttentionHeads heads_;
  const int kv_pages_;
  const RopeTable rope_;
  const std::vector<int> axes_;
  StepChecker checker_;
  Mat embed_, final_norm_;
  LinearLayer head_;
  int64_t packed_bytes_ = 0;
  std::vector<Layer> layers_;
  Rows all_, asked_;
  Workspace q_, k_, v_, attended_, inner_, logits_;
  // Of the step that runs; kept for their memory.
  std::vector<QueryRun> runs_, asked_runs_;
  std::vector<int32_t> kv_rows_, asked_rows_, text_rows_;
  std::vector<float> host_cos_, host_sin_;
};

}  // namespace

namespace {

// Chord's own kernels compute in two-byte types; float32 is the reference's.
bool UsesOwnKernels(const LanguageModel::Options& options) {
  return options.device.kind == Device::Kind::kCuda && options.dtype != DType::kFloat32 &&
         (options.attention == Attention::kAuto || options.attention == Attention::kFlash);
}

}  // namespace

absl::Status LanguageModel::StepAndSample(absl::Span<const Chunk> chunks,
                                          absl::Span<const SampleSpec> specs,
                                          std::vector<SampledToken>* tokens) {
  CHORD_RETURN_IF_ERROR(Step(chunks, &logits_));
  const size_t vocab = vocab_size();
  if (logits_.size() != specs.size() * vocab) {
    return absl::InvalidArgumentError("one sample spec is needed for each row of logits");
  }
  tokens->assign(specs.size(), SampledToken());
  size_t row = 0;
  for (const Chunk& chunk : chunks) {
    bool wanted = true;
    for (int i = 0; i < chunk.logits; ++i, ++row) {
      const SampleSpec& spec = specs[row];
      if (!wanted || !spec.read) continue;
      SampledToken& token = (*tokens)[row];
      token = SampleToken(absl::MakeConstSpan(logits_).subspan(row * vocab, vocab), spec);
      wanted = spec.expected < 0 || token.id == spec.expected;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LanguageModel::Load(
    std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
    const Options& options) {
  CHORD_RETURN_IF_ERROR(CheckConfig(config.text));
  constexpr int kMaxKvTokens = 1 << 30;        // KV rows are int32
  constexpr int kMaxSequenceTokens = 1 << 20;  // angles of every position are tabulated
  if (options.kv_tokens < 1 || options.kv_tokens > kMaxKvTokens) {
    return errors::ConfigInvalid("KV tokens: at least 1, at most 2^30");
  }
  if (options.max_sequence_tokens < 1 || options.max_sequence_tokens > kMaxSequenceTokens) {
    return errors::ConfigInvalid("tokens of a sequence: at least 1, at most 2^20");
  }
  const bool packed = options.weights.packed() || config.quantization.has_value();
  if (packed && options.device.kind != Device::Kind::kCpu) {
    return errors::ConfigInvalid("packed weights (int8, int4, AWQ, GPTQ) need the device cpu");
  }
  if (UsesOwnKernels(options)) {
    auto model = LoadCudaLanguageModel(checkpoint, config.text, options);
    const bool unavailable = model.status().code() == absl::StatusCode::kFailedPrecondition;
    if (model.ok() || !unavailable || options.attention == Attention::kFlash) return model;
    if (options.on_fallback) options.on_fallback(model.status());
  }
  return Guard([&]() -> absl::StatusOr<std::unique_ptr<LanguageModel>> {
    SelectTorchAttention(options.device, options.attention);
    auto model = std::make_unique<LanguageModelImpl>(std::move(checkpoint), config, options);
    CHORD_RETURN_IF_ERROR(model->LoadWeights());
    return model;
  });
}

}  // namespace chord::engine
