#include "services/gateway/grounder.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/rpc/frame_codec.h"
#include "services/gateway/legs.h"

namespace chord::gateway {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// The workers get a little less time than we have, so that their word still reaches us before our
// caller gives up.
absl::Duration Margin(absl::Duration left) { return std::min(absl::Milliseconds(50), left / 10); }

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

}  // namespace

absl::Status Grounder::Admission() const {
  return in_flight_.load() < options_.max_in_flight ? absl::OkStatus()
                                                    : errors::Overloaded(kRetryAfter);
}

absl::StatusOr<GroundResult> Grounder::Ground(const GroundInput& input) {
  const auto bytes = static_cast<int64_t>(input.image.size());
  const int before = in_flight_.fetch_add(1);
  const int64_t bytes_before = image_bytes_.fetch_add(bytes);
  const absl::Cleanup leave = [&] {
    in_flight_.fetch_sub(1);
    image_bytes_.fetch_sub(bytes);
  };
  if (before >= options_.max_in_flight ||
      (bytes_before > 0 && bytes_before + bytes > options_.max_image_bytes_in_flight)) {
    return errors::Overloaded(kRetryAfter);
  }
  const absl::Time deadline =
      input.deadline == absl::InfiniteFuture()
          ? input.received_at + options_.default_deadline
          : std::min(input.deadline, input.received_at + options_.max_deadline);
  if (absl::Now() >= deadline) return errors::DeadlineExceeded();
  auto result = Run(input, deadline);
  if (!result.ok()) return ForClient(result.status());
  return result;
}

absl::StatusOr<GroundResult> Grounder::Run(const GroundInput& input, absl::Time deadline) {
  CHORD_RETURN_IF_ERROR(CheckPrompt(input.prompt, options_.max_prompt_bytes));
  const int new_tokens = input.max_new_tokens.value_or(options_.default_new_tokens);
  if (new_tokens < 1 || new_tokens > options_.max_new_tokens) {
    return errors::ParameterInvalid("max_new_tokens",
                                    absl::StrCat("an integer from 1 to ", options_.max_new_tokens));
  }
  const absl::Time probed = absl::Now();
  CHORD_ASSIGN_OR_RETURN(const image::Header header,
                         image::Probe(input.image, options_.image_limits));
  CHORD_ASSIGN_OR_RETURN(const image::FramePlan plan, image::PlanFrame(header, options_.geometry));
  metrics_.StageTook(obs::Stage::kProbe, absl::Now() - probed);
  metrics_.ImageReceived(static_cast<int64_t>(input.image.size()));
  CHORD_RETURN_IF_ERROR(input.cancel.Check());

  const absl::Time asked = absl::Now();
  const WorkerPool::Cost cost = {plan.grid.patches(), plan.tokens + new_tokens};
  auto lease = pool_.Acquire(cost, input.cancel, std::min(deadline, asked + options_.worker_wait));
  const absl::Duration waited = absl::Now() - asked;
  metrics_.StageTook(obs::Stage::kQueue, waited);
  if (!lease.ok()) {
    return absl::Now() >= deadline ? errors::DeadlineExceeded() : lease.status();
  }

  LegsInput legs;
  internal::v1::Ticket& ticket = *legs.decode.mutable_ticket();
  ticket.set_id(NewTicketId());
  ticket.set_request_id(input.request_id);
  ticket.set_model_fingerprint(options_.fingerprint);
  internal::v1::Turn& turn = *legs.decode.add_turns();
  turn.set_role("user");
  turn.add_parts()->set_image(0);
  turn.add_parts()->set_text(WrapPrompt(options_.wrapper, input.prompt));
  *legs.decode.add_images() = rpc::ToProto(plan);
  legs.decode.set_max_new_tokens(new_tokens);
  *legs.encode.mutable_ticket() = ticket;
  legs.encode.set_image_bytes(static_cast<int64_t>(input.image.size()));
  *legs.encode.mutable_plan() = legs.decode.images(0);
  legs.encode.set_target(lease->language_name());
  legs.image = input.image;
  const absl::Time begun = absl::Now();
  legs.deadline = deadline - Margin(deadline - begun);
  legs.cancel = input.cancel;
  legs.on_delta = input.on_delta;
  CHORD_ASSIGN_OR_RETURN(const LegsOutput output, RunLegs(*lease, legs));

  const absl::Time parsed = absl::Now();
  GroundResult out;
  FillAnswer(FromProto(output.decode), plan, HasCjk(input.prompt), options_.thresholds,
             options_.confidence_map.get(), out);
  if (input.want_evidence && out.evidence) {
    out.evidence->model_fingerprint = options_.fingerprint;
  } else {
    out.evidence.reset();
  }
  metrics_.StageTook(obs::Stage::kParse, absl::Now() - parsed);
  out.frame = plan;
  out.usage.prompt_tokens = output.decode.prompt_tokens();
  out.usage.completion_tokens = output.decode.completion_tokens();
  out.usage.decode_steps = output.decode.decode_steps();
  out.usage.image_tokens = static_cast<int>(plan.tokens);
  // The workers' queues overlap, so the longer wait is the one that was felt.
  out.timing.queue = waited + std::max(Ms(output.decode.queue_ms()), Ms(output.encode.queue_ms()));
  out.timing.vision = Ms(output.encode.decode_ms()) + Ms(output.encode.vision_ms());
  out.timing.prefill = Ms(output.decode.prefill_ms());
  out.timing.first_token = (begun - input.received_at) + Ms(output.decode.ttft_ms());
  out.timing.decode = Ms(output.decode.decode_ms());
  out.timing.total = absl::Now() - input.received_at;
  out.request_id = input.request_id;
  out.model = options_.model_name;
  out.cut = output.decode.cut();
  return out;
}

}  // namespace chord::gateway
