#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/api/answer_json.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/http/problem.h"
#include "common/http/sse.h"
#include "services/gateway/grpc/proto_codec.h"
#include "services/gateway/http/handlers.h"
#include "services/gateway/http/request_form.h"
#include "services/gateway/parallel_for.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {
namespace {

using Json = nlohmann::ordered_json;

GroundInput InputOf(const http::Request& request, std::optional<absl::Duration> timeout,
                    const GroundForm& form) {
  GroundInput input;
  input.request_id = request.id;
  input.client = request.peer;
  input.image = form.file();
  input.image_id = form.image_id;
  input.session_id = form.session_id;
  input.prompt = form.prompt;
  input.labels = form.labels;
  input.max_new_tokens = form.max_new_tokens;
  input.grammar = form.grammar;
  input.received_at = request.received_at;
  if (timeout) input.deadline = request.received_at + *timeout;
  input.cancel = request.cancel;
  return input;
}

Json ObjectEvent(const GroundObject& object) {
  return {{"label", object.label},
          {"box", {object.box.x1, object.box.y1, object.box.x2, object.box.y2}}};
}

// A batch under way: its form, and where its results go.
class Batch {
 public:
  Batch(const EndpointDeps& deps, const http::Request& request, BatchForm form,
        std::optional<absl::Duration> timeout, obs::TraceContext trace)
      : deps_(deps),
        request_(request),
        form_(std::move(form)),
        timeout_(timeout),
        trace_(std::move(trace)),
        events_(*request.stream),
        results_(form_.items.size()) {
    if (form_.one_image.empty()) return;
    // Stored first, so that its requests share what is computed of it. Where it cannot be stored,
    // each request carries it.
    auto stored = deps_.images.Upload(std::string(form_.one_image), /*pin=*/false);
    if (stored.ok()) image_id_ = stored->id;
  }

  void Run() {
    ParallelFor(deps_.executor, static_cast<int>(results_.size()), kBatchWidth, [this](int i) {
      Json result = Answer(i);
      if (form_.stream) {
        events_.Send("result", http::Dump(result));
      } else {
        results_[static_cast<size_t>(i)] = std::move(result);
      }
    });
  }

  http::Response Finish() {
    if (!form_.stream) {
      return JsonResponse({{"request_id", request_.id}, {"results", std::move(results_)}});
    }
    events_.Send("end", http::Dump({{"count", results_.size()}}));
    return {};
  }

 private:
  Json Answer(int i) {
    const BatchForm::Item& item = form_.items[static_cast<size_t>(i)];
    const std::string id = NewRequestId();
    RequestScope scope(deps_.metrics, obs::Method::kBatchItem, id, "", absl::Now());
    scope.set_api_key(request_.key);
    const obs::TraceContext trace = scope.BeginSpan(obs::ToTraceparent(trace_));
    const absl::StatusOr<GroundResult> result = Ground(item, id, trace);
    scope.End(result);
    Json out = {{"index", i}, {"tag", item.tag}};
    if (result.ok()) {
      out["response"] = api::AnswerObject(ToProto(*result));
    } else {
      out["error"] = http::ProblemJson(result.status(), id);
    }
    return out;
  }

  absl::StatusOr<GroundResult> Ground(const BatchForm::Item& item, const std::string& id,
                                      const obs::TraceContext& trace) {
    CHORD_RETURN_IF_ERROR(request_.cancel.Check());
    CHORD_RETURN_IF_ERROR(item.form.status());
    GroundInput input = InputOf(request_, timeout_, *item.form);
    input.request_id = id;
    input.trace = trace;
    input.received_at = absl::Now();  // its own time, and its own deadline when there is no other
    if (!form_.one_image.empty()) {
      input.image_id = image_id_;
      if (image_id_.empty()) input.image = form_.one_image;
    }
    return deps_.grounder.Ground(input);
  }

  const EndpointDeps& deps_;
  const http::Request& request_;
  const BatchForm form_;
  const std::optional<absl::Duration> timeout_;
  const obs::TraceContext trace_;  // of the batch
  std::string image_id_;           // of one image for all requests
  http::SseWriter events_;
  std::vector<Json> results_;
};

}  // namespace

http::Response JsonResponse(const Json& body) {
  http::Response out;
  out.content_type = "application/json";
  out.body = http::Dump(body) + "\n";
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

http::Response RefusalResponse(const absl::Status& status, const http::Request& request) {
  http::Response out = http::Problem(status, request.id);
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

http::Response HandleGround(const EndpointDeps& deps, const http::Request& request) {
  auto form = ParseGroundForm(request);
  const bool stream = form.ok() && form->stream;
  RequestScope scope(deps.metrics, stream ? obs::Method::kGroundStream : obs::Method::kGround,
                     request.id, request.client_id, request.received_at);
  scope.set_api_key(request.key);
  const obs::TraceContext trace = scope.BeginSpan(request.field(obs::kTraceparent));
  http::SseWriter events(*request.stream);
  const auto ground = [&]() -> absl::StatusOr<GroundResult> {
    CHORD_RETURN_IF_ERROR(form.status());
    CHORD_ASSIGN_OR_RETURN(const auto timeout, RequestTimeout(request));
    GroundInput input = InputOf(request, timeout, *form);
    input.trace = trace;
    if (stream) {
      input.on_delta = [&events](absl::string_view text) {
        events.Send("delta", http::Dump({{"text", std::string(text)}}));
      };
      input.on_object = [&events](const GroundObject& object) {
        events.Send("object", http::Dump(ObjectEvent(object)));
      };
    }
    return deps.grounder.Ground(input);
  };
  const absl::StatusOr<GroundResult> result = ground();
  scope.End(result);
  if (!result.ok()) {
    if (events.begun()) {
      events.Send("error", http::Dump(http::ProblemJson(result.status(), request.id)));
    }
    return RefusalResponse(result.status(), request);  // not sent when events were
  }
  const Json answer = api::AnswerObject(ToProto(*result));
  if (!stream) return JsonResponse(answer);
  events.Send("response", http::Dump(answer));
  return {};
}

http::Response HandleBatch(const EndpointDeps& deps, const http::Request& request) {
  RequestScope scope(deps.metrics, obs::Method::kGroundBatch, request.id, request.client_id,
                     request.received_at);
  scope.set_api_key(request.key);
  const obs::TraceContext trace = scope.BeginSpan(request.field(obs::kTraceparent));
  auto form = ParseBatchForm(request, deps.max_batch);
  const auto timeout = RequestTimeout(request);
  const absl::Status wrong = !form.ok() ? form.status() : timeout.status();
  if (!wrong.ok()) {
    scope.EndWithout(wrong);
    return RefusalResponse(wrong, request);
  }
  Batch batch(deps, request, *std::move(form), *timeout, trace);
  batch.Run();
  const absl::Status cancelled = request.cancel.Check();
  scope.EndWithout(cancelled);
  return cancelled.ok() ? batch.Finish() : RefusalResponse(cancelled, request);
}

}  // namespace chord::gateway
