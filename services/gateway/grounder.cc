#include "services/gateway/grounder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/obs/log.h"
#include "common/rpc/frame_codec.h"
#include "services/gateway/object_stream.h"
#include "services/gateway/routing/worker_calls.h"

namespace chord::gateway {
namespace {

// The workers get a little less time than we have, so that their word still reaches us before our
// caller gives up.
absl::Duration Margin(absl::Duration left) { return std::min(absl::Milliseconds(50), left / 10); }

// How long a language worker that a vision worker does not know is asked only if there is no other.
constexpr absl::Duration kRest = absl::Seconds(1);

absl::Duration Ms(double milliseconds) {
  return milliseconds >= 0 && milliseconds < 1e9 ? absl::Milliseconds(milliseconds)
                                                 : absl::ZeroDuration();
}

ModelAnswer FromProto(const internal::v1::DecodeDone& done) {
  ModelAnswer out;
  out.text = done.text();
  out.token_ends.assign(done.token_ends().begin(), done.token_ends().end());
  out.log_probabilities.assign(done.log_probabilities().begin(), done.log_probabilities().end());
  if (done.has_log_probability_empty()) out.log_probability_empty = done.log_probability_empty();
  out.forced.assign(done.forced().begin(), done.forced().end());
  for (const auto& choice : done.choices()) {
    out.choices.push_back({choice.offset(), choice.log_close(), choice.log_more()});
  }
  out.cut = done.cut();
  return out;
}

bool DoesNotFit(const absl::Status& status) {
  const std::string reason = ErrorReason(status);
  return reason == "CONTEXT_TOO_LONG" || reason == "PROMPT_TOO_MANY_TOKENS";
}

}  // namespace

// The image of a request.
struct Grounder::Subject {
  StoredImageRef kept;      // of the store; null: it came with the prompt
  StoredImage fresh;        // when it came with the prompt; no bytes
  absl::string_view bytes;  // of either
  ImageAffinity home;
  bool may_stay = false;  // a key goes to the worker, and it is kept afterwards

  const StoredImage& image() const { return kept != nullptr ? *kept : fresh; }
};

// What the attempts of a request have learnt.
struct Grounder::Asked {
  WorkerCallsFailure failure;
  WorkerId language, vision;    // of the last attempt
  std::vector<WorkerId> spare;  // lost
  bool no_worker = false;       // the last attempt found none
  absl::Duration waited;        // for workers
  absl::Time begun;             // of the last attempt's calls
  std::optional<ObjectStream> objects;
};

absl::StatusOr<GroundResult> Grounder::Ground(const GroundInput& input) {
  const auto slot = admission_.Enter(input.client, static_cast<int64_t>(input.image.size()));
  if (!slot.ok()) return slot.status();
  const absl::Time deadline =
      input.deadline == absl::InfiniteFuture()
          ? input.received_at + options_.default_deadline
          : std::min(input.deadline, input.received_at + options_.max_deadline);
  if (absl::Now() >= deadline) return errors::DeadlineExceeded();
  retries_.Earn();
  auto result = Run(input, deadline);
  if (!result.ok()) return ForClient(result.status());
  admission_.Answered(absl::Now() - input.received_at);
  return result;
}

absl::StatusOr<Grounder::Subject> Grounder::Find(const GroundInput& input) {
  Subject out;
  const auto take = [&out](ImageStore::Found found) {
    out.kept = std::move(found.image);
    out.home = std::move(found.home);
    out.bytes = out.kept->bytes;
    out.may_stay = true;
  };
  if (!input.image_id.empty()) {
    if (!input.image.empty()) return errors::ImageSourceConflict();
    CHORD_ASSIGN_OR_RETURN(auto found, image_service_.Use(input.image_id));
    take(std::move(found));
    return out;
  }
  const absl::Time probed = absl::Now();
  CHORD_ASSIGN_OR_RETURN(const image::FramePlan plan, image_service_.Plan(input.image));
  metrics_.StageTook(obs::Stage::kProbe, absl::Now() - probed);
  metrics_.ImageReceived(static_cast<int64_t>(input.image.size()));
  out.bytes = input.image;
  const absl::Status room =
      image_service_.Room(static_cast<int64_t>(input.image.size()), /*pin=*/false);
  out.may_stay = room.ok();
  if (!out.may_stay) {
    // A conversation lives with its image.
    if (!input.session_id.empty()) return room;
    out.fresh.plan = plan;
    return out;
  }
  out.fresh = image_service_.Name(input.image, plan);
  if (!input.session_id.empty()) {
    const std::string id =
        image_service_.SessionImage(input.client, input.session_id, out.fresh.digest);
    if (!id.empty()) {
      if (auto found = image_service_.Use(id); found.ok()) take(*std::move(found));
    }
  }
  return out;
}

absl::StatusOr<WorkerCallsOutput> Grounder::AskOnce(const GroundInput& input,
                                                    const Subject& subject,
                                                    absl::Span<const SessionTurn> turns,
                                                    absl::string_view prompt, int new_tokens,
                                                    absl::Time deadline, absl::Time worker_until,
                                                    Asked& asked) {
  const StoredImage& image = subject.image();
  const auto acquire = [&](WorkerPool::Role role, int64_t cost,
                           const std::string& preferred) -> absl::StatusOr<WorkerPool::Lease> {
    const absl::Time from = absl::Now();
    auto lease = pool_.Acquire(role, {cost, preferred, asked.spare}, input.cancel,
                               std::min(deadline, std::max(worker_until, from)));
    asked.waited += absl::Now() - from;
    if (lease.ok()) return lease;
    asked.no_worker = true;
    return absl::Now() >= deadline ? errors::DeadlineExceeded() : lease.status();
  };
  asked.failure = {};
  asked.no_worker = false;
  asked.vision = {};
  CHORD_ASSIGN_OR_RETURN(
      const auto language,
      acquire(WorkerPool::Role::kLanguage, image.plan.tokens + new_tokens, subject.home.worker));
  asked.language = language.id();
  // What the language worker said it has is there unless it has begun a new life; whatever we
  // believe, its own word counts in the end.
  const bool believed = subject.kept != nullptr && subject.home.held &&
                        asked.language == WorkerId{subject.home.worker, subject.home.incarnation};
  WorkerPool::Lease vision;
  if (!believed) {
    CHORD_ASSIGN_OR_RETURN(vision,
                           acquire(WorkerPool::Role::kVision, image.plan.grid.patches(), ""));
    // Others who ask about it meanwhile go where it is going.
    if (subject.kept != nullptr) {
      image_service_.SetHome(image.id, {asked.language.name, asked.language.incarnation, false});
    }
  }

  WorkerCallsInput legs;
  internal::v1::Ticket& ticket = *legs.decode.mutable_ticket();
  ticket.set_id(NewTicketId());
  ticket.set_request_id(input.request_id);
  ticket.set_model_fingerprint(options_.fingerprint);
  const auto say = [&legs](const char* role) -> internal::v1::Turn& {
    internal::v1::Turn& turn = *legs.decode.add_turns();
    turn.set_role(role);
    if (legs.decode.turns_size() == 1) turn.add_parts()->set_image(0);
    return turn;
  };
  for (const SessionTurn& turn : turns) {
    say("user").add_parts()->set_text(turn.prompt);
    say("assistant").add_parts()->set_text(turn.answer);
  }
  say("user").add_parts()->set_text(std::string(prompt));
  *legs.decode.add_images() = rpc::ToProto(image.plan);
  legs.decode.set_max_new_tokens(new_tokens);
  legs.decode.set_grammar(input.grammar);
  if (subject.may_stay) {
    internal::v1::ImageUse& use = *legs.decode.add_uses();
    use.set_key(image.key);
    use.set_pushed(!believed);
    use.set_pin(image.pin);
    use.set_keep_seconds(absl::ToDoubleSeconds(image_service_.ttl()));
  }
  *legs.encode.mutable_ticket() = ticket;
  legs.encode.set_image_bytes(static_cast<int64_t>(subject.bytes.size()));
  *legs.encode.mutable_plan() = legs.decode.images(0);
  legs.encode.set_target(asked.language.name);
  legs.image = subject.bytes;
  asked.begun = absl::Now();
  legs.deadline = deadline - Margin(deadline - asked.begun);
  legs.cancel = input.cancel;
  legs.on_delta = input.on_delta;
  if (input.on_object) {
    asked.objects.emplace(image.plan);
    legs.on_delta = [&input, &asked](absl::string_view words) {
      if (input.on_delta) input.on_delta(words);
      for (const GroundObject& object : asked.objects->Add(words)) input.on_object(object);
    };
  }
  legs.only_if_needed = believed;
  legs.vision = [&]() -> absl::StatusOr<VisionTarget> {
    if (!vision) {
      CHORD_ASSIGN_OR_RETURN(vision,
                             acquire(WorkerPool::Role::kVision, image.plan.grid.patches(), ""));
    }
    asked.vision = vision.id();
    return VisionTarget{&vision.vision(), asked.vision.name};
  };
  return CallWorkers(language.language(), legs, asked.failure);
}

absl::StatusOr<WorkerCallsOutput> Grounder::Ask(const GroundInput& input, const Subject& subject,
                                                absl::Span<const SessionTurn> turns,
                                                absl::string_view prompt, int new_tokens,
                                                absl::Time deadline, Asked& asked) {
  auto output = AskOnce(input, subject, turns, prompt, new_tokens, deadline,
                        absl::Now() + options_.worker_wait, asked);
  const WorkerCallsFailure& failure = asked.failure;
  if (failure.not_known) pool_.Rest(asked.language, kRest);
  if (output.ok() || !failure.worker_lost || failure.produced || input.cancel.cancelled()) {
    return output;
  }
  if (!retries_.TrySpend()) {
    metrics_.Retried(obs::RetryOutcome::kOverBudget);
    return output;
  }
  if (failure.where == WorkerCallsFailure::Where::kVision) asked.spare.push_back(asked.vision);
  if (failure.where == WorkerCallsFailure::Where::kLanguage) asked.spare.push_back(asked.language);
  obs::Log(obs::LogLevel::kInfo, "retry", input.request_id,
           {{"lost", asked.spare.empty() ? "" : asked.spare.back().name},
            {"reason", ErrorReason(output.status())}});
  auto again = AskOnce(input, subject, turns, prompt, new_tokens, deadline,
                       absl::Now() + options_.retry_wait, asked);
  metrics_.Retried(again.ok()        ? obs::RetryOutcome::kAnswered
                   : asked.no_worker ? obs::RetryOutcome::kNoWorker
                                     : obs::RetryOutcome::kFailed);
  // Without a worker to go to, the first answer is the better one.
  return !again.ok() && asked.no_worker ? std::move(output) : std::move(again);
}

absl::StatusOr<GroundResult> Grounder::Run(const GroundInput& input, absl::Time deadline) {
  CHORD_RETURN_IF_ERROR(CheckPrompt(input.prompt, options_.max_prompt_bytes));
  const int new_tokens = input.max_new_tokens.value_or(options_.default_new_tokens);
  if (new_tokens < 1 || new_tokens > options_.max_new_tokens) {
    return errors::ParameterInvalid("max_new_tokens",
                                    absl::StrCat("an integer from 1 to ", options_.max_new_tokens));
  }
  if (!input.session_id.empty() && !IsSessionId(input.session_id)) {
    return errors::ParameterInvalid("session_id", "1 to 64 characters of A-Z, a-z, 0-9, _ and -");
  }
  CHORD_ASSIGN_OR_RETURN(const Subject subject, Find(input));
  const StoredImage& image = subject.image();
  CHORD_RETURN_IF_ERROR(input.cancel.Check());

  std::vector<SessionTurn> turns;
  const SessionTurn* said = nullptr;
  SessionTurn turn;
  size_t forgotten = 0;
  absl::Cleanup end_session = [&] {
    image_service_.sessions().End(input.session_id, image.id, said, forgotten, absl::Now());
  };
  if (input.session_id.empty()) {
    std::move(end_session).Cancel();
  } else {
    auto begun = image_service_.sessions().Begin(input.session_id, image.id, absl::Now());
    if (!begun.ok()) {
      std::move(end_session).Cancel();
      return begun.status();
    }
    turns = std::move(begun->turns);
    metrics_.Session(begun->created ? obs::SessionEvent::kCreated : obs::SessionEvent::kHit);
    for (int i = 0; i < begun->expired; ++i) metrics_.Session(obs::SessionEvent::kExpired);
    for (int i = 0; i < begun->evicted; ++i) metrics_.Session(obs::SessionEvent::kEvicted);
  }
  const std::string prompt = WrapPrompt(options_.wrapper, input.prompt);

  Asked asked;
  auto legs = Ask(input, subject, turns, prompt, new_tokens, deadline, asked);
  // A long conversation outgrows the model: its oldest half is forgotten, not the new prompt.
  while (!legs.ok() && !turns.empty() && DoesNotFit(legs.status())) {
    const size_t half = (turns.size() + 1) / 2;
    turns.erase(turns.begin(), turns.begin() + static_cast<std::ptrdiff_t>(half));
    forgotten += half;
    legs = Ask(input, subject, turns, prompt, new_tokens, deadline, asked);
  }
  metrics_.StageTook(obs::Stage::kQueue, asked.waited);
  if (!legs.ok()) return legs.status();
  const WorkerCallsOutput& output = *legs;

  const absl::Time parsed = absl::Now();
  GroundResult out;
  FillAnswer(FromProto(output.decode), image.plan, HasCjk(input.prompt), options_.thresholds,
             options_.confidence_map.get(), out);
  if (input.want_evidence && out.evidence) {
    out.evidence->model_fingerprint = options_.fingerprint;
  } else {
    out.evidence.reset();
  }
  metrics_.StageTook(obs::Stage::kParse, absl::Now() - parsed);
  if (asked.objects) {
    for (size_t i = asked.objects->told(); i < out.objects.size(); ++i) {
      input.on_object(out.objects[i]);
    }
  }
  out.frame = image.plan;
  out.usage.prompt_tokens = output.decode.prompt_tokens();
  out.usage.completion_tokens = output.decode.completion_tokens();
  out.usage.decode_steps = output.decode.decode_steps();
  out.usage.image_tokens = static_cast<int>(image.plan.tokens);
  const internal::v1::CacheTier from = output.decode.image();
  out.usage.image = output.encoded                                ? Served::kPixels
                    : from == internal::v1::CACHE_TIER_KV         ? Served::kKv
                    : from == internal::v1::CACHE_TIER_EMBEDDINGS ? Served::kEmbeddings
                                                                  : Served::kPixels;
  metrics_.ServedBy(out.usage.image == Served::kKv           ? obs::CacheTier::kKv
                    : out.usage.image == Served::kEmbeddings ? obs::CacheTier::kEmbeddings
                                                             : obs::CacheTier::kNone);
  // The workers' queues overlap, so the longer wait is the one that was felt.
  out.timing.queue =
      asked.waited + std::max(Ms(output.decode.queue_ms()), Ms(output.encode.queue_ms()));
  out.timing.vision = Ms(output.encode.decode_ms()) + Ms(output.encode.vision_ms());
  out.timing.prefill = Ms(output.decode.prefill_ms());
  out.timing.first_token = (asked.begun - input.received_at) + Ms(output.decode.ttft_ms());
  out.timing.decode = Ms(output.decode.decode_ms());
  out.language_worker = asked.language.name;
  if (output.encoded) out.vision_worker = asked.vision.name;
  out.request_id = input.request_id;
  out.model = options_.model_name;
  out.cut = output.decode.cut();

  // A worker that does not say how it came by the image keeps nothing of it.
  const ImageAffinity home = {asked.language.name, asked.language.incarnation,
                              from != internal::v1::CACHE_TIER_UNSPECIFIED};
  if (subject.kept != nullptr) {
    image_service_.SetHome(image.id, home);
    out.image_id = image.id;
  } else if (subject.may_stay && image_service_.Keep(subject.fresh, subject.bytes, home)) {
    out.image_id = image.id;
    if (!input.session_id.empty()) {
      image_service_.SetSessionImage(input.client, input.session_id, image.digest, image.id);
    }
  }
  if (!input.session_id.empty()) {
    turn = {prompt, output.decode.text()};
    said = &turn;
  }
  out.timing.total = absl::Now() - input.received_at;
  return out;
}

}  // namespace chord::gateway
