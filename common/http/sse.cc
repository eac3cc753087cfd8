#include "common/http/sse.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace chord::http {

SseWriter::SseWriter(ResponseStream& stream, Fields fields)
    : stream_(stream), fields_(std::move(fields)) {
  fields_.emplace_back("Cache-Control", "no-store");
  fields_.emplace_back("X-Accel-Buffering", "no");  // a proxy must not hold events back
}

bool SseWriter::Send(absl::string_view event, absl::string_view data) {
  std::string text;
  if (!event.empty()) absl::StrAppend(&text, "event: ", event, "\n");
  for (absl::string_view line : absl::StrSplit(data, '\n')) {
    absl::StrAppend(&text, "data: ", line, "\n");
  }
  text += "\n";
  absl::MutexLock lock(&mu_);
  if (!begun_) {
    begun_ = true;
    // Event streams are UTF-8 by definition; clients that decode text by its type need to be told.
    stream_.Begin({200, "text/event-stream; charset=utf-8", std::move(fields_)});
  }
  return stream_.Write(std::move(text));
}

bool SseWriter::begun() const {
  absl::MutexLock lock(&mu_);
  return begun_;
}

}  // namespace chord::http
