// Images of a chat request: data: URLs as the Fetch standard reads them (WHATWG, "data: URL
// processor", with forgiving base64 of the Infra standard). Nothing is ever fetched. Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::gateway::openai {

// WHATWG forgiving-base64 decode, in place: ASCII white space is skipped, padding is optional, and
// bits that are left over are dropped. False when it is no base64.
bool ForgivingBase64(std::string& text);

// RFC 3986 percent-decoding in place; what is no "%xx" stays as it is.
void PercentDecode(std::string& text);

// The bytes of "data:<anything>;base64,<bytes>". The media type is not looked at: the bytes say
// what the image is. IMAGE_URL_REFUSED for http, https, ftp and file; else PARAMETER_INVALID by
// `param` for all that is no data: URL with base64.
absl::StatusOr<std::string> DecodeImageUrl(std::string url, absl::string_view param);

}  // namespace chord::gateway::openai
