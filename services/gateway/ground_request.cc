#include "services/gateway/ground_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/obs/log.h"
#include "services/gateway/point_answer.h"

namespace chord::gateway {
namespace {

// The workers get a little less time than we have, so that their answer still reaches us before our
// client gives up.
absl::Duration Margin(absl::Duration left) { return std::min(absl::Milliseconds(50), left / 10); }

// How long a language worker that a vision worker does not know is used only if there is no other.
constexpr absl::Duration kCooldown = absl::Seconds(1);

}  // namespace

GroundRequest::~GroundRequest() {
  if (!in_conversation_) return;
  context_.images.sessions().End(input_.session_id, image().id, new_turn_ ? &*new_turn_ : nullptr,
                                 dropped_turns_, absl::Now());
}

absl::StatusOr<GroundResult> GroundRequest::Run() {
  CHORD_RETURN_IF_ERROR(Resolve());
  absl::StatusOr<WorkerAnswer> answer = Dispatch();
  context_.metrics.StageTook(obs::Stage::kQueue, waited_);
  if (!answer.ok()) return answer.status();
  return Assemble(*answer);
}

absl::Status GroundRequest::Resolve() {
  const Grounder::Options& options = context_.options;
  CHORD_ASSIGN_OR_RETURN(plan_, PlanPrompt(input_, options.wrapper, options.max_prompt_bytes));
  new_tokens_ = input_.max_new_tokens.value_or(options.default_new_tokens);
  if (new_tokens_ < 1 || new_tokens_ > options.max_new_tokens) {
    return errors::ParameterInvalid("max_new_tokens",
                                    absl::StrCat("an integer from 1 to ", options.max_new_tokens));
  }
  if (!input_.session_id.empty() && !IsSessionId(input_.session_id)) {
    return errors::ParameterInvalid("session_id", "1 to 64 characters of A-Z, a-z, 0-9, _ and -");
  }
  CHORD_RETURN_IF_ERROR(ResolveImage());
  CHORD_RETURN_IF_ERROR(input_.cancel.Check());
  return ResolveConversation();
}

void GroundRequest::UseStored(ImageStore::Found found) {
  stored_ = std::move(found.image);
  affinity_ = std::move(found.affinity);
  bytes_ = stored_->bytes;
  may_store_ = true;
}

absl::Status GroundRequest::ResolveImage() {
  ImageService& images = context_.images;
  if (!input_.image_id.empty()) {
    if (!input_.image.empty()) return errors::ImageSourceConflict();
    CHORD_ASSIGN_OR_RETURN(auto found, images.Use(input_.image_id));
    UseStored(std::move(found));
    return absl::OkStatus();
  }
  const absl::Time probed = absl::Now();
  CHORD_ASSIGN_OR_RETURN(const image::FramePlan plan, images.Plan(input_.image));
  const auto bytes = static_cast<int64_t>(input_.image.size());
  context_.metrics.StageTook(obs::Stage::kProbe, absl::Now() - probed);
  context_.metrics.ImageReceived(bytes);
  bytes_ = input_.image;
  const absl::Status room = images.CheckRoom(bytes, /*pin=*/false);
  may_store_ = room.ok();
  if (!may_store_) {
    // A conversation lives with its image.
    if (!input_.session_id.empty()) return room;
    fresh_.plan = plan;
    return absl::OkStatus();
  }
  fresh_ = images.Name(input_.image, plan);
  if (input_.session_id.empty()) return absl::OkStatus();
  const std::string id = images.SessionImage(input_.client, input_.session_id, fresh_.digest);
  if (id.empty()) return absl::OkStatus();
  if (auto found = images.Use(id); found.ok()) UseStored(*std::move(found));
  return absl::OkStatus();
}

absl::Status GroundRequest::ResolveConversation() {
  if (input_.session_id.empty()) return absl::OkStatus();
  CHORD_ASSIGN_OR_RETURN(
      auto begun, context_.images.sessions().Begin(input_.session_id, image().id, absl::Now()));
  in_conversation_ = true;
  turns_ = std::move(begun.turns);
  obs::Metrics& metrics = context_.metrics;
  metrics.Session(begun.created ? obs::SessionEvent::kCreated : obs::SessionEvent::kHit);
  for (int i = 0; i < begun.expired; ++i) metrics.Session(obs::SessionEvent::kExpired);
  for (int i = 0; i < begun.evicted; ++i) metrics.Session(obs::SessionEvent::kEvicted);
  return absl::OkStatus();
}

absl::StatusOr<WorkerAnswer> GroundRequest::Dispatch() {
  absl::StatusOr<WorkerAnswer> answer = DispatchOnce();
  // A long conversation outgrows the model: its oldest half is dropped, not the new prompt.
  while (!answer.ok() && !turns_.empty() && OutgrowsModel(answer.status())) {
    const size_t half = (turns_.size() + 1) / 2;
    turns_.erase(turns_.begin(), turns_.begin() + static_cast<std::ptrdiff_t>(half));
    dropped_turns_ += half;
    answer = DispatchOnce();
  }
  return answer;
}

// The conversation as it is now, with a retry.
absl::StatusOr<WorkerAnswer> GroundRequest::DispatchOnce() {
  absl::StatusOr<WorkerAnswer> answer = TryWorkers(absl::Now() + context_.options.worker_wait);
  if (attempt_.facts.failure.not_known) context_.pool.Cooldown(attempt_.language, kCooldown);
  if (!MayRetry(attempt_.facts)) return answer;
  if (!context_.retries.TrySpend()) {
    context_.metrics.Retried(obs::RetryOutcome::kOverBudget);
    return answer;
  }
  const WorkerFailure::Where where = attempt_.facts.failure.where;
  if (where == WorkerFailure::Where::kVision) excluded_.push_back(attempt_.vision);
  if (where == WorkerFailure::Where::kLanguage) excluded_.push_back(attempt_.language);
  obs::Log(obs::LogLevel::kInfo, "retry", input_.request_id,
           {{"lost", excluded_.empty() ? "" : excluded_.back().name},
            {"reason", ErrorReason(answer.status())}});
  absl::StatusOr<WorkerAnswer> again = TryWorkers(absl::Now() + context_.options.retry_wait);
  context_.metrics.Retried(again.ok()           ? obs::RetryOutcome::kAnswered
                           : attempt_.no_worker ? obs::RetryOutcome::kNoWorker
                                                : obs::RetryOutcome::kFailed);
  // Without a worker to go to, the first error is the better one.
  return !again.ok() && attempt_.no_worker ? answer : again;
}

// Waits until `until`, at most until shortly before the deadline: a worker that is not there is a
// better reason than time that has run out.
absl::StatusOr<WorkerPool::Lease> GroundRequest::Acquire(WorkerPool::Role role, int64_t cost,
                                                         const std::string& preferred,
                                                         absl::Time until) {
  const absl::Time from = absl::Now();
  const absl::Time latest = deadline_ - Margin(deadline_ - from);
  auto lease = context_.pool.Acquire(role, {cost, preferred, excluded_}, input_.cancel,
                                     std::min(latest, std::max(until, from)));
  waited_ += absl::Now() - from;
  attempt_.no_worker |= !lease.ok();
  return lease;
}

// What the language worker returned that it holds is there unless a new epoch has begun; whatever
// we believe, its own word counts in the end.
bool GroundRequest::BelievedHeld() const {
  return stored_ != nullptr && affinity_.held &&
         attempt_.language == WorkerId{affinity_.worker, affinity_.epoch};
}

// The turns of the session and the new prompt; the image precedes the first.
std::vector<ChatTurn> GroundRequest::SessionConversation() const {
  using Role = ChatTurn::Role;
  std::vector<ChatTurn> out;
  for (const SessionTurn& turn : turns_) {
    out.push_back({Role::kUser, {{false, turn.prompt}}});
    out.push_back({Role::kAssistant, {{false, turn.answer}}});
  }
  out.push_back({Role::kUser, {{false, plan_.text}}});
  std::vector<TurnPart>& first = out.front().parts;
  first.insert(first.begin(), TurnPart{.image = true, .text = ""});
  return out;
}

WorkerRequest GroundRequest::MakeWorkerRequest(bool believed) const {
  WorkerRequest out;
  out.ticket = NewTicketId();
  out.request_id = input_.request_id;
  out.trace = input_.trace;
  out.model_fingerprint = context_.options.fingerprint;
  out.turns = input_.conversation.empty() ? SessionConversation() : input_.conversation;
  out.decode = input_.decode;
  out.plan = image().plan;
  out.max_new_tokens = new_tokens_;
  out.grammar = plan_.grammar;
  if (may_store_) {
    out.keeping = {
        .key = image().key, .pin = image().pin, .time = context_.images.ttl(), .pushed = !believed};
  }
  out.image = bytes_;
  out.language_worker = attempt_.language.name;
  return out;
}

void GroundRequest::OnDelta(absl::string_view text) {
  if (input_.on_delta) input_.on_delta(text);
  if (!objects_) return;
  for (const GroundObject& object : objects_->Add(text)) input_.on_object(object);
}

absl::StatusOr<WorkerAnswer> GroundRequest::TryWorkers(absl::Time workers_until) {
  const int retries = attempt_.facts.failure.worker_lost ? attempt_.facts.retries + 1 : 0;
  attempt_ = {};
  attempt_.facts.retries = retries;
  CHORD_ASSIGN_OR_RETURN(const auto language,
                         Acquire(WorkerPool::Role::kLanguage, image().plan.tokens + new_tokens_,
                                 affinity_.worker, workers_until));
  attempt_.language = language.id();
  const bool believed = BelievedHeld();
  WorkerPool::Lease vision;
  const auto acquire_vision = [&]() -> absl::Status {
    CHORD_ASSIGN_OR_RETURN(
        vision, Acquire(WorkerPool::Role::kVision, image().plan.grid.patches(), "", workers_until));
    return absl::OkStatus();
  };
  if (!believed) {
    CHORD_RETURN_IF_ERROR(acquire_vision());
    // Other requests about the image meanwhile go where it is going.
    if (stored_ != nullptr) {
      context_.images.SetAffinity(image().id,
                                  {attempt_.language.name, attempt_.language.epoch, false});
    }
  }
  const WorkerRequest request = MakeWorkerRequest(believed);
  if (input_.on_object) objects_.emplace(image().plan);
  attempt_.begun = absl::Now();
  WorkerCalls::Options options;
  options.deadline = deadline_ - Margin(deadline_ - attempt_.begun);
  options.cancel = input_.cancel;
  if (input_.on_delta || input_.on_object) {
    options.on_delta = [this](absl::string_view text) { OnDelta(text); };
  }
  options.only_if_needed = believed;
  options.vision = [&]() -> absl::StatusOr<VisionTarget> {
    if (!vision) CHORD_RETURN_IF_ERROR(acquire_vision());
    attempt_.vision = vision.id();
    return VisionTarget{&vision.vision(), attempt_.vision.name};
  };
  WorkerCalls calls(request, std::move(options));
  absl::StatusOr<WorkerAnswer> answer = calls.Run(language.language());
  attempt_.facts = {.answered = answer.ok(),
                    .failure = calls.failure(),
                    .produced = calls.produced(),
                    .cancelled = input_.cancel.cancelled(),
                    .retries = retries};
  return answer;
}

GroundResult GroundRequest::Assemble(const WorkerAnswer& answer) {
  const Grounder::Options& options = context_.options;
  const absl::Time parsed = absl::Now();
  GroundResult out;
  FillAnswer(answer.model, image().plan, plan_.chinese, options.thresholds,
             options.confidence_map.get(), out);
  FillPoints(answer.model, image().plan, out);
  out.labels = MatchLabels(input_.labels, out.objects);
  out.model_text = answer.model.text;
  if (input_.decode.want_tokens) out.tokens = answer.tokens;
  if (input_.want_evidence && out.evidence) {
    out.evidence->model_fingerprint = options.fingerprint;
  } else {
    out.evidence.reset();
  }
  context_.metrics.StageTook(obs::Stage::kParse, absl::Now() - parsed);
  if (objects_) {
    for (size_t i = objects_->told(); i < out.objects.size(); ++i) {
      input_.on_object(out.objects[i]);
    }
  }
  out.frame = image().plan;
  out.usage.prompt_tokens = answer.prompt_tokens;
  out.usage.completion_tokens = answer.completion_tokens;
  out.usage.decode_steps = answer.decode_steps;
  out.usage.cached_tokens = answer.cached_tokens;
  out.usage.image_tokens = static_cast<int>(image().plan.tokens);
  out.usage.image = answer.encoded ? CacheTier::kNone : answer.tier.value_or(CacheTier::kNone);
  context_.metrics.ServedBy(out.usage.image);
  out.language_worker = attempt_.language.name;
  if (answer.encoded) out.vision_worker = attempt_.vision.name;
  out.request_id = input_.request_id;
  out.model = options.model_name;
  StoreImage(answer, out);
  if (in_conversation_) new_turn_ = {plan_.text, answer.model.text};
  FillTiming(answer, out);
  return out;
}

void GroundRequest::FillTiming(const WorkerAnswer& answer, GroundResult& out) const {
  // The workers' queues overlap, so the longer wait is the one that was felt.
  out.timing.queue = waited_ + std::max(answer.decode_queue, answer.encode_queue);
  out.timing.vision = answer.pixels + answer.vision;
  out.timing.prefill = answer.prefill;
  out.timing.first_token = (attempt_.begun - input_.received_at) + answer.first_token;
  out.timing.decode = answer.decode;
  out.timing.total = absl::Now() - input_.received_at;
}

void GroundRequest::StoreImage(const WorkerAnswer& answer, GroundResult& out) {
  // A worker that does not return how it came by the image keeps nothing of it.
  const ImageAffinity affinity = {attempt_.language.name, attempt_.language.epoch,
                                  answer.tier.has_value()};
  ImageService& images = context_.images;
  if (stored_ != nullptr) {
    images.SetAffinity(image().id, affinity);
    out.image_id = image().id;
  } else if (may_store_ && images.Store(fresh_, bytes_, affinity)) {
    out.image_id = image().id;
    if (!input_.session_id.empty()) {
      images.SetSessionImage(input_.client, input_.session_id, image().digest, image().id);
    }
  }
}

}  // namespace chord::gateway
