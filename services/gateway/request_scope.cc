#include "services/gateway/request_scope.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/obs/log.h"

namespace chord::gateway {

RequestScope::RequestScope(obs::Metrics& metrics, obs::Method method, std::string request_id,
                           std::string client_id, absl::Time received_at)
    : metrics_(metrics),
      method_(method),
      request_id_(std::move(request_id)),
      client_id_(std::move(client_id)),
      received_at_(received_at) {
  metrics_.RequestBegan(method_);
}

RequestScope::~RequestScope() {
  if (!ended_) End(errors::Internal());
}

obs::TraceContext RequestScope::BeginSpan(absl::string_view traceparent) {
  span_ = obs::BeginSpan(obs::ParseTraceparent(traceparent));
  return span_.own;
}

void RequestScope::End(const absl::StatusOr<GroundResult>& result) {
  Finish(result.status(), result.ok() ? &*result : nullptr);
}

void RequestScope::EndWithout(const absl::Status& status) { Finish(status, nullptr); }

void RequestScope::Finish(const absl::Status& status, const GroundResult* result) {
  ended_ = true;
  const absl::Duration took = absl::Now() - received_at_;
  metrics_.RequestEnded(method_, status.code(), took);
  obs::RequestLog line;
  line.request_id = request_id_;
  line.method = method_;
  line.status = status;
  line.took = took;
  line.api_key = api_key_;
  line.span = span_;
  if (result != nullptr) {
    metrics_.Answered(static_cast<int64_t>(result->objects.size()));
    for (const GroundObject& object : result->objects) metrics_.BoxConfidence(object.confidence);
    line.stages = {{obs::Stage::kQueue, result->timing.queue},
                   {obs::Stage::kVision, result->timing.vision},
                   {obs::Stage::kPrefill, result->timing.prefill},
                   {obs::Stage::kDecode, result->timing.decode}};
    line.language_worker = result->language_worker;
    line.vision_worker = result->vision_worker;
    line.image_tokens = result->usage.image_tokens;
    line.prompt_tokens = result->usage.prompt_tokens;
    line.new_tokens = result->usage.completion_tokens;
    line.boxes = static_cast<int64_t>(result->objects.size());
    line.cache = Name(result->usage.image);
  } else if (status.ok()) {
    // Counted above.
  } else if (absl::IsCancelled(status)) {
    metrics_.Cancelled(obs::Point::kReply);
  } else if (absl::IsDeadlineExceeded(status)) {
    metrics_.DeadlineExceeded(obs::Point::kReply);
  } else {
    metrics_.Rejected(status);
  }
  obs::LogRequest(line);
  if (!client_id_.empty()) {
    obs::Log(obs::LogLevel::kInfo, "client_request_id", request_id_, {{"client_id", client_id_}});
  }
}

void Refused(obs::Metrics& metrics, absl::string_view request_id, const absl::Status& status) {
  metrics.Rejected(status);
  LogRefusal(request_id, status);
}

void LogRefusal(absl::string_view request_id, const absl::Status& status) {
  const std::optional<Reason> reason = ReasonOf(status);
  const absl::LogSeverity level = reason ? Info(*reason).log_level : absl::LogSeverity::kError;
  obs::Log(level == absl::LogSeverity::kInfo      ? obs::LogLevel::kInfo
           : level == absl::LogSeverity::kWarning ? obs::LogLevel::kWarning
                                                  : obs::LogLevel::kError,
           "refused", request_id, {{"reason", ErrorReason(status)}});
}

}  // namespace chord::gateway
