#include "services/gateway/routing/worker_codec.h"

#include "common/rpc/cache_tier.h"
#include "common/rpc/frame_codec.h"

namespace chord::gateway {
namespace {

namespace v1 = internal::v1;

absl::Duration Milliseconds(double milliseconds) {
  return milliseconds >= 0 && milliseconds < 1e9 ? absl::Milliseconds(milliseconds)
                                                 : absl::ZeroDuration();
}

v1::Ticket TicketOf(const WorkerRequest& request) {
  v1::Ticket out;
  out.set_id(request.ticket);
  out.set_request_id(request.request_id);
  out.set_model_fingerprint(request.model_fingerprint);
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

void SetDecodeOptions(const DecodeOptions& options, v1::DecodeRequest& out) {
  if (options.sampling.temperature > 0) {
    v1::Sampling& sampling = *out.mutable_sampling();
    sampling.set_temperature(options.sampling.temperature);
    sampling.set_top_p(options.sampling.top_p);
    sampling.set_seed(options.sampling.seed);
  }
  for (const std::string& stop : options.stop) out.add_stop(stop);
  out.set_top_tokens(options.top_tokens);
}

// The tokens that wrote the answer; none where the worker's numbers do not fit its text.
std::vector<AnswerToken> TokensOf(const v1::DecodeDone& done) {
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

}  // namespace

v1::DecodeRequest ToDecodeRequest(const WorkerRequest& request) {
  v1::DecodeRequest out;
  *out.mutable_ticket() = TicketOf(request);
  for (const ChatTurn& turn : request.turns) {
    v1::Turn& to = *out.add_turns();
    to.set_role(RoleName(turn.role));
    for (const TurnPart& part : turn.parts) {
      if (part.image) {
        to.add_parts()->set_image(0);
      } else {
        to.add_parts()->set_text(part.text);
      }
    }
  }
  SetDecodeOptions(request.decode, out);
  *out.add_images() = rpc::ToProto(request.plan);
  out.set_max_new_tokens(request.max_new_tokens);
  out.set_grammar(request.grammar);
  if (request.keeping) {
    v1::ImageUse& use = *out.add_uses();
    use.set_key(request.keeping->key);
    use.set_pushed(request.keeping->pushed);
    use.set_pin(request.keeping->pin);
    use.set_keep_seconds(absl::ToDoubleSeconds(request.keeping->time));
  }
  return out;
}

v1::EncodeHeader ToEncodeHeader(const WorkerRequest& request) {
  v1::EncodeHeader out;
  *out.mutable_ticket() = TicketOf(request);
  out.set_image_bytes(static_cast<int64_t>(request.image.size()));
  *out.mutable_plan() = rpc::ToProto(request.plan);
  out.set_target(request.language_worker);
  return out;
}

WorkerAnswer FromProto(const v1::DecodeDone& done) {
  WorkerAnswer out;
  ModelAnswer& model = out.model;
  model.text = done.text();
  model.token_ends.assign(done.token_ends().begin(), done.token_ends().end());
  model.log_probabilities.assign(done.log_probabilities().begin(), done.log_probabilities().end());
  if (done.has_log_probability_empty()) model.log_probability_empty = done.log_probability_empty();
  model.forced.assign(done.forced().begin(), done.forced().end());
  for (const auto& choice : done.choices()) {
    model.choices.push_back({choice.offset(), choice.log_close(), choice.log_more()});
  }
  model.truncated = done.truncated();
  // A stop sequence may end the list before the model has.
  model.cut = done.truncated() || (done.grammar() && !done.list_closed());
  out.prompt_tokens = done.prompt_tokens();
  out.completion_tokens = done.completion_tokens();
  out.decode_steps = done.decode_steps();
  out.cached_tokens = done.cached_tokens();
  out.tokens = TokensOf(done);
  out.tier = rpc::FromProto(done.image());
  out.decode_queue = Milliseconds(done.queue_ms());
  out.prefill = Milliseconds(done.prefill_ms());
  out.first_token = Milliseconds(done.ttft_ms());
  out.decode = Milliseconds(done.decode_ms());
  return out;
}

void AddEncodeTimes(const v1::EncodeResponse& response, WorkerAnswer& answer) {
  answer.encode_queue = Milliseconds(response.queue_ms());
  answer.pixels = Milliseconds(response.decode_ms());
  answer.vision = Milliseconds(response.vision_ms());
}

}  // namespace chord::gateway
