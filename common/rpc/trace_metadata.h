// The trace context of a call, as gRPC metadata.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include "absl/strings/string_view.h"
#include "common/obs/trace.h"

namespace chord::rpc {

// The caller's traceparent; "" when there is none.
inline absl::string_view TraceparentOf(const grpc::ServerContextBase& context) {
  const auto found = context.client_metadata().find(obs::kTraceparent);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

// The span of a call that a worker answers.
inline obs::SpanIds BeginSpan(const grpc::ServerContextBase& context) {
  return obs::BeginSpan(obs::ParseTraceparent(TraceparentOf(context)));
}

// Before the call starts. Nothing without a trace.
inline void PassTrace(const obs::TraceContext& trace, grpc::ClientContext* context) {
  if (trace) context->AddMetadata(obs::kTraceparent, obs::ToTraceparent(trace));
}

}  // namespace chord::rpc
