// What one request leaves behind, whatever its endpoint: metrics and the log line.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/obs/metrics.h"
#include "common/obs/trace.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

class RequestScope {
 public:
  // `client_id` is the client's own request id, or empty.
  RequestScope(obs::Metrics& metrics, obs::Method method, std::string request_id,
               std::string client_id, absl::Time received_at);
  ~RequestScope();  // counts as INTERNAL when End was not called
  RequestScope(const RequestScope&) = delete;
  RequestScope& operator=(const RequestScope&) = delete;
  // The span of this request, under what its `traceparent` names; call at most once.
  obs::TraceContext BeginSpan(absl::string_view traceparent);
  // The name of the API key that came with the request; empty: none.
  void set_api_key(std::string name) { api_key_ = std::move(name); }
  void End(const absl::StatusOr<GroundResult>& result);
  void EndWithout(const absl::Status& status);  // of a call that has no answer of its own

 private:
  void Finish(const absl::Status& status, const GroundResult* result);

  obs::Metrics& metrics_;
  const obs::Method method_;
  const std::string request_id_, client_id_;
  const absl::Time received_at_;
  std::string api_key_;
  obs::SpanIds span_;
  bool ended_ = false;
};

// Of a call that is answered at once and is no request of a method: the id of a refusal can be
// found in the log.
void Refused(obs::Metrics& metrics, absl::string_view request_id, const absl::Status& status);
void LogRefusal(absl::string_view request_id, const absl::Status& status);

}  // namespace chord::gateway
