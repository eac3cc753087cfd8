// The bytes of a response: status line and fields, chunks. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::http {

// Every response begins with these bytes, whatever its status.
inline constexpr absl::string_view kResponsePrefix = "HTTP/1.1 ";

struct ResponseHead {
  int status = 200;
  absl::string_view content_type;  // empty: none
  absl::string_view request_id;
  absl::string_view client_id;  // empty: none
  std::vector<const Fields*> fields;
  bool close = false;           // the connection ends after this response
  bool old_keep_alive = false;  // an HTTP/1.0 client is told that it does not
};
// Up to and with the empty line.
std::string WriteHead(const ResponseHead& head);

// `bytes` (not empty) as one chunk of a chunked body.
void AppendChunk(absl::string_view bytes, std::string& out);
inline constexpr absl::string_view kLastChunk = "0\r\n\r\n";

}  // namespace chord::http
