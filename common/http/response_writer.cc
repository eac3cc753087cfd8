#include "common/http/response_writer.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/http/problem.h"

namespace chord::http {

std::string WriteHead(const ResponseHead& head) {
  std::string out = absl::StrCat(
      kResponsePrefix, head.status, " ", ReasonPhrase(head.status),
      "\r\nDate: ", absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()),
      "\r\nX-Request-Id: ", head.request_id, "\r\n");
  if (!head.client_id.empty()) {
    absl::StrAppend(&out, "X-Client-Request-Id: ", head.client_id, "\r\n");
  }
  absl::StrAppend(&out, "X-Content-Type-Options: nosniff\r\n");
  for (const Fields* fields : head.fields) {
    for (const auto& [name, value] : *fields) absl::StrAppend(&out, name, ": ", value, "\r\n");
  }
  if (!head.content_type.empty()) {
    absl::StrAppend(&out, "Content-Type: ", head.content_type, "\r\n");
  }
  if (head.close) {
    absl::StrAppend(&out, "Connection: close\r\n");
  } else if (head.old_keep_alive) {
    absl::StrAppend(&out, "Connection: keep-alive\r\n");
  }
  out += "\r\n";
  return out;
}

void AppendChunk(absl::string_view bytes, std::string& out) {
  absl::StrAppend(&out, absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
}

}  // namespace chord::http
