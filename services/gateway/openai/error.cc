#include "services/gateway/openai/error.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/errors.h"
#include "common/http/problem.h"

namespace chord::gateway::openai {
namespace {

constexpr absl::string_view kParamUrl = "chord.dev/param";

const char* TypeOf(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return http_status >= 500 ? "server_error" : "invalid_request_error";
  }
}

}  // namespace

absl::Status WithParam(absl::Status status, absl::string_view param) {
  if (!status.ok()) status.SetPayload(kParamUrl, absl::Cord(param));
  return status;
}

std::string ParamOf(const absl::Status& status) {
  if (auto param = status.GetPayload(kParamUrl)) return std::string(*param);
  const std::optional<Reason> reason = ReasonOf(status);
  if (!reason) return "";
  switch (*reason) {
    case Reason::kImageMissing:
    case Reason::kImageEmpty:
    case Reason::kImageTooManyBytes:
    case Reason::kImageFormatUnknown:
    case Reason::kImageFormatUnsupported:
    case Reason::kImageAnimated:
    case Reason::kImageCorrupt:
    case Reason::kImageCodingUnsupported:
    case Reason::kImageTooLarge:
    case Reason::kImageZeroSide:
    case Reason::kImageAspectRatio:
    case Reason::kImageMetadataTooLarge:
    case Reason::kImageUrlRefused:
    case Reason::kImageIdUnknown:
    case Reason::kImageSourceConflict:
    case Reason::kPromptMissing:
    case Reason::kPromptEmpty:
    case Reason::kPromptTooLong:
    case Reason::kPromptTooManyTokens:
    case Reason::kPromptNotUtf8:
    case Reason::kPromptHasNul:
    case Reason::kContextTooLong:
      return "messages";
    case Reason::kModelUnknown:
      return "model";
    default:
      return "";
  }
}

std::string ErrorJson(const absl::Status& status) {
  const absl::Status shown = ForClient(status);
  const std::string param = ParamOf(shown);
  nlohmann::ordered_json error;
  error["message"] = std::string(shown.message());
  error["type"] = TypeOf(http::HttpStatus(shown));
  error["param"] = param.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(param);
  error["code"] = ErrorReason(shown);
  nlohmann::ordered_json out;
  out["error"] = std::move(error);
  return http::Dump(out);
}

http::Response ErrorResponse(const absl::Status& status) {
  const absl::Status shown = ForClient(status);
  http::Response out;
  out.status = http::HttpStatus(shown);
  out.content_type = "application/json";
  out.fields.emplace_back("Cache-Control", "no-store");
  if (const absl::Duration wait = RetryAfter(shown); wait > absl::ZeroDuration()) {
    out.fields.emplace_back("Retry-After",
                            absl::StrCat(absl::ToInt64Seconds(absl::Ceil(wait, absl::Seconds(1)))));
  }
  out.body = ErrorJson(shown) + "\n";
  return out;
}

}  // namespace chord::gateway::openai
