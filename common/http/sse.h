// Server-sent events (WHATWG HTML, "text/event-stream").
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/http/message.h"

namespace chord::http {

// Writes events to the stream of one request. The response begins with the first event, so that a
// request that is refused before it has its HTTP status. Thread-safe: an event is never interleaved
// with another one.
class SseWriter {
 public:
  // `stream` is Request::stream of the request and outlives the writer. `fields` are added to those
  // that event streams need.
  explicit SseWriter(ResponseStream& stream, Fields fields = {});

  // `event` is its type, without line ends; empty: the default, "message". `data` may have several
  // lines. False when nothing more can reach the client.
  bool Send(absl::string_view event, absl::string_view data);
  // Whether the response has begun.
  bool begun() const;

 private:
  ResponseStream& stream_;
  mutable absl::Mutex mu_;
  Fields fields_ ABSL_GUARDED_BY(mu_);
  bool begun_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace chord::http
