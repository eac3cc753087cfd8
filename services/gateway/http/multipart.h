// multipart/form-data (RFC 7578 in the syntax of RFC 2046), for bodies that are in memory already.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::http {

// One form field. `body` points into the parsed text and lives as long as that does.
struct FormPart {
  std::string name;          // of Content-Disposition; never empty
  std::string filename;      // its filename or filename*; "" when absent. Never a path to open.
  std::string content_type;  // "" when absent
  absl::string_view body;
};

struct MultipartLimits {
  size_t max_parts = 32;
  size_t max_header_bytes = 4096;  // of one part
};

// The type and parameters of a Content-Type value; names in lower case. Empty type: malformed.
struct ContentType {
  std::string type;  // "multipart/form-data", lower case
  std::string boundary;
  std::string charset;  // lower case
  // When `type` is empty because of a parameter: the type all the same, and the parameter's name
  // ("" when it has none that can be read).
  std::string malformed_type;
  std::string malformed_parameter;
};
ContentType ParseContentType(absl::string_view value);

// Splits `body` at `boundary`. Strict: the first boundary starts the body (an empty line may
// precede it), the closing one ends it (blanks may follow), every part has a Content-Disposition of
// form-data with a name. Linear in the size of `body`, no copy of any part's bytes.
// BODY_MALFORMED says which rule was broken.
absl::StatusOr<std::vector<FormPart>> ParseMultipart(absl::string_view body,
                                                     absl::string_view boundary,
                                                     const MultipartLimits& limits = {});

}  // namespace chord::http
