#include "services/gateway/http/data_url.h"

#include <utility>

#include "absl/strings/match.h"
#include "common/base/base64.h"
#include "common/base/errors.h"

namespace chord::gateway {
namespace {
constexpr size_t kMaxMediaTypeBytes = 256;
}  // namespace

bool IsAddress(absl::string_view text) {
  for (absl::string_view scheme : {"http://", "https://", "ftp://", "file://"}) {
    if (absl::StartsWithIgnoreCase(text, scheme)) return true;
  }
  return false;
}

absl::StatusOr<std::string> DecodeDataUrl(std::string url, absl::string_view parameter) {
  if (IsAddress(url)) return errors::ImageUrlRefused();
  const absl::Status malformed =
      errors::ParameterInvalid(parameter, "a data: URL with base64, as data:image/png;base64,…");
  if (!absl::StartsWithIgnoreCase(url, "data:")) return malformed;
  const size_t comma = url.find(',');
  if (comma == std::string::npos || comma > kMaxMediaTypeBytes ||
      !absl::EndsWithIgnoreCase(absl::string_view(url).substr(0, comma), ";base64")) {
    return malformed;
  }
  url.erase(0, comma + 1);
  if (!DecodeForgivingBase64(url)) return malformed;
  return url;
}

}  // namespace chord::gateway
