#include "services/llm_worker/decode_codec.h"

#include <utility>

#include "absl/time/time.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/rpc/cache_tier.h"
#include "common/rpc/frame_codec.h"

namespace chord::llm_worker {

namespace v1 = internal::v1;

absl::StatusOr<DecodeInput> FromProto(const v1::DecodeRequest& request) {
  DecodeInput out;
  out.ticket_id = request.ticket().id();
  out.request_id = request.ticket().request_id().substr(0, 64);
  out.model_fingerprint = request.ticket().model_fingerprint();
  out.max_new_tokens = request.max_new_tokens();
  for (const v1::Turn& turn : request.turns()) {
    model::Message message{turn.role(), {}};
    for (const v1::Part& part : turn.parts()) {
      if (part.has_text()) {
        message.parts.emplace_back(part.text());
      } else if (part.has_image()) {
        message.parts.emplace_back(model::ImagePart{part.image()});
      } else {
        return errors::ParameterInvalid("parts", "texts and images");
      }
    }
    out.messages.push_back(std::move(message));
  }
  for (const v1::FramePlan& image : request.images()) {
    CHORD_ASSIGN_OR_RETURN(auto plan, rpc::FromProto(image));
    out.images.push_back(plan);
  }
  out.grammar = request.grammar();
  if (request.has_sampling()) {
    const v1::Sampling& sampling = request.sampling();
    out.randomness = {sampling.temperature(), sampling.top_p(), sampling.seed()};
  }
  out.stop.assign(request.stop().begin(), request.stop().end());
  out.top_tokens = request.top_tokens();
  for (const v1::ImageUse& use : request.uses()) {
    out.uses.push_back({use.key(), use.pushed(), use.pin(), use.keep_seconds()});
  }
  return out;
}

v1::DecodeDone ToProto(DecodeResult result) {
  v1::DecodeDone out;
  out.set_text(std::move(result.text));
  out.mutable_token_ends()->Assign(result.token_ends.begin(), result.token_ends.end());
  out.mutable_log_probabilities()->Assign(result.log_probabilities.begin(),
                                          result.log_probabilities.end());
  out.mutable_forced()->Assign(result.jump_forward.begin(), result.jump_forward.end());
  for (const auto& place : result.top) {
    v1::TopTokens& to = *out.add_top();
    for (const TokenAlternative& token : place) {
      to.add_tokens(token.bytes);
      to.add_log_probabilities(token.log_probability);
    }
  }
  for (const ListChoice& choice : result.choices) {
    v1::ListChoice& to = *out.add_choices();
    to.set_offset(static_cast<int32_t>(choice.offset));
    to.set_log_close(choice.log_close);
    to.set_log_more(choice.log_more);
  }
  out.set_image(rpc::ToProto(result.image));
  out.set_grammar(result.grammar);
  out.set_cached_tokens(result.cached_tokens);
  out.set_truncated(result.truncated);
  out.set_list_closed(result.list_closed);
  out.set_prompt_tokens(result.prompt_tokens);
  out.set_completion_tokens(static_cast<int>(result.ids.size()));
  out.set_decode_steps(result.decode_steps);
  out.set_queue_ms(absl::ToDoubleMilliseconds(result.queue));
  out.set_wait_embeddings_ms(absl::ToDoubleMilliseconds(result.wait_embeddings));
  out.set_prefill_ms(absl::ToDoubleMilliseconds(result.prefill));
  out.set_ttft_ms(absl::ToDoubleMilliseconds(result.ttft));
  out.set_decode_ms(absl::ToDoubleMilliseconds(result.decode));
  if (result.log_probability_empty) out.set_log_probability_empty(*result.log_probability_empty);
  return out;
}

}  // namespace chord::llm_worker
