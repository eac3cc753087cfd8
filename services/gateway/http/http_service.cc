#include "services/gateway/http/http_service.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/api/answer_json.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/http/operational.h"
#include "common/http/problem.h"
#include "common/obs/log.h"
#include "services/gateway/grpc/proto_codec.h"
#include "services/gateway/http/request_form.h"
#include "services/gateway/http/web.h"
#include "services/gateway/parallel_for.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {
namespace {

constexpr int64_t kOtherFieldsBytes = 1 << 20;  // of a body beyond its image
// Of a batch; more goes as a stream over gRPC, or with images that were uploaded before.
constexpr int64_t kBatchBytes = 64 << 20;

// Everything that a prompt needs but its subject.
GroundInput InputOf(const http::Request& request, std::optional<absl::Duration> timeout,
                    const GroundForm& form) {
  GroundInput input;
  input.request_id = request.id;
  input.client = request.peer;
  input.image = form.file();
  input.image_id = form.image_id;
  input.session_id = form.session_id;
  input.prompt = form.prompt;
  input.max_new_tokens = form.max_new_tokens;
  input.grammar = form.grammar;
  input.received_at = request.received_at;
  if (timeout) input.deadline = request.received_at + *timeout;
  input.cancel = request.cancel;
  return input;
}

http::Response JsonAnswer(std::string body) {
  http::Response out;
  out.content_type = "application/json";
  out.body = std::move(body);
  out.body += "\n";
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

http::Response Refusal(const absl::Status& status, const http::Request& request) {
  http::Response out = http::Problem(status, request.id);
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

// Server-sent events (the WHATWG's text/event-stream). The stream begins with the first event, so
// that a request that is refused before has its HTTP status.
class Events {
 public:
  explicit Events(const http::Request& request) : stream_(*request.stream) {}
  // `json` is on one line.
  void Send(absl::string_view event, absl::string_view json) {
    absl::MutexLock lock(&mu_);
    if (!begun_) {
      begun_ = true;
      stream_.Begin(
          {200, "text/event-stream", {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}}});
    }
    stream_.Write(
        absl::StrCat("event: ", event, "\ndata: ", absl::StripAsciiWhitespace(json), "\n\n"));
  }
  bool begun() {
    absl::MutexLock lock(&mu_);
    return begun_;
  }

 private:
  http::ResponseStream& stream_;
  absl::Mutex mu_;
  bool begun_ ABSL_GUARDED_BY(mu_) = false;
};

std::string ObjectJson(const GroundObject& object) {
  return absl::StrCat(R"({"label":)", obs::JsonQuote(object.label), R"(,"box":[)", object.box.x1,
                      ",", object.box.y1, ",", object.box.x2, ",", object.box.y2, "]}");
}

http::Response GroundOverHttp(Grounder& grounder, obs::Metrics& metrics,
                              const http::Request& request) {
  auto form = ParseGroundForm(request);
  const bool stream = form.ok() && form->stream;
  RequestScope scope(metrics, stream ? obs::Method::kGroundStream : obs::Method::kGround,
                     request.id, request.client_id, request.received_at);
  Events events(request);
  const auto ground = [&]() -> absl::StatusOr<GroundResult> {
    CHORD_RETURN_IF_ERROR(form.status());
    CHORD_ASSIGN_OR_RETURN(const auto timeout, RequestTimeout(request));
    GroundInput input = InputOf(request, timeout, *form);
    if (stream) {
      input.on_delta = [&events](absl::string_view text) {
        events.Send("delta", absl::StrCat(R"({"text":)", obs::JsonQuote(text), "}"));
      };
      input.on_object = [&events](const GroundObject& object) {
        events.Send("object", ObjectJson(object));
      };
    }
    return grounder.Ground(input);
  };
  const absl::StatusOr<GroundResult> result = ground();
  scope.End(result);
  if (!result.ok()) {
    http::Response refusal = Refusal(result.status(), request);
    if (events.begun()) events.Send("error", refusal.body);
    return refusal;  // not sent when events were
  }
  const std::string json = api::AnswerJson(ToProto(*result));
  if (!stream) return JsonAnswer(json);
  events.Send("response", json);
  return {};
}

http::Response BatchOverHttp(Grounder& grounder, Executor& executor, obs::Metrics& metrics,
                             const http::Request& request) {
  RequestScope scope(metrics, obs::Method::kGroundBatch, request.id, request.client_id,
                     request.received_at);
  auto form = ParseBatchForm(request, grounder.options().max_batch);
  auto timeout = RequestTimeout(request);
  const absl::Status wrong = !form.ok() ? form.status() : timeout.status();
  if (!wrong.ok()) {
    scope.EndWithout(wrong);
    return Refusal(wrong, request);
  }
  std::string image_id;  // of one image for all prompts
  if (!form->one_image.empty()) {
    // Kept first, so that its prompts share what is computed of it. Where it cannot be kept,
    // each prompt carries it.
    auto kept = grounder.images().Upload(std::string(form->one_image), /*pin=*/false);
    if (kept.ok()) image_id = kept->id;
  }
  Events events(request);
  std::vector<std::string> results(form->items.size());
  ParallelFor(executor, static_cast<int>(results.size()), kBatchWidth, [&](int i) {
    const auto at = static_cast<size_t>(i);
    const BatchForm::Item& item = form->items[at];
    const std::string id = NewRequestId();
    RequestScope item_scope(metrics, obs::Method::kBatchItem, id, "", absl::Now());
    const auto ground = [&]() -> absl::StatusOr<GroundResult> {
      CHORD_RETURN_IF_ERROR(request.cancel.Check());
      CHORD_RETURN_IF_ERROR(item.form.status());
      GroundInput input = InputOf(request, *timeout, *item.form);
      input.request_id = id;
      input.received_at = absl::Now();  // its own time, and its own deadline when there is no other
      if (!form->one_image.empty()) {
        input.image_id = image_id;
        if (image_id.empty()) input.image = form->one_image;
      }
      return grounder.Ground(input);
    };
    const absl::StatusOr<GroundResult> result = ground();
    item_scope.End(result);
    std::string json = absl::StrCat(R"({"index":)", i, R"(,"tag":)", obs::JsonQuote(item.tag));
    if (result.ok()) {
      absl::StrAppend(&json, R"(,"response":)", api::AnswerJson(ToProto(*result)), "}");
    } else {
      const http::Response problem = http::Problem(result.status(), id);
      absl::StrAppend(&json, R"(,"error":)", absl::StripAsciiWhitespace(problem.body), "}");
    }
    if (form->stream) {
      events.Send("result", json);
    } else {
      results[at] = std::move(json);
    }
  });
  if (absl::Status status = request.cancel.Check(); !status.ok()) {
    scope.EndWithout(status);
    return Refusal(status, request);  // nobody is there
  }
  scope.EndWithout(absl::OkStatus());
  if (form->stream) {
    events.Send("end", absl::StrCat(R"({"count":)", results.size(), "}"));
    return {};
  }
  return JsonAnswer(absl::StrCat(R"({"request_id":)", obs::JsonQuote(request.id), R"(,"results":[)",
                                 absl::StrJoin(results, ","), "]}"));
}

std::string KeptJson(const ImageService::Kept& kept) {
  return absl::StrCat(R"({"image_id":)", obs::JsonQuote(kept.id), R"(,"image_size":[)",
                      kept.size.width, ",", kept.size.height, R"(],"expires_at":")",
                      absl::FormatTime(absl::RFC3339_sec, kept.expires_at, absl::UTCTimeZone()),
                      "\"}");
}

http::Response UploadOverHttp(Grounder& grounder, obs::Metrics& metrics,
                              const http::Request& request) {
  RequestScope scope(metrics, obs::Method::kUploadImage, request.id, request.client_id,
                     request.received_at);
  const auto upload = [&]() -> absl::StatusOr<ImageService::Kept> {
    CHORD_ASSIGN_OR_RETURN(const UploadForm form, ParseUploadForm(request));
    const absl::string_view file = form.file();
    CHORD_ASSIGN_OR_RETURN(const auto slot, grounder.admission().EnterUpload(
                                                request.peer, static_cast<int64_t>(file.size())));
    // What is refused is not copied.
    CHORD_RETURN_IF_ERROR(grounder.images().Plan(file).status());
    CHORD_RETURN_IF_ERROR(grounder.images().Room(static_cast<int64_t>(file.size()), form.pin));
    metrics.ImageReceived(static_cast<int64_t>(file.size()));
    return grounder.images().Upload(std::string(file), form.pin);
  };
  const auto kept = upload();
  scope.EndWithout(kept.status());
  return kept.ok() ? JsonAnswer(KeptJson(*kept)) : Refusal(kept.status(), request);
}

constexpr absl::string_view kImages = "/api/images/";

http::Response TouchOverHttp(Grounder& grounder, obs::Metrics& metrics,
                             const http::Request& request) {
  const auto kept =
      grounder.images().Touch(absl::StripPrefix(absl::string_view(request.path), kImages));
  if (kept.ok()) return JsonAnswer(KeptJson(*kept));
  Refused(metrics, request.id, kept.status());
  return Refusal(kept.status(), request);
}

http::Response DeleteOverHttp(Grounder& grounder, obs::Metrics& metrics,
                              const http::Request& request) {
  const absl::Status status =
      grounder.images().Delete(absl::StripPrefix(absl::string_view(request.path), kImages));
  if (!status.ok()) {
    Refused(metrics, request.id, status);
    return Refusal(status, request);
  }
  http::Response out;
  out.status = 204;
  return out;
}

// Says so from the header: the body, however large, is not worth reading. The server tells of the
// refusal; the call is counted here.
http::Route NotYet(std::string path, std::string feature, obs::Method method,
                   obs::Metrics& metrics) {
  http::Route route;
  route.path = std::move(path);
  route.admit = [feature, method, &metrics](const http::Request& request) {
    absl::Status status = errors::NotImplementedYet(feature);
    metrics.RequestBegan(method);
    metrics.RequestEnded(method, status.code(), absl::Now() - request.received_at);
    return status;
  };
  route.handler = [feature = std::move(feature)](const http::Request& request) {
    return http::Problem(errors::NotImplementedYet(feature), request.id);
  };
  route.body_limit = std::numeric_limits<int64_t>::max();
  route.quick = true;
  return route;
}

http::Route Page(std::string path, std::string content_type, absl::string_view content) {
  http::Route route;
  route.method = "GET";
  route.path = std::move(path);
  route.handler = [content_type = std::move(content_type), content](const http::Request&) {
    http::Response out;
    out.content_type = content_type;
    out.fields = {{"Cache-Control", "no-cache"},
                  {"Content-Security-Policy",
                   "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                   "connect-src 'self'; base-uri 'none'; form-action 'none'; "
                   "frame-ancestors 'none'"},
                  {"Referrer-Policy", "no-referrer"}};
    out.body = std::string(content);
    return out;
  };
  route.quick = true;
  return route;
}

}  // namespace

std::vector<http::Route> HttpRoutes(Grounder& grounder, Executor& executor, obs::Metrics& metrics,
                                    std::function<absl::Status()> ready) {
  std::vector<http::Route> routes =
      http::OperationalHandler([&metrics] { return metrics.Serialize(); }, std::move(ready));
  // Base64 takes four bytes for three; the rest is for the other fields.
  const int64_t one_image = (grounder.images().limits().max_bytes + 2) / 3 * 4 + kOtherFieldsBytes;
  const auto may_come = [&grounder](const http::Request& request) {
    return grounder.CheckAdmission(request.peer);
  };
  const auto add = [&routes](absl::string_view method, absl::string_view path,
                             http::Handler handler, int64_t body_limit) -> http::Route& {
    http::Route route;
    route.method = std::string(method);
    route.path = std::string(path);
    route.handler = std::move(handler);
    route.body_limit = body_limit;
    return routes.emplace_back(std::move(route));
  };
  add(
      "POST", "/api/ground",
      [&grounder, &metrics](const http::Request& request) {
        return GroundOverHttp(grounder, metrics, request);
      },
      one_image)
      .admit = may_come;
  add(
      "POST", "/api/ground/batch",
      [&grounder, &executor, &metrics](const http::Request& request) {
        return BatchOverHttp(grounder, executor, metrics, request);
      },
      std::max(one_image, kBatchBytes))
      .admit = may_come;
  add(
      "POST", "/api/images",
      [&grounder, &metrics](const http::Request& request) {
        return UploadOverHttp(grounder, metrics, request);
      },
      one_image)
      .admit = [&grounder](const http::Request& request) {
    return grounder.admission().CheckUpload(request.peer);
  };
  add(
      "GET", "/api/images/*",
      [&grounder, &metrics](const http::Request& request) {
        return TouchOverHttp(grounder, metrics, request);
      },
      0)
      .quick = true;
  add(
      "DELETE", "/api/images/*",
      [&grounder, &metrics](const http::Request& request) {
        return DeleteOverHttp(grounder, metrics, request);
      },
      0)
      .quick = true;
  const std::string openai = "the OpenAI protocol";
  routes.push_back(NotYet("/v1/chat/completions", openai, obs::Method::kChatCompletions, metrics));
  routes.push_back(NotYet("/v1/models", openai, obs::Method::kListModels, metrics));
  routes.push_back(Page("/", "text/html; charset=utf-8", web::kIndexHtml));
  routes.push_back(Page("/app.js", "text/javascript; charset=utf-8", web::kAppJs));
  routes.push_back(Page("/style.css", "text/css; charset=utf-8", web::kStyleCss));
  return routes;
}

}  // namespace chord::gateway
