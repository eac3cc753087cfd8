#include "common/base/data_url.h"

#include <cstddef>
#include <utility>

#include "absl/strings/match.h"
#include "common/base/base64.h"
#include "common/base/errors.h"

namespace chord {
namespace {

constexpr size_t kMaxMediaTypeBytes = 256;

// Cuts `url` to what follows "…;base64,".
bool CutToBase64(std::string& url) {
  const size_t comma = url.find(',');
  if (!IsDataUrl(url) || comma == std::string::npos || comma > kMaxMediaTypeBytes ||
      !absl::EndsWithIgnoreCase(absl::string_view(url).substr(0, comma), ";base64")) {
    return false;
  }
  url.erase(0, comma + 1);
  return true;
}

}  // namespace

bool IsRemoteUrl(absl::string_view text) {
  for (absl::string_view scheme : {"http://", "https://", "ftp://", "file://"}) {
    if (absl::StartsWithIgnoreCase(text, scheme)) return true;
  }
  return false;
}

bool IsDataUrl(absl::string_view text) { return absl::StartsWithIgnoreCase(text, "data:"); }

absl::StatusOr<std::string> DecodeDataUrl(std::string url, absl::string_view parameter) {
  if (IsRemoteUrl(url)) return errors::ImageUrlRefused();
  if (!CutToBase64(url) || !DecodeForgivingBase64(url)) {
    return errors::ParameterInvalid(parameter,
                                    "a data: URL with base64, as data:image/png;base64,…");
  }
  return url;
}

absl::StatusOr<std::string> DecodeDataUrlOrBase64(std::string text, absl::string_view parameter) {
  constexpr size_t kMaxSchemeBytes = 16;  // base64 has no ':', so any scheme will do
  if (absl::StrContains(absl::string_view(text).substr(0, kMaxSchemeBytes), "://")) {
    return errors::ImageUrlRefused();
  }
  if ((IsDataUrl(text) && !CutToBase64(text)) || !DecodeForgivingBase64(text)) {
    return errors::ParameterInvalid(parameter, "base64, or a data: URL with base64");
  }
  return text;
}

}  // namespace chord
