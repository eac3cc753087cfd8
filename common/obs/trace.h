// Distributed traces: the W3C trace context (https://www.w3.org/TR/trace-context/) and the spans of
// a request. Off unless a sink is set; then a request that is not sampled costs one comparison.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace chord::obs {

// One span's place in a trace.
struct TraceContext {
  std::string trace_id;  // 32 lower-case hex digits; empty: of no trace
  std::string span_id;   // 16 of them
  bool sampled = false;  // whether its spans are wanted
  explicit operator bool() const { return !trace_id.empty(); }
};

// Name of the HTTP field and of the gRPC metadata.
inline constexpr char kTraceparent[] = "traceparent";

// Empty when `text` is no traceparent. A later version than 00 is read as far as 00 goes.
TraceContext ParseTraceparent(absl::string_view text);
// "" of an empty context.
std::string ToTraceparent(const TraceContext& context);

// The span of this process's part of a request.
struct SpanIds {
  TraceContext own;       // what is passed on to the processes that it calls
  std::string parent_id;  // of the caller's span; empty: this one begins the trace
};
// A span under `parent`. Without one, and with a sink, a new trace begins, which is sampled as
// often as SetSpanSink says; without both there is no trace.
SpanIds BeginSpan(const TraceContext& parent);

struct Span {
  std::string name;
  std::string trace_id, span_id, parent_id;
  bool server = false;  // answers a call; else a stage of one
  absl::Time start, end;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::vector<std::pair<std::string, std::string>> attributes;
};

// Takes the spans of one request; any thread, must not block. Null ends tracing. `sample_ratio`: of
// the traces that begin here, 0 to 1.
using SpanSink = std::function<void(std::vector<Span>)>;
void SetSpanSink(SpanSink sink, double sample_ratio);
bool IsTracing();
void EmitSpans(std::vector<Span> spans);
std::string NewSpanId();

}  // namespace chord::obs
