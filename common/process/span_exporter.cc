#include "common/process/span_exporter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"
#include "common/http/client.h"
#include "common/obs/log.h"

namespace chord::process {
namespace {

using obs::JsonQuote;

constexpr size_t kMaxWaiting = 8192;
constexpr size_t kBatchSpans = 512;
constexpr absl::Duration kInterval = absl::Seconds(1);
constexpr absl::Duration kTimeout = absl::Seconds(5);
constexpr absl::Duration kLastTimeout = absl::Seconds(1);

struct Endpoint {
  std::string address, path;
};

// http://HOST:PORT[/PREFIX]; a collector's own port is 4318.
absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text) {
  const auto wrong = [] {
    return errors::ConfigInvalid(
        "The setting tracing.endpoint must be of the form http://HOST:4318; TLS to a collector "
        "elsewhere is the part of a collector beside this process.");
  };
  if (!absl::ConsumePrefix(&text, "http://")) return wrong();
  const size_t slash = text.find('/');
  Endpoint out;
  out.address = std::string(text.substr(0, slash));
  const auto where = ParseHostPort(out.address);
  if (!where.ok() || where->host.empty() || where->port == 0) return wrong();
  if (slash != absl::string_view::npos) {
    out.path = std::string(absl::StripSuffix(text.substr(slash), "/"));
  }
  if (!absl::EndsWith(out.path, "/v1/traces")) absl::StrAppend(&out.path, "/v1/traces");
  return out;
}

std::string Attribute(absl::string_view key, absl::string_view value) {
  return absl::StrCat("{\"key\":", JsonQuote(key), ",\"value\":{\"stringValue\":", JsonQuote(value),
                      "}}");
}

// 64-bit integers are texts in OTLP's JSON, ids are hex digits.
void AppendSpan(const obs::Span& span, std::string* out) {
  constexpr int kInternal = 1, kServer = 2, kError = 2;
  absl::StrAppend(out, "{\"traceId\":\"", span.trace_id, "\",\"spanId\":\"", span.span_id, "\"");
  if (!span.parent_id.empty()) absl::StrAppend(out, ",\"parentSpanId\":\"", span.parent_id, "\"");
  absl::StrAppend(out, ",\"name\":", JsonQuote(span.name),
                  ",\"kind\":", span.server ? kServer : kInternal, ",\"startTimeUnixNano\":\"",
                  absl::ToUnixNanos(span.start), "\",\"endTimeUnixNano\":\"",
                  absl::ToUnixNanos(span.end), "\",\"attributes\":[");
  for (size_t i = 0; i < span.attributes.size(); ++i) {
    absl::StrAppend(out, i == 0 ? "" : ",",
                    Attribute(span.attributes[i].first, span.attributes[i].second));
  }
  absl::StrAppend(out, "]");
  if (span.code != absl::StatusCode::kOk) {
    absl::StrAppend(out, ",\"status\":{\"code\":", kError,
                    ",\"message\":", JsonQuote(absl::StatusCodeToString(span.code)), "}");
  }
  absl::StrAppend(out, "}");
}

}  // namespace

std::string ToOtlpJson(const std::vector<obs::Span>& spans, absl::string_view service,
                       absl::string_view version) {
  std::string out =
      absl::StrCat("{\"resourceSpans\":[{\"resource\":{\"attributes\":[",
                   Attribute("service.name", service), ",", Attribute("service.version", version),
                   "]},\"scopeSpans\":[{\"scope\":{\"name\":\"chord\"},\"spans\":[");
  for (size_t i = 0; i < spans.size(); ++i) {
    if (i > 0) out += ',';
    AppendSpan(spans[i], &out);
  }
  return out + "]}]}]}";
}

absl::Status CheckTracingSettings(const config::v1::Tracing& settings) {
  if (!(settings.sample_ratio() >= 0 && settings.sample_ratio() <= 1)) {
    return errors::ConfigInvalid("The setting tracing.sample_ratio must be between 0 and 1.");
  }
  if (settings.endpoint().empty()) return absl::OkStatus();
  return ParseEndpoint(settings.endpoint()).status();
}

absl::StatusOr<std::unique_ptr<SpanExporter>> SpanExporter::Start(
    const config::v1::Tracing& settings, std::string service, std::string version) {
  if (settings.endpoint().empty()) return nullptr;
  CHORD_ASSIGN_OR_RETURN(Endpoint endpoint, ParseEndpoint(settings.endpoint()));
  CHORD_ASSIGN_OR_RETURN(auto client, http::Client::Start({.address = endpoint.address}));
  std::unique_ptr<SpanExporter> out(new SpanExporter(std::move(client), std::move(endpoint.path),
                                                     std::move(service), std::move(version)));
  obs::SetSpanSink(
      [exporter = out.get()](std::vector<obs::Span> spans) { exporter->Add(std::move(spans)); },
      settings.sample_ratio() > 0 ? settings.sample_ratio() : 1);
  return out;
}

SpanExporter::SpanExporter(std::unique_ptr<http::Client> client, std::string path,
                           std::string service, std::string version)
    : client_(std::move(client)),
      path_(std::move(path)),
      service_(std::move(service)),
      version_(std::move(version)),
      thread_([this] { Run(); }) {}

// Requests have ended by now: a process drains before it destroys this.
SpanExporter::~SpanExporter() {
  obs::SetSpanSink(nullptr, 0);
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

void SpanExporter::Add(std::vector<obs::Span> spans) {
  absl::MutexLock lock(&mu_);
  if (waiting_.size() + spans.size() > kMaxWaiting) {
    dropped_ += static_cast<int64_t>(spans.size());
    return;
  }
  std::move(spans.begin(), spans.end(), std::back_inserter(waiting_));
}

void SpanExporter::Run() {
  bool working = true;
  for (bool last = false; !last;) {
    std::vector<obs::Span> batch;
    {
      const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stop_ || waiting_.size() >= kBatchSpans;
      };
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&due), kInterval);
      last = stop_;
      batch.swap(waiting_);
    }
    if (!batch.empty()) Report(Send(batch), batch.size(), &working);
  }
}

bool SpanExporter::Send(const std::vector<obs::Span>& spans) {
  http::ClientRequest request;
  request.path = path_;
  request.fields = {{"Content-Type", "application/json"}};
  request.body = {std::make_shared<const std::string>(ToOtlpJson(spans, service_, version_))};
  {
    absl::MutexLock lock(&mu_);
    request.timeout = stop_ ? kLastTimeout : kTimeout;
  }
  bool taken = false;
  absl::Notification done;
  client_->Send(std::move(request), nullptr, [&](const absl::StatusOr<http::Response>& response) {
    taken = response.ok() && response->status / 100 == 2;
    done.Notify();
  });
  done.WaitForNotification();
  return taken;
}

// One line when a collector stops taking spans, and one when it takes them again.
void SpanExporter::Report(bool sent, size_t spans, bool* was_working) {
  int64_t dropped;
  {
    absl::MutexLock lock(&mu_);
    if (!sent) dropped_ += static_cast<int64_t>(spans);
    dropped = dropped_;
  }
  if (sent == *was_working) return;
  *was_working = sent;
  obs::Log(sent ? obs::LogLevel::kInfo : obs::LogLevel::kWarning,
           sent ? "spans_exported_again" : "spans_not_exported", {{"dropped", dropped}});
}

}  // namespace chord::process
