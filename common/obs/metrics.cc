#include "common/obs/metrics.h"

#include <dirent.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"

namespace chord::obs {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

template <typename E>
constexpr size_t Index(E value) {
  return static_cast<size_t>(value);
}

// The label value of one enumerator.
template <typename E>
struct Label {
  E value;
  const char* name;
};
template <typename E>
using Labels = std::array<Label<E>, Index(E::kMaxValue) + 1>;

// One row for each enumerator, in their order. (A table that is too short ends in null names.)
template <typename E>
constexpr bool IsComplete(const Labels<E>& labels) {
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i].name == nullptr || Index(labels[i].value) != i) return false;
  }
  return true;
}

constexpr Labels<Method> kMethods = {{{Method::kGround, "ground"},
                                      {Method::kGroundStream, "ground_stream"},
                                      {Method::kGroundBatch, "ground_batch"},
                                      {Method::kUploadImage, "upload_image"},
                                      {Method::kChatCompletions, "chat_completions"},
                                      {Method::kListModels, "list_models"},
                                      {Method::kAdmin, "admin"},
                                      {Method::kBatchItem, "batch_item"},
                                      {Method::kEncode, "encode"},
                                      {Method::kDecode, "decode"},
                                      {Method::kPushEmbeddings, "push_embeddings"}}};
static_assert(IsComplete(kMethods));
constexpr Labels<Stage> kStages = {{{Stage::kQueue, "queue"},
                                    {Stage::kProbe, "probe"},
                                    {Stage::kDecodePixels, "decode_pixels"},
                                    {Stage::kPreprocess, "preprocess"},
                                    {Stage::kVision, "vision"},
                                    {Stage::kPush, "push"},
                                    {Stage::kTokenize, "tokenize"},
                                    {Stage::kReceive, "receive"},
                                    {Stage::kPrefill, "prefill"},
                                    {Stage::kDecode, "decode"},
                                    {Stage::kParse, "parse"}}};
static_assert(IsComplete(kStages));
constexpr Labels<Queue> kQueues = {{{Queue::kEncode, "encode"}, {Queue::kPrefill, "prefill"}}};
static_assert(IsComplete(kQueues));
constexpr Labels<Point> kPoints = {{{Point::kQueue, "queue"},
                                    {Point::kDecodePixels, "decode_pixels"},
                                    {Point::kPreprocess, "preprocess"},
                                    {Point::kVision, "vision"},
                                    {Point::kPush, "push"},
                                    {Point::kReceive, "receive"},
                                    {Point::kPrefill, "prefill"},
                                    {Point::kDecode, "decode"},
                                    {Point::kReply, "reply"}}};
static_assert(IsComplete(kPoints));
constexpr Labels<Direction> kDirections = {
    {{Direction::kSent, "sent"}, {Direction::kReceived, "received"}}};
static_assert(IsComplete(kDirections));
constexpr Labels<KvState> kKvStates = {
    {{KvState::kCapacity, "capacity"}, {KvState::kUsed, "used"}, {KvState::kKept, "kept"}}};
static_assert(IsComplete(kKvStates));
constexpr Labels<TokenKind> kTokenKinds = {{{TokenKind::kImage, "image"},
                                            {TokenKind::kPrompt, "prompt"},
                                            {TokenKind::kGenerated, "generated"},
                                            {TokenKind::kForced, "forced"}}};
static_assert(IsComplete(kTokenKinds));
constexpr Labels<ImageEvent> kImageEvents = {{{ImageEvent::kUploaded, "uploaded"},
                                              {ImageEvent::kAsked, "asked"},
                                              {ImageEvent::kHit, "hit"},
                                              {ImageEvent::kMiss, "miss"},
                                              {ImageEvent::kEvicted, "evicted"},
                                              {ImageEvent::kExpired, "expired"},
                                              {ImageEvent::kDeleted, "deleted"},
                                              {ImageEvent::kRefused, "refused"}}};
static_assert(IsComplete(kImageEvents));
constexpr Labels<CacheTier> kCacheTiers = {
    {{CacheTier::kNone, "none"}, {CacheTier::kEmbeddings, "embeddings"}, {CacheTier::kKv, "kv"}}};
static_assert(IsComplete(kCacheTiers));
constexpr Labels<RetryOutcome> kRetryOutcomes = {{{RetryOutcome::kAnswered, "answered"},
                                                  {RetryOutcome::kFailed, "failed"},
                                                  {RetryOutcome::kOverBudget, "over_budget"},
                                                  {RetryOutcome::kNoWorker, "no_worker"}}};
static_assert(IsComplete(kRetryOutcomes));
constexpr Labels<SessionEvent> kSessionEvents = {{{SessionEvent::kCreated, "created"},
                                                  {SessionEvent::kHit, "hit"},
                                                  {SessionEvent::kMiss, "miss"},
                                                  {SessionEvent::kEvicted, "evicted"},
                                                  {SessionEvent::kExpired, "expired"}}};
static_assert(IsComplete(kSessionEvents));
constexpr Labels<ModelState> kModelStates = {{{ModelState::kLoading, "loading"},
                                              {ModelState::kReady, "ready"},
                                              {ModelState::kDraining, "draining"},
                                              {ModelState::kError, "error"}}};
static_assert(IsComplete(kModelStates));
constexpr Labels<LogLevel> kLogLevels = {{{LogLevel::kDebug, "debug"},
                                          {LogLevel::kInfo, "info"},
                                          {LogLevel::kWarning, "warning"},
                                          {LogLevel::kError, "error"}}};
static_assert(IsComplete(kLogLevels));
constexpr Labels<Role> kRoles = {{{Role::kGateway, "gateway"},
                                  {Role::kVisionWorker, "vision_worker"},
                                  {Role::kLlmWorker, "llm_worker"},
                                  {Role::kSupervisor, "supervisor"}}};
static_assert(IsComplete(kRoles));

constexpr Labels<AuthOutcome> kAuthOutcomes = {{{AuthOutcome::kOk, "ok"},
                                                {AuthOutcome::kMissing, "missing"},
                                                {AuthOutcome::kUnknown, "unknown"},
                                                {AuthOutcome::kBlocked, "blocked"},
                                                {AuthOutcome::kLimited, "limited"}}};
static_assert(IsComplete(kAuthOutcomes));
constexpr Labels<RestartCause> kRestartCauses = {{{RestartCause::kExit, "exit"},
                                                  {RestartCause::kHang, "hang"},
                                                  {RestartCause::kMemory, "memory"}}};
static_assert(IsComplete(kRestartCauses));

using Names = std::vector<const char*>;  // null: not exported

template <typename E>
Names NamesOf(const Labels<E>& labels) {
  Names out;
  for (const Label<E>& label : labels) out.push_back(label.name);
  return out;
}

// The stages whose time a process of the role spends.
Names StagesOf(Role role) {
  std::vector<Stage> own;
  if (role == Role::kGateway) own = {Stage::kQueue, Stage::kProbe, Stage::kParse};
  if (role == Role::kVisionWorker) {
    own = {Stage::kQueue, Stage::kDecodePixels, Stage::kPreprocess, Stage::kVision, Stage::kPush};
  }
  if (role == Role::kLlmWorker) {
    own = {Stage::kQueue, Stage::kTokenize, Stage::kReceive, Stage::kPrefill, Stage::kDecode};
  }
  Names out(kStages.size(), nullptr);
  for (Stage stage : own) out[Index(stage)] = kStages[Index(stage)].name;
  return out;
}

const Names kHttpClasses = {"1xx", "2xx", "3xx", "4xx", "5xx"};
// The canonical codes, in the order of their numbers.
const Names kCodes = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Every reason that a process reports while it serves; the last one takes the rest.
Names ReasonNames() {
  Names out;
  for (const ReasonInfo& info : kReasons) {
    const bool serving = info.reason < Reason::kCheckpointInvalid;
    out.push_back(serving ? info.name.data() : nullptr);
  }
  out.push_back("OTHER");
  return out;
}

// Seconds from 1 ms to 30 s: the targets of the service lie between 1 ms and 200 ms.
const Histogram::BucketBoundaries kSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                              0.2,   0.5,   1,     2,    5,    10,   30};
const Histogram::BucketBoundaries kPowersOfTwo = {1,   2,   4,    8,    16,   32,   64,    128,
                                                  256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
const Histogram::BucketBoundaries kSmallCounts = {0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};
// The two thresholds of the answer contract, 0.7 and 0.75, are boundaries.
const Histogram::BucketBoundaries kRatios = {0.1, 0.2,  0.3, 0.4, 0.5,  0.6,
                                             0.7, 0.75, 0.8, 0.9, 0.95, 0.99};

// One child per value of a closed label; empty where the role lacks the family, null where it lacks
// the value.
template <typename M>
class Labelled {
 public:
  template <typename... Args>
  void Make(Family<M>& family, const char* label, const Names& values, const Args&... args) {
    for (const char* value : values) {
      children_.push_back(value == nullptr ? nullptr : &family.Add({{label, value}}, args...));
    }
  }
  M* operator[](size_t index) const {
    return index < children_.size() ? children_[index] : nullptr;
  }

 private:
  std::vector<M*> children_;
};

void Increment(Counter* counter, double by = 1) {
  if (counter != nullptr && by >= 0) counter->Increment(by);
}
void Set(Gauge* gauge, double value) {
  if (gauge != nullptr) gauge->Set(value);
}
void Observe(Histogram* histogram, double value) {
  if (histogram != nullptr) histogram->Observe(value);
}

struct ProcessFigures {
  double resident_bytes = 0, virtual_bytes = 0, cpu_seconds = 0, start_seconds = 0, threads = 0;
  double open_fds = 0;
};

// proc(5): after the last ')' of stat the fields are counted from "state" = 3.
ProcessFigures ReadProcess() {
  ProcessFigures summary;
  std::ifstream in("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::vector<absl::string_view> fields = absl::StrSplit(
      absl::string_view(text).substr(std::min(text.size(), text.rfind(')') + 2)), ' ');
  const auto field = [&](size_t number) {
    int64_t value = 0;
    return number - 3 < fields.size() && absl::SimpleAtoi(fields[number - 3], &value)
               ? static_cast<double>(value)
               : 0.0;
  };
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  summary.cpu_seconds = (field(14) + field(15)) / ticks;
  summary.threads = field(20);
  summary.virtual_bytes = field(23);
  summary.resident_bytes = field(24) * static_cast<double>(sysconf(_SC_PAGESIZE));
  std::ifstream system("/proc/stat");
  for (std::string key, line; system >> key; std::getline(system, line)) {
    double boot = 0;
    if (key == "btime" && system >> boot) summary.start_seconds = boot + field(22) / ticks;
  }
  if (DIR* fds = opendir("/proc/self/fd"); fds != nullptr) {
    while (const dirent* entry = readdir(fds)) summary.open_fds += entry->d_name[0] != '.' ? 1 : 0;
    summary.open_fds -= 1;  // the one that lists them
    closedir(fds);
  }
  return summary;
}

}  // namespace

absl::string_view Name(Role role) { return kRoles[Index(role)].name; }
absl::string_view Name(Method method) { return kMethods[Index(method)].name; }
absl::string_view Name(Stage stage) { return kStages[Index(stage)].name; }
absl::string_view Name(LogLevel level) { return kLogLevels[Index(level)].name; }
absl::string_view Name(RestartCause cause) { return kRestartCauses[Index(cause)].name; }

struct Metrics::Impl {
  Impl(Role process_role, absl::string_view version);

  Family<Counter>& CounterFamily(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Family<Gauge>& GaugeFamily(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  Family<Histogram>& HistogramFamily(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }
  void MakeCommon();
  void MakeGateway();
  void MakeVision();
  void MakeLanguage();
  void MakeWorker();
  void MakeSupervisor();

  const Role role;
  prometheus::Registry registry;

  Family<Counter>* requests = nullptr;  // two labels: children are made when first met
  Family<Gauge>* model_states = nullptr;
  Family<Gauge>* model_info = nullptr;
  Labelled<Gauge> inflight_requests, queue_depth, queue_age, workers, kv_bytes, process_up;
  std::vector<std::vector<Counter*>> restarts;  // by cause and process
  Labelled<Histogram> request_seconds, stage_seconds;
  Labelled<Counter> rejected, cancelled, expired, http, tokens, session, embedding_bytes, log_lines,
      image_events, image_cache, retries;
  Counter *image_bytes = nullptr, *log_dropped = nullptr, *cpu_seconds = nullptr;
  Labelled<Counter> auth, certificate_reloads;
  Counter* tls_failures = nullptr;
  Gauge* certificate_expires = nullptr;
  Gauge *running = nullptr, *waiting = nullptr, *kv_usage = nullptr;
  Gauge *ready = nullptr, *inflight_tokens = nullptr, *tickets = nullptr;
  Gauge *image_cache_images = nullptr, *image_cache_bytes = nullptr;
  Gauge *store_bytes = nullptr, *store_images = nullptr, *sessions = nullptr;
  Gauge *resident = nullptr, *virtual_memory = nullptr, *open_fds = nullptr, *threads = nullptr;
  Histogram *answer_boxes = nullptr, *box_confidence = nullptr, *image_patches = nullptr,
            *encode_batch = nullptr, *prompt_tokens = nullptr, *answer_tokens = nullptr,
            *first_token = nullptr, *decode_batch = nullptr;

  absl::Mutex mu;  // versions, and the difference that a counter is advanced by
  std::set<std::string> versions ABSL_GUARDED_BY(mu);
  Gauge* model_info_now ABSL_GUARDED_BY(mu) = nullptr;
};

Metrics::Impl::Impl(Role process_role, absl::string_view version) : role(process_role) {
  GaugeFamily("chord_build_info", "Always 1; the labels say what runs.")
      .Add({{"version", std::string(version)}, {"role", std::string(Name(role))}})
      .Set(1);
  if (role == Role::kSupervisor) {
    MakeSupervisor();
    return;
  }
  MakeCommon();
  if (role == Role::kGateway) {
    MakeGateway();
  } else {
    MakeWorker();
    role == Role::kVisionWorker ? MakeVision() : MakeLanguage();
  }
}

void Metrics::Impl::MakeSupervisor() {
  Names processes = NamesOf(kRoles);
  processes[Index(Role::kSupervisor)] = nullptr;
  process_up.Make(GaugeFamily("chord_process_up", "1 while the process runs."), "process",
                  processes);
  Family<Counter>& family =
      CounterFamily("chord_process_restarts_total", "Processes started again, by cause.");
  for (const Label<RestartCause>& cause : kRestartCauses) {
    restarts.emplace_back();
    for (const char* process : processes) {
      restarts.back().push_back(process == nullptr
                                    ? nullptr
                                    : &family.Add({{"process", process}, {"cause", cause.name}}));
    }
  }
}

void Metrics::Impl::MakeCommon() {
  model_info = &GaugeFamily("chord_model_info", "Always 1; the labels say what model serves.");
  ready = &GaugeFamily("chord_ready", "1 while this process can serve requests.").Add({});
  requests = &CounterFamily("chord_requests_total", "Requests by method and canonical code.");
  Names served = NamesOf(kMethods);  // null: never happens in this role
  const auto workers_own = served.begin() + static_cast<int64_t>(Index(Method::kEncode));
  if (role == Role::kGateway) {
    std::fill(workers_own, served.end(), nullptr);
  } else {
    std::fill(served.begin(), workers_own, nullptr);
  }
  request_seconds.Make(HistogramFamily("chord_request_seconds", "Time of whole requests."),
                       "method", served, kSeconds);
  inflight_requests.Make(GaugeFamily("chord_inflight_requests", "Requests being worked on."),
                         "method", served);
  stage_seconds.Make(HistogramFamily("chord_stage_seconds", "Time of one stage of a request."),
                     "stage", StagesOf(role), kSeconds);
  rejected.Make(CounterFamily("chord_rejected_total", "Requests refused, by reason."), "reason",
                ReasonNames());
  cancelled.Make(CounterFamily("chord_cancelled_total", "Cancellations, by where noticed."), "at",
                 NamesOf(kPoints));
  expired.Make(
      CounterFamily("chord_deadline_exceeded_total", "Deadlines passed, by where noticed."), "at",
      NamesOf(kPoints));
  log_lines.Make(CounterFamily("chord_log_lines_total", "Log lines handed to the writer."), "level",
                 NamesOf(kLogLevels));
  log_dropped =
      &CounterFamily("chord_log_dropped_total", "Log lines lost because the writer was behind.")
           .Add({});

  const ProcessFigures now = ReadProcess();
  GaugeFamily("process_start_time_seconds", "Start of the process, Unix time.")
      .Add({})
      .Set(now.start_seconds);
  cpu_seconds = &CounterFamily("process_cpu_seconds_total", "User and system time.").Add({});
  resident = &GaugeFamily("process_resident_memory_bytes", "Resident memory.").Add({});
  virtual_memory = &GaugeFamily("process_virtual_memory_bytes", "Virtual memory.").Add({});
  open_fds = &GaugeFamily("process_open_fds", "Open file descriptors.").Add({});
  threads = &GaugeFamily("process_threads", "Threads.").Add({});
}

void Metrics::Impl::MakeGateway() {
  http.Make(CounterFamily("chord_http_responses_total", "HTTP answers by class of status."),
            "class", kHttpClasses);
  Names worker_roles = NamesOf(kRoles);
  worker_roles[Index(Role::kGateway)] = worker_roles[Index(Role::kSupervisor)] = nullptr;
  workers.Make(GaugeFamily("chord_workers", "Workers that are ready and hold our model."), "role",
               worker_roles);
  auth.Make(CounterFamily("chord_auth_total", "Requests by what became of their API key."),
            "outcome", NamesOf(kAuthOutcomes));
  tls_failures =
      &CounterFamily("chord_tls_handshake_failures_total", "HTTPS connections without a handshake.")
           .Add({});
  certificate_expires = &GaugeFamily("chord_certificate_expires_timestamp_seconds",
                                     "When the certificate in use expires, Unix time; 0: none.")
                             .Add({});
  certificate_reloads.Make(
      CounterFamily("chord_certificate_reloads_total", "Certificate files read again."), "outcome",
      {"ok", "failed"});
  running =
      &GaugeFamily("chord_requests_running", "Requests that this gateway is answering.").Add({});
  waiting = &GaugeFamily("chord_requests_waiting",
                         "Requests in the queues of the workers that this gateway uses.")
                 .Add({});
  kv_usage = &GaugeFamily("chord_kv_usage_ratio",
                          "Share of the language workers' key/value memory that requests have "
                          "reserved, 0 to 1.")
                  .Add({});
  answer_boxes =
      &HistogramFamily("chord_answer_boxes", "Boxes in one answer.").Add({}, kSmallCounts);
  box_confidence =
      &HistogramFamily("chord_box_confidence", "Confidence of one box, 0 to 1.").Add({}, kRatios);
  image_bytes = &CounterFamily("chord_image_bytes_total", "Bytes of images received.").Add({});
  store_bytes =
      &GaugeFamily("chord_image_store_bytes", "Memory of images kept for prompts.").Add({});
  store_images = &GaugeFamily("chord_image_store_images", "Images kept for prompts.").Add({});
  image_events.Make(CounterFamily("chord_image_store_total", "Life of images kept."), "event",
                    NamesOf(kImageEvents));
  sessions = &GaugeFamily("chord_sessions", "Conversations kept.").Add({});
  Names session_events = NamesOf(kSessionEvents);
  session_events[Index(SessionEvent::kMiss)] = nullptr;  // a new name begins a conversation
  session.Make(CounterFamily("chord_session_total", "Life of conversations."), "event",
               session_events);
  image_cache.Make(CounterFamily("chord_image_cache_requests_total",
                                 "Answers, by the cache that served the image."),
                   "cache", NamesOf(kCacheTiers));
  retries.Make(CounterFamily("chord_retries_total", "Requests whose worker was lost, by outcome."),
               "outcome", NamesOf(kRetryOutcomes));
}

void Metrics::Impl::MakeWorker() {
  Names queues(kQueues.size(), nullptr);
  const size_t own = Index(role == Role::kVisionWorker ? Queue::kEncode : Queue::kPrefill);
  queues[own] = kQueues[own].name;
  queue_depth.Make(GaugeFamily("chord_queue_depth", "Requests that wait."), "queue", queues);
  queue_age.Make(
      GaugeFamily("chord_queue_oldest_seconds", "How long the first in the queue has waited."),
      "queue", queues);
  embedding_bytes.Make(
      CounterFamily("chord_embedding_bytes_total", "Bytes of embeddings between the workers."),
      "direction", NamesOf(kDirections));
  model_states = &GaugeFamily("chord_model_state", "1 for the state a model version is in.");
}

void Metrics::Impl::MakeVision() {
  image_patches =
      &HistogramFamily("chord_image_patches", "Patches of one image.").Add({}, kPowersOfTwo);
  encode_batch = &HistogramFamily("chord_encode_batch_images", "Images encoded together.")
                      .Add({}, kPowersOfTwo);
}

void Metrics::Impl::MakeLanguage() {
  tokens.Make(CounterFamily("chord_tokens_total", "Tokens worked on."), "kind",
              NamesOf(kTokenKinds));
  prompt_tokens = &HistogramFamily("chord_prompt_tokens", "Tokens of one prompt, image included.")
                       .Add({}, kPowersOfTwo);
  answer_tokens =
      &HistogramFamily("chord_answer_tokens", "Tokens of one answer.").Add({}, kPowersOfTwo);
  first_token =
      &HistogramFamily("chord_first_token_seconds", "Time to the first token.").Add({}, kSeconds);
  decode_batch = &HistogramFamily("chord_decode_batch_sequences", "Sequences in one decode step.")
                      .Add({}, kPowersOfTwo);
  inflight_tokens =
      &GaugeFamily("chord_inflight_tokens", "Tokens reserved by requests being worked on.").Add({});
  kv_bytes.Make(GaugeFamily("chord_kv_bytes", "Memory of the key/value cache."), "state",
                NamesOf(kKvStates));
  tickets = &GaugeFamily("chord_tickets", "Tickets alive.").Add({});
  image_cache.Make(CounterFamily("chord_image_cache_requests_total",
                                 "Answers, by the cache that served the image."),
                   "cache", NamesOf(kCacheTiers));
  image_cache_images =
      &GaugeFamily("chord_image_cache_images", "Images known for more prompts.").Add({});
  image_cache_bytes =
      &GaugeFamily("chord_image_cache_bytes", "Embeddings kept for more prompts.").Add({});
}

Metrics::Metrics(Role role, absl::string_view version)
    : impl_(std::make_unique<Impl>(role, version)) {}
Metrics::~Metrics() = default;
Role Metrics::role() const { return impl_->role; }

void Metrics::RequestBegan(Method method) {
  if (Gauge* gauge = impl_->inflight_requests[Index(method)]) gauge->Increment();
}
void Metrics::RequestEnded(Method method, absl::StatusCode code, absl::Duration took) {
  if (Gauge* gauge = impl_->inflight_requests[Index(method)]) gauge->Decrement();
  const size_t number = std::min<size_t>(static_cast<size_t>(code), kCodes.size());
  const char* name = number < kCodes.size() ? kCodes[number] : "UNKNOWN";
  impl_->requests->Add({{"method", std::string(Name(method))}, {"code", name}}).Increment();
  Observe(impl_->request_seconds[Index(method)], absl::ToDoubleSeconds(took));
}
void Metrics::StageTook(Stage stage, absl::Duration took) {
  Observe(impl_->stage_seconds[Index(stage)], absl::ToDoubleSeconds(took));
}
void Metrics::SetQueueDepth(Queue queue, int64_t waiting) {
  Set(impl_->queue_depth[Index(queue)], static_cast<double>(waiting));
}
void Metrics::SetQueueAge(Queue queue, absl::Duration oldest) {
  Set(impl_->queue_age[Index(queue)], absl::ToDoubleSeconds(oldest));
}
void Metrics::SetModelInfo(absl::string_view model, absl::string_view fingerprint,
                           absl::string_view dtype, absl::string_view device) {
  if (impl_->model_info == nullptr) return;
  const absl::MutexLock lock(&impl_->mu);
  if (impl_->model_info_now != nullptr) impl_->model_info->Remove(impl_->model_info_now);
  prometheus::Labels labels = {{"model", std::string(model)},
                               {"fingerprint", std::string(fingerprint)}};
  if (!dtype.empty()) labels.emplace("dtype", std::string(dtype));
  if (!device.empty()) labels.emplace("device", std::string(device));
  impl_->model_info_now = &impl_->model_info->Add(labels);
  impl_->model_info_now->Set(1);
}
void Metrics::SetLoad(int64_t running, int64_t waiting, double kv_usage) {
  Set(impl_->running, static_cast<double>(running));
  Set(impl_->waiting, static_cast<double>(waiting));
  Set(impl_->kv_usage, kv_usage);
}
void Metrics::SetProcessUp(Role role, bool up) { Set(impl_->process_up[Index(role)], up ? 1 : 0); }
void Metrics::Restarted(Role role, RestartCause cause) {
  if (impl_->restarts.empty()) return;
  Increment(impl_->restarts[Index(cause)][Index(role)]);
}
void Metrics::Rejected(const absl::Status& status) {
  const std::optional<Reason> reason = ReasonOf(status);
  Counter* counter = reason ? impl_->rejected[Index(*reason)] : nullptr;
  Increment(counter != nullptr ? counter : impl_->rejected[kReasonCount]);
}
void Metrics::Cancelled(Point at) { Increment(impl_->cancelled[Index(at)]); }
void Metrics::DeadlineExceeded(Point at) { Increment(impl_->expired[Index(at)]); }
void Metrics::SetReady(bool ready) { Set(impl_->ready, ready ? 1 : 0); }

void Metrics::HttpResponse(int http_status) {
  Increment(impl_->http[static_cast<size_t>(http_status / 100 - 1)]);
}
void Metrics::SetWorkers(Role role, int64_t alive) {
  Set(impl_->workers[Index(role)], static_cast<double>(alive));
}
void Metrics::Authenticated(AuthOutcome outcome) { Increment(impl_->auth[Index(outcome)]); }
void Metrics::TlsHandshakeFailed() { Increment(impl_->tls_failures); }
void Metrics::SetCertificateExpiry(absl::Time at) {
  Set(impl_->certificate_expires, static_cast<double>(absl::ToUnixSeconds(at)));
}
void Metrics::CertificateReloaded(bool ok) { Increment(impl_->certificate_reloads[ok ? 0 : 1]); }
void Metrics::Answered(int64_t boxes) { Observe(impl_->answer_boxes, static_cast<double>(boxes)); }
void Metrics::BoxConfidence(double confidence) { Observe(impl_->box_confidence, confidence); }
void Metrics::ImageReceived(int64_t bytes) {
  Increment(impl_->image_bytes, static_cast<double>(bytes));
}
void Metrics::SetImageStore(int64_t bytes, int64_t images) {
  Set(impl_->store_bytes, static_cast<double>(bytes));
  Set(impl_->store_images, static_cast<double>(images));
}
void Metrics::Image(ImageEvent event) { Increment(impl_->image_events[Index(event)]); }
void Metrics::SetSessions(int64_t alive) { Set(impl_->sessions, static_cast<double>(alive)); }
void Metrics::ServedBy(CacheTier cache) { Increment(impl_->image_cache[Index(cache)]); }
void Metrics::Retried(RetryOutcome outcome) { Increment(impl_->retries[Index(outcome)]); }

void Metrics::ImageEncoded(int64_t patches) {
  Observe(impl_->image_patches, static_cast<double>(patches));
}
void Metrics::EncodeBatch(int64_t images) {
  Observe(impl_->encode_batch, static_cast<double>(images));
}

void Metrics::Tokens(TokenKind kind, int64_t count) {
  Increment(impl_->tokens[Index(kind)], static_cast<double>(count));
}
void Metrics::PromptLength(int64_t tokens) {
  Observe(impl_->prompt_tokens, static_cast<double>(tokens));
}
void Metrics::AnswerLength(int64_t tokens) {
  Observe(impl_->answer_tokens, static_cast<double>(tokens));
}
void Metrics::TimeToFirstToken(absl::Duration took) {
  Observe(impl_->first_token, absl::ToDoubleSeconds(took));
}
void Metrics::DecodeBatch(int64_t sequences) {
  Observe(impl_->decode_batch, static_cast<double>(sequences));
}
void Metrics::SetInflightTokens(int64_t tokens) {
  Set(impl_->inflight_tokens, static_cast<double>(tokens));
}
void Metrics::SetKvBytes(KvState state, int64_t bytes) {
  Set(impl_->kv_bytes[Index(state)], static_cast<double>(bytes));
}
void Metrics::SetTickets(int64_t alive) { Set(impl_->tickets, static_cast<double>(alive)); }
void Metrics::SetImageCache(int64_t images, int64_t bytes) {
  Set(impl_->image_cache_images, static_cast<double>(images));
  Set(impl_->image_cache_bytes, static_cast<double>(bytes));
}
void Metrics::Session(SessionEvent event) { Increment(impl_->session[Index(event)]); }

void Metrics::EmbeddingBytes(Direction direction, int64_t bytes) {
  Increment(impl_->embedding_bytes[Index(direction)], static_cast<double>(bytes));
}
void Metrics::SetModelState(absl::string_view version, ModelState state) {
  constexpr size_t kMaxVersions = 16;
  if (impl_->model_states == nullptr) return;
  const absl::MutexLock lock(&impl_->mu);
  if (impl_->versions.size() >= kMaxVersions && impl_->versions.count(std::string(version)) == 0) {
    return;
  }
  impl_->versions.emplace(version);
  for (size_t i = 0; i < kModelStates.size(); ++i) {
    impl_->model_states->Add({{"version", std::string(version)}, {"state", kModelStates[i].name}})
        .Set(i == Index(state) ? 1 : 0);
  }
}

void Metrics::LogLine(LogLevel level) { Increment(impl_->log_lines[Index(level)]); }
void Metrics::SetLogDropped(int64_t dropped_so_far) {
  if (impl_->log_dropped == nullptr) return;
  const absl::MutexLock lock(&impl_->mu);
  Increment(impl_->log_dropped, static_cast<double>(dropped_so_far) - impl_->log_dropped->Value());
}

std::string Metrics::Serialize() const {
  if (impl_->cpu_seconds == nullptr) {
    return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
  }
  const ProcessFigures now = ReadProcess();
  Set(impl_->resident, now.resident_bytes);
  Set(impl_->virtual_memory, now.virtual_bytes);
  Set(impl_->open_fds, now.open_fds);
  Set(impl_->threads, now.threads);
  {
    const absl::MutexLock lock(&impl_->mu);
    Increment(impl_->cpu_seconds, now.cpu_seconds - impl_->cpu_seconds->Value());
  }
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

absl::string_view Metrics::ContentType() { return "text/plain; version=0.0.4; charset=utf-8"; }

std::vector<std::string> Metrics::FamilyNames() const {
  std::set<std::string> names;
  for (const auto& family : impl_->registry.Collect()) names.insert(family.name);
  // Families with no child yet are not collected.
  if (impl_->requests != nullptr) names.insert("chord_requests_total");
  if (impl_->model_info != nullptr) names.insert("chord_model_info");
  if (impl_->model_states != nullptr) names.insert("chord_model_state");
  return {names.begin(), names.end()};
}

}  // namespace chord::obs
