#include "services/gateway/openai/service.h"

#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/http/sse.h"
#include "services/gateway/http/multipart.h"
#include "services/gateway/http/request_form.h"
#include "services/gateway/openai/chat_request.h"
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
  if (!request.labels.empty()) return true;
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
  input.labels = chat.labels;
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

// One completion as server-sent events. The stream begins with the first chunk, so that a request
// that is refused before it has its HTTP status. Thread-safe.
class CompletionStream {
 public:
  CompletionStream(const http::Request& request, CompletionHead head, const ChatRequest& chat)
      : events_(*request.stream), writer_(std::move(head), chat) {}

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
  // Does nothing before the first chunk: then the error is the response itself.
  void Fail(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    if (events_.begun()) Send(ErrorJson(status));
  }

 private:
  void Send(absl::string_view data) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (data.empty()) return;
    if (!events_.begun()) events_.Send("", writer_.Begin());
    events_.Send("", data);
  }

  http::SseWriter events_;
  absl::Mutex mu_;
  ChunkWriter writer_ ABSL_GUARDED_BY(mu_);
};

http::Response ToResponse(std::string json) {
  http::Response out;
  out.content_type = "application/json";
  out.body = std::move(json) + "\n";
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

absl::StatusOr<ChatRequest> ReadChat(const http::Request& request, const Service& service) {
  CHORD_RETURN_IF_ERROR(CheckJsonBody(request));
  CHORD_ASSIGN_OR_RETURN(ChatRequest chat, ParseChatRequest(request.body, service.limits));
  if (chat.model != service.model.name) return errors::ModelUnknown();
  return chat;
}

http::Response Complete(const EndpointDeps& deps, const Service& service,
                        const http::Request& request) {
  RequestScope scope(deps.metrics, obs::Method::kChatCompletions, request.id, request.client_id,
                     request.received_at);
  scope.set_api_key(request.key);
  const obs::TraceContext trace = scope.BeginSpan(request.field(obs::kTraceparent));
  const auto refuse = [&](const absl::Status& status) {
    scope.EndWithout(status);
    return ErrorResponse(status);
  };
  const auto chat = ReadChat(request, service);
  if (!chat.ok()) return refuse(chat.status());
  const auto timeout = RequestTimeout(request);
  if (!timeout.ok()) return refuse(timeout.status());

  const CompletionHead head = {CompletionId(request.id), absl::ToUnixSeconds(request.received_at),
                               service.model.name, service.fingerprint};
  GroundInput input = InputOf(request, *timeout, *chat, service.wrapper);
  input.trace = trace;
  CompletionStream stream(request, head, *chat);
  if (chat->stream) {
    input.on_delta = [&stream](absl::string_view text) { stream.Text(text); };
    input.on_object = [&stream](const GroundObject& object) { stream.Object(object); };
  }
  const auto result = deps.grounder.Ground(input);
  scope.End(result);
  if (!result.ok()) {
    if (chat->stream) stream.Fail(result.status());
    return ErrorResponse(result.status());  // not sent when a stream has begun
  }
  if (!chat->stream) return ToResponse(CompletionJson(head, *chat, *result));
  stream.Finish(*result);
  return {};
}

// A model's name in a path, percent-decoded (RFC 3986).
std::string NameInPath(absl::string_view path) {
  std::string out;
  for (size_t i = 0; i < path.size(); ++i) {
    if (path[i] == '%' && i + 2 < path.size() && absl::ascii_isxdigit(path[i + 1]) &&
        absl::ascii_isxdigit(path[i + 2])) {
      out += absl::HexStringToBytes(path.substr(i + 1, 2));
      i += 2;
    } else {
      out += path[i];
    }
  }
  return out;
}

http::Response ListModels(obs::Metrics& metrics, const ModelCard& model,
                          const http::Request& request) {
  RequestScope scope(metrics, obs::Method::kListModels, request.id, request.client_id,
                     request.received_at);
  scope.set_api_key(request.key);
  if (!absl::StartsWith(request.path, kModels)) {
    scope.EndWithout(absl::OkStatus());
    return ToResponse(ModelListJson(model));
  }
  const bool known = NameInPath(absl::StripPrefix(request.path, kModels)) == model.name;
  const absl::Status status = known ? absl::OkStatus() : errors::ModelUnknown();
  scope.EndWithout(status);
  return known ? ToResponse(ModelJson(model)) : ErrorResponse(status);
}

}  // namespace

std::vector<http::Route> Routes(const EndpointDeps& deps, const Service& service,
                                int64_t body_limit) {
  std::vector<http::Route> routes(3);
  http::Route& chat = routes[0];
  chat.method = "POST";
  chat.path = "/v1/chat/completions";
  chat.body_limit = body_limit;
  chat.admit = [&admission = deps.admission](const http::Request& request) {
    return admission.Check(request.peer);
  };
  chat.handler = [deps, service](http::Request request) {
    return Complete(deps, service, request);
  };
  routes[1].path = "/v1/models";
  routes[2].path = absl::StrCat(kModels, "*");
  for (http::Route& route : absl::MakeSpan(routes).subspan(1)) {
    route.method = "GET";
    route.quick = true;
    route.handler = [&metrics = deps.metrics, model = service.model](const http::Request& request) {
      return ListModels(metrics, model, request);
    };
  }
  return routes;
}

bool IsOpenAiPath(absl::string_view path) {
  return path == "/v1" || absl::StartsWith(path, "/v1/");
}

}  // namespace chord::gateway::openai
