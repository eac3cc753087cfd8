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
#include "common/rpc/cache_tier.h"
#include "common/rpc/frame_codec.h"
#include "services/gateway/object_stream.h"
#include "services/gateway/point_answer.h"
#include "services/gateway/prompt_plan.h"
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
  out.cut = done.truncated();
  return out;
}

const char* RoleName(ChatTurn::Role role) {
  switch (role) {
    case ChatTurn::Role::kSystem:
      return "system";
    case ChatTurn::Role::kUser:
      return "user";
    case ChatTurn::Role::kAssistant:
      return "assistant";
  }
  return "";
}

void AddConversation(absl::Span<const ChatTurn> conversation, internal::v1::DecodeRequest& out) {
  for (const ChatTurn& from : conversation) {
    internal::v1::Turn& turn = *out.add_turns();
    turn.set_role(RoleName(from.role));
    for (const TurnPart& part : from.parts) {
      if (part.image) {
        turn.add_parts()->set_image(0);
      } else {
        turn.add_parts()->set_text(part.text);
      }
    }
  }
}

void SetDecodeOptions(const DecodeOptions& options, internal::v1::DecodeRequest& out) {
  if (options.sampling.temperature > 0) {
    internal::v1::Sampling& sampling = *out.mutable_sampling();
    sampling.set_temperature(options.sampling.temperature);
    sampling.set_top_p(options.sampling.top_p);
    sampling.set_seed(options.sampling.seed);
  }
  for (const std::string& stop : options.stop) out.add_stop(stop);
  out.set_top_tokens(options.top_tokens);
}

// The tokens that wrote the answer; none where the worker's numbers do not fit its text.
std::vector<AnswerToken> TokensOf(const internal::v1::DecodeDone& done) {
  std::vector<AnswerToken> out;
  const auto size = static_cast<int32_t>(done.text().size());
  const int count = done.token_ends_size();
  if (done.log_probabilities_size() != count) return out;
  int32_t begin = 0;
  for (int i = 0; i < count; ++i) {
    const int32_t end = done.token_ends(i);
    if (end < begin || end > size) return {};
    AnswerToken token;
    token.text = done.text().substr(begin, end - begin);
    token.log_probability = done.log_probabilities(i);
    for (int k = 0; i < done.top_size() && k < done.top(i).tokens_size() &&
                    k < done.top(i).log_probabilities_size();
         ++k) {
      token.top.push_back({done.top(i).tokens(k), done.top(i).log_probabilities(k)});
    }
    out.push_back(std::move(token));
    begin = end;
  }
  return out;
}

bool DoesNotFit(const absl::Status& status) {
  return errors::Is(status, Reason::kContextTooLong) ||
         errors::Is(status, Reason::kPromptTooManyTokens);
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
                                                    const PromptPlan& plan, int new_tokens,
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
  if (!input.conversation.empty()) {
    AddConversation(input.conversation, legs.decode);
  } else {
    for (const SessionTurn& turn : turns) {
      say("user").add_parts()->set_text(turn.prompt);
      say("assistant").add_parts()->set_text(turn.answer);
    }
    say("user").add_parts()->set_text(plan.text);
  }
  SetDecodeOptions(input.decode, legs.decode);
  *legs.decode.add_images() = rpc::ToProto(image.plan);
  legs.decode.set_max_new_tokens(new_tokens);
  legs.decode.set_grammar(plan.grammar);
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
                                                const PromptPlan& plan, int new_tokens,
                                                absl::Time deadline, Asked& asked) {
  auto output = AskOnce(input, subject, turns, plan, new_tokens, deadline,
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
  auto again = AskOnce(input, subject, turns, plan, new_tokens, deadline,
                       absl::Now() + options_.retry_wait, asked);
  metrics_.Retried(again.ok()        ? obs::RetryOutcome::kAnswered
                   : asked.no_worker ? obs::RetryOutcome::kNoWorker
                                     : obs::RetryOutcome::kFailed);
  // Without a worker to go to, the first answer is the better one.
  return !again.ok() && asked.no_worker ? std::move(output) : std::move(again);
}

absl::StatusOr<GroundResult> Grounder::Run(const GroundInput& input, absl::Time deadline) {
  CHORD_ASSIGN_OR_RETURN(const PromptPlan plan,
                         PlanPrompt(input, options_.wrapper, options_.max_prompt_bytes));
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

  Asked asked;
  auto legs = Ask(input, subject, turns, plan, new_tokens, deadline, asked);
  // A long conversation outgrows the model: its oldest half is forgotten, not the new prompt.
  while (!legs.ok() && !turns.empty() && DoesNotFit(legs.status())) {
    const size_t half = (turns.size() + 1) / 2;
    turns.erase(turns.begin(), turns.begin() + static_cast<std::ptrdiff_t>(half));
    forgotten += half;
    legs = Ask(input, subject, turns, plan, new_tokens, deadline, asked);
  }
  metrics_.StageTook(obs::Stage::kQueue, asked.waited);
  if (!legs.ok()) return legs.status();
  const WorkerCallsOutput& output = *legs;

  const absl::Time parsed = absl::Now();
  GroundResult out;
  const ModelAnswer answer = FromProto(output.decode);
  FillAnswer(answer, image.plan, plan.chinese, options_.thresholds, options_.confidence_map.get(),
             out);
  FillPoints(answer, image.plan, out);
  out.labels = MatchLabels(input.labels, out.objects);
  out.model_text = answer.text;
  if (input.decode.want_tokens) out.tokens = TokensOf(output.decode);
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
  out.usage.cached_tokens = output.decode.cached_tokens();
  out.usage.image_tokens = static_cast<int>(image.plan.tokens);
  const std::optional<CacheTier> tier = rpc::FromProto(output.decode.image());
  out.usage.image = output.encoded ? CacheTier::kNone : tier.value_or(CacheTier::kNone);
  metrics_.ServedBy(out.usage.image);
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

  // A worker that does not say how it came by the image keeps nothing of it.
  const ImageAffinity home = {asked.language.name, asked.language.incarnation, tier.has_value()};
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
    turn = {plan.text, output.decode.text()};
    said = &turn;
  }
  out.timing.total = absl::Now() - input.received_at;
  return out;
}

}  // namespace chord::gateway
