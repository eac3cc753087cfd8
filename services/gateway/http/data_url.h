#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::gateway {

// Whether `text` is an address (http, https, ftp, file). Nothing is ever fetched from one.
bool IsAddress(absl::string_view text);

// The bytes of "data:<anything>;base64,<bytes>", the base64 as the WHATWG's forgiving decode reads
// it. The media type is not looked at: an image tells by its bytes what it is. IMAGE_URL_REFUSED
// for an address; PARAMETER_INVALID, by `parameter`, for what is no data: URL with base64.
absl::StatusOr<std::string> DecodeDataUrl(std::string url, absl::string_view parameter = "image");

}  // namespace chord::gateway
