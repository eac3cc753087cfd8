// Sends spans to an OpenTelemetry collector over OTLP/HTTP (JSON encoding), in batches, from a
// thread of its own. What does not fit its queue or is not taken is dropped and counted: traces
// never hold up requests.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "chord/config/v1/config.pb.h"
#include "common/obs/trace.h"

namespace chord::http {
class Client;
}

namespace chord::process {

// CONFIG_INVALID names the setting. Opens nothing.
absl::Status CheckTracingSettings(const config::v1::Tracing& settings);

// Thread-safe.
class SpanExporter {
 public:
  // Sets the sink of obs/trace.h until it is destroyed. Null, when `settings` name no endpoint.
  // `service`: as in traces, "chord-gateway".
  static absl::StatusOr<std::unique_ptr<SpanExporter>> Start(const config::v1::Tracing& settings,
                                                             std::string service,
                                                             std::string version);
  ~SpanExporter();  // sends what it holds, for at most a second
  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;

  void Add(std::vector<obs::Span> spans);

 private:
  SpanExporter(std::unique_ptr<http::Client> client, std::string path, std::string service,
               std::string version);
  void Run();
  bool Send(const std::vector<obs::Span>& spans);
  void Report(bool sent, size_t spans, bool* was_working);

  const std::unique_ptr<http::Client> client_;
  const std::string path_, service_, version_;
  absl::Mutex mu_;
  std::vector<obs::Span> waiting_ ABSL_GUARDED_BY(mu_);
  int64_t dropped_ ABSL_GUARDED_BY(mu_) = 0;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// The body of a request to /v1/traces. Pure.
std::string ToOtlpJson(const std::vector<obs::Span>& spans, absl::string_view service,
                       absl::string_view version);

}  // namespace chord::process
