// The reasons for which Chord refuses or fails a request: one enumerator and one table row each.
// The row fixes everything that is decided once per reason. Code compares enumerators; the name is
// for the wire (google.rpc.ErrorInfo.reason, `code` of problem+json), labels, logs and tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>

#include "absl/base/log_severity.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace chord {

enum class Reason : uint8_t {
  // Images.
  kImageMissing,
  kImageEmpty,
  kImageTooManyBytes,
  kImageFormatUnknown,
  kImageFormatUnsupported,
  kImageAnimated,
  kImageCorrupt,
  kImageCodingUnsupported,
  kImageTooLarge,
  kImageZeroSide,
  kImageAspectRatio,
  kImageMetadataTooLarge,
  kImageUrlRefused,
  kImageIdUnknown,
  kImageSourceConflict,
  kImageStoreFull,
  kUploadMismatch,
  // Text and parameters.
  kPromptMissing,
  kPromptEmpty,
  kPromptTooLong,
  kPromptTooManyTokens,
  kPromptNotUtf8,
  kPromptHasNul,
  kParameterInvalid,
  kParameterUnsupported,
  kFieldUnknown,
  kModelUnknown,
  // Requests as a whole.
  kBodyTooLarge,
  kBodyMalformed,
  kRouteUnknown,
  kCallUnknown,
  kServiceUnknown,
  kMethodNotAllowed,
  kNotImplemented,
  kContentTypeUnsupported,
  kRequestMalformed,
  kHeadersTooLarge,
  kHttpVersionUnsupported,
  kExpectationUnsupported,
  kRequestTimeout,
  kConnectionLimit,
  kDeadlineExceeded,
  kCancelled,
  kOverloaded,
  kClientLimit,
  kApiKeyMissing,
  kApiKeyUnknown,
  kApiKeyBlocked,
  kApiKeyLimit,
  kBatchEmpty,
  kBatchTooLong,
  kSessionBusy,
  kShuttingDown,
  kWorkerUnavailable,
  kWorkerLost,
  kModelMismatch,
  kDeviceMemory,
  kContextTooLong,
  kInternal,
  // Between our processes.
  kTicketUnknown,
  kTicketReused,
  kEmbeddingMismatch,
  kEmbeddingNotFinite,
  kFrameMismatch,
  kPeerUnknown,
  // An operator's own files and flags.
  kCheckpointInvalid,
  kConfigInvalid,
  kDeviceUnavailable,
  kFileNotWritten,
};

struct ReasonInfo {
  Reason reason;
  absl::string_view name;  // stable: clients compare it
  absl::StatusCode code;
  int http_status;
  bool retryable;       // the same request may succeed later
  bool client_visible;  // false: between our processes or for an operator; a client sees INTERNAL
  absl::LogSeverity log_level;  // of the line that reports it: kInfo for what is the client's doing
};

// In the order of the enumerators.
inline constexpr ReasonInfo kReasons[] = {
    // clang-format off
    {Reason::kImageMissing, "IMAGE_MISSING", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageEmpty, "IMAGE_EMPTY", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageTooManyBytes, "IMAGE_TOO_MANY_BYTES", absl::StatusCode::kInvalidArgument, 413, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageFormatUnknown, "IMAGE_FORMAT_UNKNOWN", absl::StatusCode::kInvalidArgument, 415, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageFormatUnsupported, "IMAGE_FORMAT_UNSUPPORTED", absl::StatusCode::kInvalidArgument, 415, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageAnimated, "IMAGE_ANIMATED", absl::StatusCode::kInvalidArgument, 415, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageCorrupt, "IMAGE_CORRUPT", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageCodingUnsupported, "IMAGE_CODING_UNSUPPORTED", absl::StatusCode::kInvalidArgument, 415, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageTooLarge, "IMAGE_TOO_LARGE", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageZeroSide, "IMAGE_ZERO_SIDE", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageAspectRatio, "IMAGE_ASPECT_RATIO", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageMetadataTooLarge, "IMAGE_METADATA_TOO_LARGE", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageUrlRefused, "IMAGE_URL_REFUSED", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageIdUnknown, "IMAGE_ID_UNKNOWN", absl::StatusCode::kNotFound, 404, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageSourceConflict, "IMAGE_SOURCE_CONFLICT", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kImageStoreFull, "IMAGE_STORE_FULL", absl::StatusCode::kResourceExhausted, 429, true, true, absl::LogSeverity::kInfo},
    {Reason::kUploadMismatch, "UPLOAD_MISMATCH", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPromptMissing, "PROMPT_MISSING", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPromptEmpty, "PROMPT_EMPTY", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPromptTooLong, "PROMPT_TOO_LONG", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPromptTooManyTokens, "PROMPT_TOO_MANY_TOKENS", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPromptNotUtf8, "PROMPT_NOT_UTF8", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPromptHasNul, "PROMPT_HAS_NUL", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kParameterInvalid, "PARAMETER_INVALID", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kParameterUnsupported, "PARAMETER_UNSUPPORTED", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kFieldUnknown, "FIELD_UNKNOWN", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kModelUnknown, "MODEL_UNKNOWN", absl::StatusCode::kNotFound, 404, false, true, absl::LogSeverity::kInfo},
    {Reason::kBodyTooLarge, "BODY_TOO_LARGE", absl::StatusCode::kInvalidArgument, 413, false, true, absl::LogSeverity::kInfo},
    {Reason::kBodyMalformed, "BODY_MALFORMED", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kRouteUnknown, "ROUTE_UNKNOWN", absl::StatusCode::kNotFound, 404, false, true, absl::LogSeverity::kInfo},
    {Reason::kCallUnknown, "CALL_UNKNOWN", absl::StatusCode::kUnimplemented, 501, false, true, absl::LogSeverity::kInfo},
    {Reason::kServiceUnknown, "SERVICE_UNKNOWN", absl::StatusCode::kNotFound, 404, false, true, absl::LogSeverity::kInfo},
    {Reason::kMethodNotAllowed, "METHOD_NOT_ALLOWED", absl::StatusCode::kUnimplemented, 405, false, true, absl::LogSeverity::kInfo},
    {Reason::kNotImplemented, "NOT_IMPLEMENTED", absl::StatusCode::kUnimplemented, 501, false, true, absl::LogSeverity::kInfo},
    {Reason::kContentTypeUnsupported, "CONTENT_TYPE_UNSUPPORTED", absl::StatusCode::kInvalidArgument, 415, false, true, absl::LogSeverity::kInfo},
    {Reason::kRequestMalformed, "REQUEST_MALFORMED", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kHeadersTooLarge, "HEADERS_TOO_LARGE", absl::StatusCode::kInvalidArgument, 431, false, true, absl::LogSeverity::kInfo},
    {Reason::kHttpVersionUnsupported, "HTTP_VERSION_UNSUPPORTED", absl::StatusCode::kUnimplemented, 505, false, true, absl::LogSeverity::kInfo},
    {Reason::kExpectationUnsupported, "EXPECTATION_UNSUPPORTED", absl::StatusCode::kUnimplemented, 417, false, true, absl::LogSeverity::kInfo},
    {Reason::kRequestTimeout, "REQUEST_TIMEOUT", absl::StatusCode::kDeadlineExceeded, 408, true, true, absl::LogSeverity::kInfo},
    {Reason::kConnectionLimit, "CONNECTION_LIMIT", absl::StatusCode::kUnavailable, 503, true, true, absl::LogSeverity::kWarning},
    {Reason::kDeadlineExceeded, "DEADLINE_EXCEEDED", absl::StatusCode::kDeadlineExceeded, 504, true, true, absl::LogSeverity::kInfo},
    {Reason::kCancelled, "CANCELLED", absl::StatusCode::kCancelled, 499, false, true, absl::LogSeverity::kInfo},
    {Reason::kOverloaded, "OVERLOADED", absl::StatusCode::kResourceExhausted, 429, true, true, absl::LogSeverity::kInfo},
    {Reason::kClientLimit, "CLIENT_LIMIT", absl::StatusCode::kResourceExhausted, 429, true, true, absl::LogSeverity::kInfo},
    {Reason::kApiKeyMissing, "API_KEY_MISSING", absl::StatusCode::kUnauthenticated, 401, false, true, absl::LogSeverity::kInfo},
    {Reason::kApiKeyUnknown, "API_KEY_UNKNOWN", absl::StatusCode::kUnauthenticated, 401, false, true, absl::LogSeverity::kWarning},
    {Reason::kApiKeyBlocked, "API_KEY_BLOCKED", absl::StatusCode::kResourceExhausted, 429, true, true, absl::LogSeverity::kWarning},
    {Reason::kApiKeyLimit, "API_KEY_LIMIT", absl::StatusCode::kResourceExhausted, 429, true, true, absl::LogSeverity::kInfo},
    {Reason::kBatchEmpty, "BATCH_EMPTY", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kBatchTooLong, "BATCH_TOO_LONG", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kSessionBusy, "SESSION_BUSY", absl::StatusCode::kAborted, 409, true, true, absl::LogSeverity::kInfo},
    {Reason::kShuttingDown, "SHUTTING_DOWN", absl::StatusCode::kUnavailable, 503, true, true, absl::LogSeverity::kInfo},
    {Reason::kWorkerUnavailable, "WORKER_UNAVAILABLE", absl::StatusCode::kUnavailable, 503, true, true, absl::LogSeverity::kWarning},
    {Reason::kWorkerLost, "WORKER_LOST", absl::StatusCode::kUnavailable, 503, true, true, absl::LogSeverity::kWarning},
    {Reason::kModelMismatch, "MODEL_MISMATCH", absl::StatusCode::kFailedPrecondition, 503, false, true, absl::LogSeverity::kError},
    {Reason::kDeviceMemory, "DEVICE_MEMORY", absl::StatusCode::kResourceExhausted, 503, true, true, absl::LogSeverity::kWarning},
    {Reason::kContextTooLong, "CONTEXT_TOO_LONG", absl::StatusCode::kInvalidArgument, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kInternal, "INTERNAL", absl::StatusCode::kInternal, 500, true, true, absl::LogSeverity::kError},
    {Reason::kTicketUnknown, "TICKET_UNKNOWN", absl::StatusCode::kNotFound, 404, false, false, absl::LogSeverity::kInfo},
    {Reason::kTicketReused, "TICKET_REUSED", absl::StatusCode::kFailedPrecondition, 400, false, false, absl::LogSeverity::kWarning},
    {Reason::kEmbeddingMismatch, "EMBEDDING_MISMATCH", absl::StatusCode::kInvalidArgument, 400, false, false, absl::LogSeverity::kError},
    {Reason::kEmbeddingNotFinite, "EMBEDDING_NOT_FINITE", absl::StatusCode::kInvalidArgument, 400, false, false, absl::LogSeverity::kError},
    {Reason::kFrameMismatch, "FRAME_MISMATCH", absl::StatusCode::kFailedPrecondition, 400, false, true, absl::LogSeverity::kInfo},
    {Reason::kPeerUnknown, "PEER_UNKNOWN", absl::StatusCode::kFailedPrecondition, 400, false, false, absl::LogSeverity::kWarning},
    {Reason::kCheckpointInvalid, "CHECKPOINT_INVALID", absl::StatusCode::kFailedPrecondition, 400, false, false, absl::LogSeverity::kError},
    {Reason::kConfigInvalid, "CONFIG_INVALID", absl::StatusCode::kInvalidArgument, 400, false, false, absl::LogSeverity::kError},
    {Reason::kDeviceUnavailable, "DEVICE_UNAVAILABLE", absl::StatusCode::kFailedPrecondition, 400, false, false, absl::LogSeverity::kError},
    {Reason::kFileNotWritten, "FILE_NOT_WRITTEN", absl::StatusCode::kFailedPrecondition, 400, false, false, absl::LogSeverity::kError},
    // clang-format on
};
inline constexpr size_t kReasonCount = static_cast<size_t>(Reason::kFileNotWritten) + 1;
static_assert(
    [] {
      if (std::size(kReasons) != kReasonCount) return false;
      for (size_t i = 0; i < kReasonCount; ++i) {
        if (kReasons[i].reason != static_cast<Reason>(i)) return false;
      }
      return true;
    }(),
    "kReasons needs one row per enumerator, in order");

constexpr const ReasonInfo& Info(Reason reason) { return kReasons[static_cast<size_t>(reason)]; }
constexpr absl::string_view Name(Reason reason) { return Info(reason).name; }

// nullopt: not one of ours, or of another release.
constexpr std::optional<Reason> ReasonFromName(absl::string_view name) {
  for (const ReasonInfo& info : kReasons) {
    if (info.name == name) return info.reason;
  }
  return std::nullopt;
}

}  // namespace chord
