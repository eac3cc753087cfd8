#include "services/llm_worker/llm_worker.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/obs/log.h"
#include "common/worker/shell.h"
#include "services/llm_worker/core.h"
#include "services/llm_worker/decode_service.h"
#include "services/llm_worker/sink_service.h"

namespace chord::llm_worker {
namespace {

constexpr int kPromptThreads = 2;

// A picture and a word through every slot, then a token for all of them and for one: first use of
// every kernel and buffer happens here and not in somebody's request.
absl::Status WarmUp(const Core& core) {
  const int merge = core.config.geometry.merge_size;
  const image::Grid grid{2 * merge, 2 * merge};
  const std::vector<model::Message> messages = {
      {"user", {model::ImagePart{0}, std::string("warm up")}}};
  CHORD_ASSIGN_OR_RETURN(auto prompt, model::EncodePrompt(core.chat, core.tokenizer, core.config,
                                                          messages, {grid}));
  const auto& options = core.model->options();
  if (static_cast<int>(prompt.ids.size()) + 2 > options.max_sequence_tokens) {
    return errors::ConfigInvalid("max_sequence_tokens is too small for a picture and a word.");
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
  const auto length = static_cast<int>(prompt.ids.size());
  std::vector<float> logits;
  std::vector<Chunk> step(options.max_sequences);
  for (int slot = 0; slot < options.max_sequences; ++slot) {
    step[slot].slot = slot;
    step[slot].ids = prompt.ids;
    step[slot].positions = prompt.positions;
    step[slot].image_rows = image_rows;
    step[slot].embeddings = embeddings.get();
    CHORD_RETURN_IF_ERROR(core.model->Step(absl::MakeConstSpan(&step[slot], 1), &logits));
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
  CHORD_RETURN_IF_ERROR(core.model->Step(step, &logits));
  return core.model->Step(absl::MakeConstSpan(step.data(), 1), &logits);
}

class LlmWorkerImpl final : public LlmWorker {
 public:
  LlmWorkerImpl(const Settings& settings, obs::Metrics* metrics)
      : settings_(settings),
        metrics_(metrics),
        tickets_(TicketOptions(settings)),
        executor_(std::make_unique<Executor>(kPromptThreads, settings.max_queue)),
        shell_(ShellOptions(settings, metrics),
               {[this] { return LoadModel(); }, [this] { Unload(); },
                [this](absl::Time now) { Tick(now); },
                [this](internal::v1::WorkerState* state) { AddState(state); }}),
        decode_({&shell_.gate(), &tickets_, executor_.get(), [this] { return core_.load(); },
                 metrics}),
        sink_({}, {&tickets_, [this] { return core_.load(); }, metrics}) {}
  ~LlmWorkerImpl() override { shell_.Stop(absl::Now()); }

  absl::Status Listen() { return shell_.Listen({&decode_, &sink_}); }
  absl::Status Load() override { return shell_.Load(); }
  void Drain() override { shell_.Drain(); }
  int port() const override { return shell_.port(); }

  Counts counts() const override {
    Counts out;
    out.calls = shell_.gate().inside();
    out.pushes = static_cast<int>(sink_.active());
    out.tickets = static_cast<int>(tickets_.live());
    if (const Core* core = core_) {
      const auto loop = core->loop->counts();
      out.running = loop.running;
      out.queued = loop.queued;
      out.tokens = loop.tokens;
      out.embedding_bytes = core->embeddings->taken();
    }
    return out;
  }

 private:
  static TicketTable::Options TicketOptions(const Settings& settings) {
    TicketTable::Options out;
    out.ttl = settings.ticket_ttl;
    return out;
  }
  static worker::Shell::Options ShellOptions(const Settings& settings, obs::Metrics* metrics) {
    worker::Shell::Options out;
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
    CHORD_ASSIGN_OR_RETURN(auto dtype,
                           engine::ParseDType(settings_.dtype, device, config.declared_dtype));
    auto core = std::make_unique<Core>(std::move(config), std::move(tokenizer), std::move(chat));
    core->fingerprint = fingerprint;
    core->device = device.ToString();
    core->dtype = std::string(model::DTypeName(dtype));
    CHORD_ASSIGN_OR_RETURN(core->max_sequence_tokens, SequenceTokens(core->config));
    obs::Log(obs::LogLevel::kInfo, "loading_weights",
             {{"device", core->device},
              {"dtype", core->dtype},
              {"checkpoint_bytes", checkpoint->total_bytes()}});

    engine::LanguageModel::Options options;
    options.device = device;
    options.dtype = dtype;
    options.max_sequences = settings_.max_sequences;
    options.max_sequence_tokens = core->max_sequence_tokens;
    CHORD_ASSIGN_OR_RETURN(core->model,
                           engine::LanguageModel::Load(checkpoint, core->config, options));
    obs::Log(obs::LogLevel::kInfo, "warming_up",
             {{"kv_bytes", core->model->kv_bytes()},
              {"sequences", options.max_sequences},
              {"sequence_tokens", options.max_sequence_tokens}});
    CHORD_RETURN_IF_ERROR(WarmUp(*core));

    // Rows for twice as many pictures as there are slots: the next ones may arrive while these run.
    core->embeddings = std::make_unique<ByteBudget>(
        2LL * options.max_sequences * options.max_sequence_tokens *
        core->config.text.hidden_size * model::SizeOf(dtype));
    DecodeLoop::Options loop;
    loop.max_queue = settings_.max_queue;
    if (device.kind == engine::Device::Kind::kCuda) loop.step.prefill_tokens = 2048;
    loop.eos_token_ids = core->config.generation.eos_token_ids;
    loop.repetition_penalty = core->config.generation.repetition_penalty;
    loop.on_fault = [](const std::string& request_id, const absl::Status& status) {
      obs::Log(obs::LogLevel::kError, "engine_fault", request_id, {{"error", status.message()}});
    };
    loop.on_step = [metrics = metrics_](int decoding, int, absl::Duration) {
      if (decoding > 0) metrics->DecodeBatch(decoding);
    };
    core->loop = std::make_unique<DecodeLoop>(core->model.get(), &core->tokenizer, loop);
    metrics_->SetKvBytes(obs::KvState::kCapacity, core->model->kv_bytes());

    owned_core_ = std::move(core);
    core_ = owned_core_.get();
    return absl::OkStatus();
  }

  absl::StatusOr<int> SequenceTokens(const model::ModelConfig& config) const {
    const int64_t limit = config.text.max_position_embeddings;
    if (settings_.max_sequence_tokens > limit) {
      return errors::ConfigInvalid(absl::StrCat("max_sequence_tokens must be at most ", limit,
                                                ", the model's own limit."));
    }
    if (settings_.max_sequence_tokens > 0) return settings_.max_sequence_tokens;
    return static_cast<int>(std::min<int64_t>(limit, kDefaultSequenceTokens));
  }

  // No call is left. Threads end in the order in which they use each other.
  void Unload() {
    executor_ = nullptr;
    core_ = nullptr;
    owned_core_ = nullptr;
  }

  void Tick(absl::Time now) {
    tickets_.Sweep(now, errors::WorkerLost("vision"));
    sink_.Sweep(now);
    metrics_->SetTickets(static_cast<int64_t>(tickets_.live()));
    const Core* core = core_;
    if (core == nullptr) return;
    const auto loop = core->loop->counts();
    metrics_->SetQueueDepth(obs::Queue::kPrefill, loop.queued);
    metrics_->SetInflightTokens(loop.tokens);
    const int64_t rows = int64_t{settings_.max_sequences} * core->max_sequence_tokens;
    metrics_->SetKvBytes(obs::KvState::kReserved, core->model->kv_bytes() / rows * loop.tokens);
  }

  void AddState(internal::v1::WorkerState* state) const {
    state->set_queue_capacity(settings_.max_queue);
    const Core* core = core_;
    if (core == nullptr) return;
    state->set_model_fingerprint(core->fingerprint);
    state->set_device(core->device);
    state->set_dtype(core->dtype);
    const auto loop = core->loop->counts();
    state->set_requests_queued(loop.queued);
    state->set_tokens_in_flight(loop.tokens);
    state->set_token_capacity(int64_t{settings_.max_sequences} * core->max_sequence_tokens);
    state->set_max_sequence_tokens(core->max_sequence_tokens);
  }

  const Settings settings_;
  obs::Metrics* const metrics_;
  TicketTable tickets_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Core> owned_core_;
  std::atomic<Core*> core_{nullptr};  // set once, when everything in it is ready
  worker::Shell shell_;
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
