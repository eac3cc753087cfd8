#include "services/llm_worker/llm_worker.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/status_macros.h"
#include "common/engine/kv_sizing.h"
#include "common/model/checkpoint.h"
#include "common/obs/log.h"
#include "common/process/loaded_model.h"
#include "common/process/worker_server.h"
#include "services/llm_worker/decode_service.h"
#include "services/llm_worker/language_core.h"
#include "services/llm_worker/sink_service.h"

namespace chord::llm_worker {
namespace {

constexpr int kPromptThreads = 2;

// One step as the decode loop makes it, with every part of a sample spec in use.
absl::Status StepOnce(engine::LanguageModel& model,
                      absl::Span<const engine::LanguageModel::Chunk> chunks) {
  const auto vocab = static_cast<size_t>(model.vocab_size());
  std::vector<uint64_t> all_ids((vocab + 63) / 64, ~uint64_t{0});
  if (vocab % 64 != 0) all_ids.back() = (uint64_t{1} << (vocab % 64)) - 1;
  const int32_t penalized = 0;
  const engine::IdSet mass_set = all_ids;
  engine::SampleSpec spec;
  spec.allowed = all_ids;
  spec.penalized = absl::MakeConstSpan(&penalized, 1);
  spec.repetition_penalty = 1.1f;
  spec.mass_sets = absl::MakeConstSpan(&mass_set, 1);
  size_t rows = 0;
  for (const auto& chunk : chunks) rows += static_cast<size_t>(chunk.logits);
  std::vector<engine::SampledToken> tokens;
  return model.StepAndSample(chunks, std::vector<engine::SampleSpec>(rows, spec), &tokens);
}

// A GPU's libraries choose a kernel by the number of rows and load it at its first use, up to a
// tenth of a second each. So: a prompt of every size class, and draft tokens of that number after
// it.
absl::Status WarmUpSizes(const Core& core, int longest) {
  const auto& options = core.model->options();
  const int limit =
      std::min(options.max_sequence_tokens, core.model->kv_pages() * engine::kKvPageTokens);
  std::vector<int32_t> pages((limit + engine::kKvPageTokens - 1) / engine::kKvPageTokens);
  std::iota(pages.begin(), pages.end(), 0);
  for (int n = 1; n <= std::min(longest, limit / 2); n = std::max(n + 1, n * 3 / 2)) {
    const std::vector<int32_t> ids(n, 0);
    for (const int start : {0, n}) {
      std::vector<int32_t> positions;
      for (int i = 0; i < 3 * n; ++i) positions.push_back(start + i % n);
      engine::LanguageModel::Chunk chunk;
      chunk.pages = pages;
      chunk.start = start;
      chunk.ids = ids;
      chunk.positions = positions;
      chunk.logits = std::min(n, 64);
      CHORD_RETURN_IF_ERROR(StepOnce(*core.model, {&chunk, 1}));
    }
  }
  return absl::OkStatus();
}

// An image and a word, a token after it, and as many sequences as may run together, so that the
// first use of every kernel and buffer happens here and not in a request. The pages written here
// are free again afterwards.
absl::Status WarmUp(const Core& core, int sequences) {
  const int merge = core.config.geometry.merge_size;
  const image::Grid grid{2 * merge, 2 * merge};
  const std::vector<model::Message> messages = {
      {"user", {model::ImagePart{0}, std::string("warm up")}}};
  CHORD_ASSIGN_OR_RETURN(
      auto prompt, model::EncodePrompt(core.chat, core.tokenizer, core.config, messages, {grid}));
  const auto& options = core.model->options();
  const auto length = static_cast<int>(prompt.ids.size());
  if (length + 2 > options.max_sequence_tokens) {
    return errors::ConfigInvalid("max_sequence_tokens is too small for an image and a word.");
  }
  const int pages = (length + 1 + engine::kKvPageTokens - 1) / engine::kKvPageTokens;
  sequences = std::min(sequences, core.model->kv_pages() / pages);
  if (sequences < 1) {
    return errors::ConfigInvalid("kv_tokens is too small for an image and a word.");
  }
  const int64_t rows = grid.tokens(merge);
  CHORD_ASSIGN_OR_RETURN(auto embeddings, core.model->CreateEmbeddings(rows, options.dtype));
  const std::vector<std::byte> zeros(rows * core.config.text.hidden_size *
                                     model::SizeOf(options.dtype));
  CHORD_RETURN_IF_ERROR(embeddings->Write(0, zeros));
  std::vector<int32_t> image_rows(prompt.ids.size(), -1);
  for (int64_t i = 0; i < rows; ++i) {
    image_rows[prompt.images[0].begin + i] = static_cast<int32_t>(i);
  }

  using Chunk = engine::LanguageModel::Chunk;
  std::vector<int32_t> all_pages(sequences * pages);
  for (size_t i = 0; i < all_pages.size(); ++i) all_pages[i] = static_cast<int32_t>(i);
  std::vector<Chunk> step(sequences);
  for (int i = 0; i < sequences; ++i) {
    step[i].pages = absl::MakeConstSpan(all_pages).subspan(i * pages, pages);
    step[i].ids = prompt.ids;
    step[i].positions = prompt.positions;
    step[i].image_rows = image_rows;
    step[i].embeddings = embeddings.get();
    CHORD_RETURN_IF_ERROR(StepOnce(*core.model, absl::MakeConstSpan(&step[i], 1)));
  }
  const int32_t id = prompt.ids.back();
  const std::vector<int32_t> positions(3, static_cast<int32_t>(length + prompt.rope_delta));
  for (Chunk& chunk : step) {
    chunk.start = length;
    chunk.ids = absl::MakeConstSpan(&id, 1);
    chunk.positions = positions;
    chunk.image_rows = {};
    chunk.embeddings = nullptr;
  }
  CHORD_RETURN_IF_ERROR(StepOnce(*core.model, step));
  return StepOnce(*core.model, absl::MakeConstSpan(step.data(), 1));
}

class LlmWorkerImpl final : public LlmWorker {
 public:
  LlmWorkerImpl(const Settings& settings, obs::Metrics* metrics)
      : settings_(settings),
        metrics_(metrics),
        tickets_(TicketOptions(settings)),
        executor_(std::make_unique<Executor>(kPromptThreads, settings.max_queue)),
        server_(WorkerServerOptions(settings, metrics),
                {[this] { return LoadModel(); }, [this] { Unload(); },
                 [this](absl::Time now) { Tick(now); },
                 [this](internal::v1::WorkerState* state) { AddState(state); }}),
        decode_({&server_.gate(), &tickets_, executor_.get(), &loaded_, metrics}),
        sink_({}, {&tickets_, &loaded_, metrics}) {}
  ~LlmWorkerImpl() override { server_.Stop(absl::Now()); }

  absl::Status Listen() { return server_.Listen({&decode_, &sink_}); }
  absl::Status Load() override { return server_.Load(); }
  void Drain() override { server_.Drain(); }
  int port() const override { return server_.port(); }

  Counts counts() const override {
    Counts out;
    out.calls = server_.gate().inside();
    out.pushes = static_cast<int>(sink_.active());
    out.tickets = static_cast<int>(tickets_.live());
    if (const Core* core = loaded_.get()) {
      const auto loop = core->loop->counts();
      out.running = loop.running;
      out.queued = loop.queued;
      out.tokens = loop.tokens;
      out.embedding_bytes = core->embeddings->taken();
      out.kv_pages_used = loop.kv.used;
    }
    return out;
  }

 private:
  static TicketTable::Options TicketOptions(const Settings& settings) {
    TicketTable::Options out;
    out.ttl = settings.ticket_ttl;
    return out;
  }
  static process::WorkerServer::Options WorkerServerOptions(const Settings& settings,
                                                            obs::Metrics* metrics) {
    process::WorkerServer::Options out;
    out.role = internal::v1::WorkerState::ROLE_LANGUAGE;
    out.role_word = "language";
    out.ready_service = "chord.internal.v1.Language";
    out.address = settings.address;
    out.metrics_address = settings.metrics_address;
    out.model_dir = settings.model_dir;
    out.drain = settings.drain;
    out.metrics = metrics;
    return out;
  }

  absl::Status LoadModel() {
    const std::string& dir = settings_.model_dir;
    CHORD_RETURN_IF_ERROR(engine::InitEngine(settings_.threads));
    CHORD_ASSIGN_OR_RETURN(auto config, model::LoadModelConfig(dir));
    CHORD_ASSIGN_OR_RETURN(auto fingerprint, model::Fingerprint(dir));
    CHORD_ASSIGN_OR_RETURN(auto tokenizer, model::Tokenizer::Load(dir + "/tokenizer.json"));
    CHORD_ASSIGN_OR_RETURN(auto chat, model::LoadChatTemplate(dir));
    CHORD_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::Open(dir));
    CHORD_ASSIGN_OR_RETURN(auto device, engine::ParseDevice(settings_.device));
    CHORD_ASSIGN_OR_RETURN(const engine::Precision precision,
                           engine::ParsePrecision(settings_.dtype, device, config.declared_dtype));
    const model::DType dtype = precision.compute;
    auto core = std::make_unique<Core>(std::move(config), std::move(tokenizer), std::move(chat));
    core->fingerprint = fingerprint;
    core->device = device.ToString();
    core->dtype = precision.name;
    if (core->config.quantization) core->dtype = core->config.quantization->ToString();
    CHORD_ASSIGN_OR_RETURN(core->max_sequence_tokens, SequenceTokens(core->config));
    obs::Log(obs::LogLevel::kInfo, "loading_weights",
             {{"device", core->device},
              {"dtype", core->dtype},
              {"checkpoint_bytes", checkpoint->total_bytes()}});

    engine::LanguageModel::Options options;
    options.device = device;
    options.dtype = dtype;
    options.weights = precision.weights;
    options.kv_type = settings_.kv_type;
    options.max_sequence_tokens = core->max_sequence_tokens;
    options.attention = settings_.attention;
    options.on_fallback = [](const absl::Status& reason) {
      obs::Log(obs::LogLevel::kWarning, "own_kernels_not_used", {{"reason", reason.message()}});
    };
    options.packed_cache = settings_.packed_cache;
    options.on_cache_failure = [](const absl::Status& reason) {
      obs::Log(obs::LogLevel::kWarning, "packed_weights_not_kept", {{"reason", reason.message()}});
    };
    const int prefill_tokens = PrefillTokens(device);
    CHORD_ASSIGN_OR_RETURN(const KvPlan kv, PlanKv(*core, device, dtype, prefill_tokens));
    options.kv_tokens = kv.tokens;
    core->max_sequences = kv.sequences;
    if (options.kv_tokens < options.max_sequence_tokens) {
      return errors::ConfigInvalid(absl::StrCat("kv_tokens must be at least max_sequence_tokens, ",
                                                options.max_sequence_tokens, "."));
    }
    CHORD_ASSIGN_OR_RETURN(core->model,
                           engine::LanguageModel::Load(checkpoint, core->config, options));
    CHORD_ASSIGN_OR_RETURN(core->grammar,
                           grammar::BoxGrammar::Compile(core->tokenizer, core->model->vocab_size(),
                                                        core->config.generation.eos_token_ids));
    obs::Log(obs::LogLevel::kInfo, "warming_up",
             {{"kv_bytes", core->model->kv_bytes()},
              {"packed_weight_bytes", core->model->packed_bytes()},
              {"kv_tokens", options.kv_tokens},
              {"sequences", core->max_sequences},
              {"sequence_tokens", options.max_sequence_tokens}});
    const bool cuda = device.kind == engine::Device::Kind::kCuda;
    if (cuda) CHORD_RETURN_IF_ERROR(WarmUpSizes(*core, prefill_tokens));
    // On a CPU one sequence brings the weights into memory; more would only repeat it, at a second
    // each for a large model.
    CHORD_RETURN_IF_ERROR(WarmUp(*core, cuda ? core->max_sequences : 1));

    // Embeddings for twice the requests that fit into KV: the next ones may arrive while these run.
    // As much again for the cache, so that embeddings outlast their KV.
    const int64_t rows_bytes =
        2LL * options.kv_tokens * core->config.text.hidden_size * model::SizeOf(dtype);
    core->embeddings = std::make_unique<ByteBudget>(rows_bytes);
    DecodeLoop::Options loop;
    loop.max_sequences = core->max_sequences;
    loop.max_queue = settings_.max_queue;
    loop.step.prefill_tokens = prefill_tokens;
    loop.step.prefill_tokens_beside_decode = std::max(loop.step.prefill_tokens / 2, 16);
    loop.eos_token_ids = core->config.generation.eos_token_ids;
    core->sampling.repetition_penalty = core->config.generation.repetition_penalty;
    loop.grammar = core->grammar.get();
    loop.images.max_bytes =
        settings_.image_cache_bytes > 0 ? settings_.image_cache_bytes : rows_bytes;
    loop.images.ttl = settings_.image_ttl;
    loop.on_fault = [](const std::string& request_id, const absl::Status& status) {
      obs::Log(obs::LogLevel::kError, "engine_fault", request_id, {{"error", status.message()}});
    };
    loop.on_step = [metrics = metrics_](int decoding, int, absl::Duration) {
      if (decoding > 0) metrics->DecodeBatch(decoding);
    };
    core->loop = std::make_unique<DecodeLoop>(core->model.get(), &core->tokenizer, loop);
    metrics_->SetModelInfo(process::ModelName(settings_.model_dir), core->fingerprint, core->dtype,
                           core->device);
    metrics_->SetKvBytes(obs::KvState::kCapacity, core->model->kv_bytes());

    loaded_.Set(std::move(core));
    return absl::OkStatus();
  }

  absl::StatusOr<int> SequenceTokens(const model::ModelConfig& config) const {
    const int64_t limit = config.text.max_position_embeddings;
    if (settings_.max_sequence_tokens > limit) {
      return errors::ConfigInvalid(
          absl::StrCat("max_sequence_tokens must be at most ", limit, ", the model's own limit."));
    }
    if (settings_.max_sequence_tokens > 0) return settings_.max_sequence_tokens;
    return static_cast<int>(std::min<int64_t>(limit, kDefaultSequenceTokens));
  }

  int PrefillTokens(const engine::Device& device) const {
    if (settings_.prefill_tokens > 0) return settings_.prefill_tokens;
    return device.kind == engine::Device::Kind::kCuda ? 2048 : 512;
  }

  // KV memory and the requests that run together: what was set, else what the device allows.
  struct KvPlan {
    int tokens = 0;
    int sequences = 0;
  };
  absl::StatusOr<KvPlan> PlanKv(const Core& core, const engine::Device& device, model::DType dtype,
                                int prefill_tokens) const {
    KvPlan plan{KvTokens(core.max_sequence_tokens),
                settings_.max_sequences > 0 ? settings_.max_sequences : kDefaultSequences};
    const bool cuda = device.kind == engine::Device::Kind::kCuda;
    if (!cuda || settings_.kv_tokens > 0) return plan;
    CHORD_ASSIGN_OR_RETURN(const engine::DeviceMemory memory, engine::MeasureMemory(device));
    const model::TextConfig& text = core.config.text;
    const int64_t element = model::SizeOf(dtype);
    engine::KvSizingFacts facts;
    facts.free_bytes = memory.free;
    facts.total_bytes = memory.total;
    facts.weight_bytes = engine::LanguageWeightBytes(text, element);
    facts.kv_token_bytes =
        engine::KvTokenBytes(text.num_hidden_layers, text.num_key_value_heads, text.head_dim,
                             element, settings_.kv_type == engine::KvType::kInt8);
    facts.embedding_token_bytes = text.hidden_size * element;
    facts.sequence_tokens = core.max_sequence_tokens;
    facts.prefill_tokens = prefill_tokens;
    facts.step_token_bytes = engine::StepTokenBytes(text, element);
    facts.shares_device = true;  // a vision worker may be there, or come
    const engine::KvSize size = engine::SizeKv(facts);
    obs::Log(obs::LogLevel::kInfo, "kv_sized", {{"reason", size.reason}});
    if (size.tokens == 0) {
      return errors::ConfigInvalid(absl::StrCat(
          "the device's memory does not hold one longest request: lower max_sequence_tokens or set "
          "kv_tokens. ",
          size.reason, "."));
    }
    plan.tokens = size.tokens;
    if (settings_.max_sequences == 0) plan.sequences = size.sequences;
    return plan;
  }

  int KvTokens(int sequence_tokens) const {
    if (settings_.kv_tokens > 0) return settings_.kv_tokens;
    const int wanted =
        std::min(int64_t{kDefaultKvSequences} * sequence_tokens, int64_t{kDefaultKvTokens});
    return std::max(wanted, sequence_tokens);
  }

  // No call is left. Threads end in the order in which they use each other.
  void Unload() {
    executor_ = nullptr;
    loaded_.Reset();
  }

  void Tick(absl::Time now) {
    tickets_.Sweep(now, errors::WorkerLost("vision"));
    sink_.Sweep(now);
    metrics_->SetTickets(static_cast<int64_t>(tickets_.live()));
    const Core* core = loaded_.get();
    if (core == nullptr) return;
    const auto loop = core->loop->counts();
    metrics_->SetQueueDepth(obs::Queue::kPrefill, loop.queued);
    metrics_->SetQueueAge(obs::Queue::kPrefill, loop.oldest);
    metrics_->SetInflightTokens(loop.tokens);
    const int64_t page_bytes = core->model->kv_bytes() / core->model->kv_pages();
    metrics_->SetKvBytes(obs::KvState::kUsed, page_bytes * loop.kv.used);
    metrics_->SetKvBytes(obs::KvState::kKept, page_bytes * loop.kv.cached);
    metrics_->SetImageCache(loop.images, loop.image_bytes);
  }

  void AddState(internal::v1::WorkerState* state) const {
    state->set_queue_capacity(settings_.max_queue);
    const Core* core = loaded_.get();
    if (core == nullptr) return;
    state->set_model_fingerprint(core->fingerprint);
    state->set_device(core->device);
    state->set_dtype(core->dtype);
    const auto loop = core->loop->counts();
    // Queued requests may wait only for their images. They count as queued where there are more of
    // them than slots.
    state->set_requests_queued(std::max(0, loop.queued + loop.running - core->max_sequences));
    state->set_tokens_in_flight(loop.tokens);
    state->set_token_capacity(int64_t{core->model->kv_pages()} * engine::kKvPageTokens);
    state->set_max_sequence_tokens(core->max_sequence_tokens);
  }

  const Settings settings_;
  obs::Metrics* const metrics_;
  TicketTable tickets_;
  std::unique_ptr<Executor> executor_;
  process::LoadedModel<Core> loaded_;
  process::WorkerServer server_;
  DecodeService decode_;
  SinkService sink_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LlmWorker>> LlmWorker::Start(const Settings& settings,
                                                            obs::Metrics* metrics) {
  auto worker = std::make_unique<LlmWorkerImpl>(settings, metrics);
  CHORD_RETURN_IF_ERROR(worker->Listen());
  return worker;
}

}  // namespace chord::llm_worker
