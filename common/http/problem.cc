#include "common/http/problem.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/errors.h"

namespace chord::http {
namespace {

int ByCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

}  // namespace

int HttpStatus(const absl::Status& status) {
  const std::optional<Reason> reason = ReasonOf(status);
  return reason ? Info(*reason).http_status : ByCode(status.code());
}

absl::string_view ReasonPhrase(int http_status) {
  switch (http_status) {
    // clang-format off
    case 100: return "Continue";
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
      // clang-format on
  }
}

std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
}

nlohmann::ordered_json ProblemJson(const absl::Status& status, absl::string_view request_id) {
  const absl::Status shown = ForClient(status);
  const std::string code = ErrorReason(shown);
  const int http_status = HttpStatus(shown);
  nlohmann::ordered_json body;
  // Stable per code, as `code` is: clients that know RFC 9457 only switch on `type`.
  body["type"] = absl::StrCat("urn:chord:error:",
                              absl::StrReplaceAll(absl::AsciiStrToLower(code), {{"_", "-"}}));
  body["title"] = std::string(ReasonPhrase(http_status));
  body["status"] = http_status;
  body["detail"] = std::string(shown.message());
  body["code"] = code;
  body["request_id"] = std::string(request_id);
  if (const absl::Duration wait = RetryAfter(shown); wait > absl::ZeroDuration()) {
    body["retry_after_seconds"] = absl::ToDoubleSeconds(wait);
  }
  return body;
}

Response Problem(const absl::Status& status, absl::string_view request_id) {
  const absl::Status shown = ForClient(status);
  Response out;
  out.status = HttpStatus(shown);
  out.content_type = "application/problem+json";
  if (const absl::Duration wait = RetryAfter(shown); wait > absl::ZeroDuration()) {
    // Whole seconds, rounded up: the header knows no fractions.
    out.fields.emplace_back("Retry-After",
                            absl::StrCat(absl::ToInt64Seconds(absl::Ceil(wait, absl::Seconds(1)))));
  }
  out.body = Dump(ProblemJson(shown, request_id)) + "\n";
  return out;
}

}  // namespace chord::http
