#include "services/gateway/openai/service.h"

#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/gateway/http/multipart.h"
#include "services/gateway/http/request_form.h"
#include "services/gateway/openai/chat_request.h"
#include "services/gateway/openai/data_url.h"
#include "services/gateway/openai/error.h"
#include "services/gateway/prompt_plan.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway::openai {
namespace {

constexpr absl::string_view kModels = "/v1/models/";

absl::Status CheckJsonBody(const http::Request& request) {
  const http::ContentType type = http::ParseContentType(request.field("content-type"));
  const absl::string_view coding = request.field("content-encoding");
  const bool plain = coding.empty() || absl::EqualsIgnoreCase(coding, "identity");
  if (plain && type.type == "application/json" &&
      (type.charset.empty() || type.charset == "utf-8")) {
    return absl::OkStatus();
  }
  return errors::ContentTypeUnsupported("application/json in UTF-8, without a Content-Encoding");
}

// "chatcmpl-" and the request's id without its own prefix.
std::string CompletionId(absl::string_view request_id) {
  return absl::StrCat("chatcmpl-", absl::StripPrefix(request_id, "req_"));
}

// The words of the last message, which the model is asked for boxes or points in when the request
// has a schema for them: as POST /api/ground would ask.
void AskForSchema(const AnswerSchema& schema, PromptWrapper wrapper, ChatTurn& last) {
  for (auto part = last.parts.rbegin(); part != last.parts.rend(); ++part) {
    if (part->image) continue;
    part->text = schema.kind == AnswerSchema::Kind::kPoints ? WrapPointPrompt(wrapper, part->text)
                                                            : WrapPrompt(wrapper, part->text);
    return;
  }
}

// The box grammar binds answers that are to be boxes; any other answer is the model's own.
bool WantsBoxGrammar(const ChatRequest& request) {
  if (request.schema.kind != AnswerSchema::Kind::kNone) {
    return request.schema.kind == AnswerSchema::Kind::kBoxes;
  }
  std::string words;
  for (const TurnPart& part : request.turns.back().parts) words += part.text;
  return FormAskedFor(words) == AnswerForm::kBoxes;
}

GroundInput InputOf(const http::Request& request, std::optional<absl::Duration> timeout,
                    const ChatRequest& chat, PromptWrapper wrapper) {
  GroundInput input;
  input.request_id = request.id;
  input.client = request.peer;
  input.image = chat.image;
  input.image_id = chat.image_id;
  input.conversation = chat.turns;
  if (chat.schema.kind != AnswerSchema::Kind::kNone) {
    AskForSchema(chat.schema, wrapper, input.conversation.back());
  }
  input.grammar = WantsBoxGrammar(chat);
  input.max_new_tokens = chat.max_tokens;
  input.decode.sampling = chat.sampling;
  // Without a seed of the client's, one that no other request has; a retry draws the same tokens.
  if (!chat.has_seed) input.decode.sampling.seed = absl::Uniform<uint64_t>(absl::BitGen());
  input.decode.stop = chat.stop;
  input.decode.want_tokens = chat.logprobs;
  input.decode.top_tokens = chat.top_logprobs;
  input.received_at = request.received_at;
  if (timeout) input.deadline = request.received_at + *timeout;
  input.cancel = request.cancel;
  return input;
}

// One completion as server-sent events. The stream begins with the first event, so that a request
// that is refused before has its HTTP status. Thread-safe.
class CompletionStream {
 public:
  CompletionStream(const http::Request& request, CompletionHead head, const ChatRequest& chat)
      : stream_(*request.stream), writer_(std::move(head), chat) {}

  void Text(absl::string_view delta) {
    absl::MutexLock lock(&mu_);
    Send(writer_.Text(delta));
  }
  void Object(const GroundObject& object) {
    absl::MutexLock lock(&mu_);
    Send(writer_.Object(object));
  }
  void Finish(const GroundResult& result) {
    absl::MutexLock lock(&mu_);
    for (const std::string& chunk : writer_.Finish(result)) Send(chunk);
    Send(writer_.Usage(result));
    Send(kDone);
  }
  // False: nothing was sent yet, so that the error may be the response itself.
  bool Fail(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    if (!begun_) return false;
    Send(ErrorJson(status));
    return true;
  }

 private:
  void Send(absl::string_view data) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (data.empty()) return;
    if (!std::exchange(begun_, true)) {
      stream_.Begin(
          {200, "text/event-stream", {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}}});
      stream_.Write(absl::StrCat("data: ", writer_.Begin(), "\n\n"));
    }
    stream_.Write(absl::StrCat("data: ", data, "\n\n"));
  }

  http::ResponseStream& stream_;
  absl::Mutex mu_;
  ChunkWriter writer_ ABSL_GUARDED_BY(mu_);
  bool begun_ ABSL_GUARDED_BY(mu_) = false;
};

http::Response JsonResponse(std::string body) {
  http::Response out;
  out.content_type = "application/json";
  out.body = std::move(body) + "\n";
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

absl::StatusOr<ChatRequest> ReadChat(const http::Request& request, const Grounder::Options& options,
                                     const ModelCard& model) {
  CHORD_RETURN_IF_ERROR(CheckJsonBody(request));
  const ChatLimits limits = {options.max_prompt_bytes, options.max_new_tokens};
  CHORD_ASSIGN_OR_RETURN(ChatRequest chat, ParseChatRequest(request.body, limits));
  if (chat.model != model.name) return errors::ModelUnknown();
  return chat;
}

http::Response Complete(Grounder& grounder, obs::Metrics& metrics, const ModelCard& model,
                        const http::Request& request) {
  RequestScope scope(metrics, obs::Method::kChatCompletions, request.id, request.client_id,
                     request.received_at);
  const auto refuse = [&](const absl::Status& status) {
    scope.EndWithout(status);
    return ErrorResponse(status);
  };
  const auto chat = ReadChat(request, grounder.options(), model);
  if (!chat.ok()) return refuse(chat.status());
  const auto timeout = RequestTimeout(request);
  if (!timeout.ok()) return refuse(timeout.status());

  const CompletionHead head = {CompletionId(request.id), absl::ToUnixSeconds(request.received_at),
                               model.name, grounder.options().fingerprint};
  GroundInput input = InputOf(request, *timeout, *chat, grounder.options().wrapper);
  CompletionStream stream(request, head, *chat);
  if (chat->stream) {
    input.on_delta = [&stream](absl::string_view text) { stream.Text(text); };
    input.on_object = [&stream](const GroundObject& object) { stream.Object(object); };
  }
  const auto result = grounder.Ground(input);
  scope.End(result);
  if (!result.ok()) {
    // Not sent when a stream has begun.
    if (chat->stream) stream.Fail(result.status());
    return ErrorResponse(result.status());
  }
  if (!chat->stream) return JsonResponse(CompletionJson(head, *chat, *result));
  stream.Finish(*result);
  return {};
}

http::Response OneModel(obs::Metrics& metrics, const ModelCard& model,
                        const http::Request& request) {
  std::string name(absl::StripPrefix(request.path, kModels));
  PercentDecode(name);
  if (name == model.name) return JsonResponse(ModelJson(model));
  Refused(metrics, request.id, errors::ModelUnknown());
  return ErrorResponse(errors::ModelUnknown());
}

}  // namespace

std::vector<http::Route> Routes(Grounder& grounder, obs::Metrics& metrics, ModelCard model,
                                int64_t body_limit) {
  http::Route chat;
  chat.method = "POST";
  chat.path = "/v1/chat/completions";
  chat.body_limit = body_limit;
  chat.admit = [&grounder](const http::Request& request) { return grounder.MayCome(request.peer); };
  chat.handler = [&grounder, &metrics, model](const http::Request& request) {
    return Complete(grounder, metrics, model, request);
  };
  http::Route list;
  list.method = "GET";
  list.path = "/v1/models";
  list.quick = true;
  list.handler = [&metrics, model](const http::Request& request) {
    RequestScope scope(metrics, obs::Method::kListModels, request.id, request.client_id,
                       request.received_at);
    scope.EndWithout(absl::OkStatus());
    return JsonResponse(ModelListJson(model));
  };
  http::Route one;
  one.method = "GET";
  one.path = absl::StrCat(kModels, "*");
  one.quick = true;
  one.handler = [&metrics, model](const http::Request& request) {
    return OneModel(metrics, model, request);
  };
  return {std::move(chat), std::move(list), std::move(one)};
}

bool IsOpenAiPath(absl::string_view path) {
  return path == "/v1" || absl::StartsWith(path, "/v1/");
}

}  // namespace chord::gateway::openai
