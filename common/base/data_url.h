// data: URLs and base64, as clients send images in text. Pure; nothing is ever fetched.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord {

// Whether `text` starts with the scheme of a URL that names a place (http, https, ftp, file).
bool IsRemoteUrl(absl::string_view text);
// Whether `text` starts with "data:" in any case.
bool IsDataUrl(absl::string_view text);

// The bytes of "data:<anything>;base64,<bytes>", decoded as in base64.h. The media type is ignored:
// the bytes of an image tell its format. IMAGE_URL_REFUSED for a remote URL; PARAMETER_INVALID, by
// `parameter`, for anything else that is not a data: URL with base64.
absl::StatusOr<std::string> DecodeDataUrl(std::string url, absl::string_view parameter = "image");
// The same for text that may also be plain base64. A URL of any scheme but data: is refused.
absl::StatusOr<std::string> DecodeDataUrlOrBase64(std::string text, absl::string_view parameter);

}  // namespace chord
