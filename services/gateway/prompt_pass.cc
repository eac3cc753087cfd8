#include "services/gateway/prompt_pass.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/obs/log.h"

namespace chord::gateway {
namespace {

// The workers get a little less time than we have, so that their answer still reaches us before our
// client gives up.
absl::Duration Margin(absl::Duration left) { return std::min(absl::Milliseconds(50), left / 10); }

// How long a language worker that a vision worker does not know is used only if there is no other.
constexpr absl::Duration kCooldown = absl::Seconds(1);

}  // namespace

absl::StatusOr<WorkerAnswer> PromptPass::Run() {
  absl::StatusOr<WorkerAnswer> answer = RunOnce();
  // A long conversation outgrows the model: its oldest half is dropped, not the new prompt.
  std::vector<SessionTurn>& turns = task_.turns;
  while (!answer.ok() && !turns.empty() && OutgrowsModel(answer.status())) {
    const size_t half = (turns.size() + 1) / 2;
    turns.erase(turns.begin(), turns.begin() + static_cast<std::ptrdiff_t>(half));
    dropped_turns_ += half;
    answer = RunOnce();
  }
  return answer;
}

// The conversation as it is now, with a retry.
absl::StatusOr<WorkerAnswer> PromptPass::RunOnce() {
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
absl::StatusOr<WorkerPool::Lease> PromptPass::Acquire(WorkerPool::Role role, int64_t cost,
                                                      const std::string& preferred,
                                                      absl::Time until) {
  const absl::Time from = absl::Now();
  const absl::Time latest = task_.deadline - Margin(task_.deadline - from);
  auto lease = context_.pool.Acquire(role, {cost, preferred, excluded_}, task_.cancel,
                                     std::min(latest, std::max(until, from)));
  waited_ += absl::Now() - from;
  attempt_.no_worker |= !lease.ok();
  return lease;
}

absl::Status PromptPass::AcquireVision(absl::Time until, WorkerPool::Lease& vision) {
  CHORD_ASSIGN_OR_RETURN(
      vision, Acquire(WorkerPool::Role::kVision, image_.get().plan.grid.patches(), "", until));
  return absl::OkStatus();
}

// What the language worker returned that it holds is there unless a new epoch has begun; whatever
// we believe, its own word counts in the end.
bool PromptPass::BelievedHeld() const {
  const ImageAffinity& affinity = task_.affinity;
  return affinity.held && attempt_.language == WorkerId{affinity.worker, affinity.epoch};
}

// The turns of the session and the new prompt; the image precedes the first.
std::vector<ChatTurn> PromptPass::SessionConversation() const {
  using Role = ChatTurn::Role;
  std::vector<ChatTurn> out;
  for (const SessionTurn& turn : task_.turns) {
    out.push_back({Role::kUser, {{false, turn.prompt}}});
    out.push_back({Role::kAssistant, {{false, turn.answer}}});
  }
  out.push_back({Role::kUser, {{false, task_.prompt}}});
  std::vector<TurnPart>& first = out.front().parts;
  first.insert(first.begin(), TurnPart{.image = true, .text = ""});
  return out;
}

std::vector<ChatTurn> PromptPass::Conversation() const {
  if (input_.conversation.empty()) return SessionConversation();
  std::vector<ChatTurn> out = input_.conversation;
  // The last message of a conversation that asks for labels has no text of its own.
  if (!input_.labels.empty()) out.back().parts.push_back({false, task_.prompt});
  return out;
}

WorkerRequest PromptPass::MakeWorkerRequest(bool believed) const {
  const StoredImage& image = image_.get();
  WorkerRequest out;
  out.ticket = NewTicketId();
  out.request_id = input_.request_id;
  out.trace = input_.trace;
  out.model_fingerprint = context_.options.fingerprint;
  out.turns = Conversation();
  out.decode = input_.decode;
  out.plan = image.plan;
  out.max_new_tokens = task_.new_tokens;
  out.grammar = task_.grammar;
  if (image_.keyed) {
    out.keeping = {
        .key = image.key, .pin = image.pin, .time = context_.images.ttl(), .pushed = !believed};
  }
  out.image = image_.bytes;
  out.language_worker = attempt_.language.name;
  return out;
}

absl::StatusOr<WorkerAnswer> PromptPass::TryWorkers(absl::Time workers_until) {
  const int retries = attempt_.facts.failure.worker_lost ? attempt_.facts.retries + 1 : 0;
  attempt_ = {};
  attempt_.facts.retries = retries;
  const StoredImage& image = image_.get();
  CHORD_ASSIGN_OR_RETURN(const auto language,
                         Acquire(WorkerPool::Role::kLanguage, image.plan.tokens + task_.new_tokens,
                                 task_.affinity.worker, workers_until));
  attempt_.language = language.id();
  const bool believed = BelievedHeld();
  WorkerPool::Lease vision;
  if (!believed) {
    CHORD_RETURN_IF_ERROR(AcquireVision(workers_until, vision));
    // Other requests about the image meanwhile go where it is going.
    if (image_.stored != nullptr) {
      context_.images.SetAffinity(image.id,
                                  {attempt_.language.name, attempt_.language.epoch, false});
    }
  }
  const WorkerRequest request = MakeWorkerRequest(believed);
  attempt_.begun = absl::Now();
  WorkerCalls::Options options;
  options.deadline = task_.deadline - Margin(task_.deadline - attempt_.begun);
  options.cancel = task_.cancel;
  options.on_delta = task_.on_delta;
  if (task_.on_accepted) {
    options.on_accepted = [this] { task_.on_accepted(attempt_.language); };
  }
  options.only_if_needed = believed;
  options.vision = [&]() -> absl::StatusOr<VisionTarget> {
    if (!vision) CHORD_RETURN_IF_ERROR(AcquireVision(workers_until, vision));
    attempt_.vision = vision.id();
    return VisionTarget{&vision.vision(), attempt_.vision.name};
  };
  WorkerCalls calls(request, std::move(options));
  absl::StatusOr<WorkerAnswer> answer = calls.Run(language.language());
  attempt_.facts = {.answered = answer.ok(),
                    .failure = calls.failure(),
                    .produced = calls.produced(),
                    .cancelled = task_.cancel.cancelled(),
                    .retries = retries};
  return answer;
}

}  // namespace chord::gateway
