// The first line of the input is the Content-Type value, the rest the body.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "common/base/errors.h"
#include "services/gateway/http/multipart.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = input.find('\n');
  if (line == absl::string_view::npos) return 0;
  const auto type = chord::http::ParseContentType(input.substr(0, line));
  const absl::string_view body = input.substr(line + 1);
  const auto parts = chord::http::ParseMultipart(body, type.boundary);
  if (!parts.ok()) {
    if (chord::ErrorReason(parts.status()) != "BODY_MALFORMED") std::abort();
    return 0;
  }
  if (parts->size() > 32) std::abort();
  const char* end = body.data();
  for (const auto& part : *parts) {  // named, inside the body, one after the other
    if (part.name.empty()) std::abort();
    if (part.body.empty()) continue;
    if (part.body.data() < end) std::abort();
    end = part.body.data() + part.body.size();
    if (end > body.data() + body.size()) std::abort();
  }
  return 0;
}
