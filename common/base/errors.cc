#include "common/base/errors.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"

namespace chord {
namespace {

constexpr absl::string_view kReasonUrl = "chord.dev/reason";
constexpr absl::string_view kRetryUrl = "chord.dev/retry-after-ms";

std::string Bytes(int64_t bytes) {
  if (bytes >= (1 << 20))
    return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  if (bytes >= (1 << 10))
    return absl::StrFormat("%.1f KiB", static_cast<double>(bytes) / (1 << 10));
  return absl::StrCat(bytes, " bytes");
}

absl::Status Make(absl::StatusCode code, absl::string_view reason, absl::string_view text) {
  return MakeCatalogued(code, reason, text);
}
absl::Status Invalid(absl::string_view reason, absl::string_view text) {
  return Make(absl::StatusCode::kInvalidArgument, reason, text);
}

}  // namespace

std::string ErrorReason(const absl::Status& status) {
  if (auto reason = status.GetPayload(kReasonUrl)) return std::string(*reason);
  return absl::StatusCodeToString(status.code());
}

bool IsCatalogued(const absl::Status& status) { return status.GetPayload(kReasonUrl).has_value(); }

absl::Duration RetryAfter(const absl::Status& status) {
  int64_t ms = 0;
  if (auto text = status.GetPayload(kRetryUrl); text && absl::SimpleAtoi(std::string(*text), &ms)) {
    return absl::Milliseconds(ms);
  }
  return absl::ZeroDuration();
}

absl::Status MakeCatalogued(absl::StatusCode code, absl::string_view reason, absl::string_view text,
                            absl::Duration retry_after) {
  absl::Status out(code, text.substr(0, limits::kMaxErrorTextBytes));
  out.SetPayload(kReasonUrl, absl::Cord(reason));
  if (retry_after > absl::ZeroDuration()) {
    out.SetPayload(kRetryUrl, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(retry_after))));
  }
  return out;
}

absl::Status ForClient(const absl::Status& status) {
  if (status.ok() || IsCatalogued(status)) return status;
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return errors::Cancelled();
    case absl::StatusCode::kDeadlineExceeded:
      return errors::DeadlineExceeded();
    default:
      return errors::Internal();
  }
}

namespace errors {

absl::Status ImageMissing() {
  return Invalid("IMAGE_MISSING",
                 "The request has no image. Send a JPEG, PNG or WebP file in the field \"image\".");
}
absl::Status ImageEmpty() {
  return Invalid("IMAGE_EMPTY", "The image has no bytes. Send a JPEG, PNG or WebP file.");
}
absl::Status ImageBytesLimit(int64_t bytes, int64_t limit) {
  return Invalid("IMAGE_TOO_MANY_BYTES",
                 absl::StrCat("The image has ", Bytes(bytes), "; the limit is ", Bytes(limit),
                              ". Scale it down or compress it and send it again."));
}
absl::Status ImageFormatUnknown() {
  return Invalid("IMAGE_FORMAT_UNKNOWN",
                 "The file is not an image we know. Send JPEG, PNG or WebP; the format is told by "
                 "the file's bytes, not by its name.");
}
absl::Status ImageFormatUnsupported(absl::string_view format) {
  return Invalid(
      "IMAGE_FORMAT_UNSUPPORTED",
      absl::StrCat(format, " is not accepted. Convert it to JPEG, PNG or WebP and send it again."));
}
absl::Status ImageAnimated(absl::string_view format) {
  return Invalid(
      "IMAGE_ANIMATED",
      absl::StrCat("The ", format, " is animated. Send one frame as JPEG, PNG or WebP."));
}
absl::Status ImageCorrupt(absl::string_view format) {
  return Invalid(
      "IMAGE_CORRUPT",
      absl::StrCat("The ", format, " is cut off or damaged. Send the whole file again."));
}
absl::Status ImageCodingUnsupported(absl::string_view coding) {
  return Invalid(
      "IMAGE_CODING_UNSUPPORTED",
      absl::StrCat(
          "This image is a ", coding,
          ", which is not accepted. Save it as a baseline JPEG, PNG or WebP and send it again."));
}
absl::Status ImagePixelLimit(int64_t width, int64_t height, int64_t limit_pixels) {
  return Invalid("IMAGE_TOO_LARGE",
                 absl::StrFormat("The image is %d×%d px; the limit is %.1f megapixels and %d px "
                                 "a side. Scale it down and send it again.",
                                 width, height, static_cast<double>(limit_pixels) / 1e6,
                                 limits::kMaxImageSide));
}
absl::Status ImageZeroSide() {
  return Invalid("IMAGE_ZERO_SIDE",
                 "The image has a side of 0 px. Send an image of at least 1×1 px.");
}
absl::Status ImageAspectRatio(int64_t width, int64_t height) {
  return Invalid("IMAGE_ASPECT_RATIO",
                 absl::StrFormat("The image is %d×%d px; the longer side may be at most %d times "
                                 "the shorter. Crop it and send it again.",
                                 width, height, limits::kMaxAspectRatio));
}
absl::Status ImageMetadataLimit() {
  return Invalid(
      "IMAGE_METADATA_TOO_LARGE",
      absl::StrCat("The image carries more than ", Bytes(limits::kMaxImageMetadataBytes),
                   " of metadata. Strip it (EXIF, ICC, text) and send the image again."));
}
absl::Status ImageUrlRefused() {
  return Invalid(
      "IMAGE_URL_REFUSED",
      "Images are not fetched from addresses. Send the file itself, or a data: URL with base64.");
}
absl::Status ImageIdUnknown() {
  return Make(absl::StatusCode::kNotFound, "IMAGE_ID_UNKNOWN",
              "This image_id is unknown or has expired. Upload the image again.");
}
absl::Status ImageSourceConflict() {
  return Invalid("IMAGE_SOURCE_CONFLICT",
                 "The request has an image and an image_id. Send one of them.");
}
absl::Status ImageStoreFull(absl::Duration retry_after) {
  return MakeCatalogued(absl::StatusCode::kResourceExhausted, "IMAGE_STORE_FULL",
                        "There is no room for more images that stay. Delete pinned ones, upload "
                        "without pin, or try again when some have expired.",
                        retry_after);
}
absl::Status UploadMismatch() {
  return Invalid("UPLOAD_MISMATCH",
                 "The upload does not hold what its start announced. Send the start with the "
                 "file's size, then the file in chunks of 1 byte to 1 MiB.");
}

absl::Status PromptMissing() {
  return Invalid("PROMPT_MISSING",
                 "The request has no prompt. Say in the field \"prompt\" what to look for.");
}
absl::Status PromptEmpty() {
  return Invalid("PROMPT_EMPTY", "The prompt is empty. Say in a few words what to look for.");
}
absl::Status PromptBytesLimit(int64_t bytes, int64_t limit) {
  return Invalid("PROMPT_TOO_LONG",
                 absl::StrCat("The prompt has ", bytes, " bytes of UTF-8; the limit is ", limit,
                              ". Shorten it and ask again."));
}
absl::Status PromptTokensLimit(int64_t tokens, int64_t limit) {
  return Invalid(
      "PROMPT_TOO_MANY_TOKENS",
      absl::StrCat("The prompt has ", tokens, " tokens; with this image there is room for ", limit,
                   ". Shorten it and ask again."));
}
absl::Status PromptNotUtf8() {
  return Invalid("PROMPT_NOT_UTF8",
                 "The prompt is not valid UTF-8. Encode it as UTF-8 and ask again.");
}
absl::Status PromptHasNul() {
  return Invalid("PROMPT_HAS_NUL", "The prompt holds a NUL character. Remove it and ask again.");
}
absl::Status ParameterInvalid(absl::string_view name, absl::string_view expected) {
  return Invalid("PARAMETER_INVALID",
                 absl::StrCat("The parameter \"", name, "\" must be ", expected, "."));
}
absl::Status FieldUnknown() {
  return Invalid(
      "FIELD_UNKNOWN",
      "The request has a field that is not known. See the API page for the fields of this call.");
}

absl::Status BodyTooLarge(int64_t limit) {
  return Invalid("BODY_TOO_LARGE", absl::StrCat("The request body is over the limit of ",
                                                Bytes(limit), ". Send a smaller image."));
}
absl::Status BodyMalformed(absl::string_view expected) {
  return Invalid("BODY_MALFORMED",
                 absl::StrCat("The request body could not be read. Send ", expected, "."));
}
absl::Status RouteUnknown() {
  return Make(absl::StatusCode::kNotFound, "ROUTE_UNKNOWN",
              "There is nothing at this address. POST /api/ground asks a prompt; GET /healthz, "
              "/readyz and /metrics tell the state.");
}
absl::Status CallUnknown() {
  return Make(absl::StatusCode::kUnimplemented, "CALL_UNKNOWN",
              "There is no such call. Ask the server by reflection which calls there are, or look "
              "for a newer server.");
}
absl::Status ServiceUnknown() {
  return Make(absl::StatusCode::kNotFound, "SERVICE_UNKNOWN",
              "There is no such service. Ask for the health of \"\", or of one that reflection "
              "names.");
}
absl::Status MethodNotAllowed(absl::string_view allowed) {
  return Make(absl::StatusCode::kUnimplemented, "METHOD_NOT_ALLOWED",
              absl::StrCat("This address does not take that method. Use ", allowed, "."));
}
absl::Status NotImplementedYet(absl::string_view feature) {
  return Make(absl::StatusCode::kUnimplemented, "NOT_IMPLEMENTED",
              absl::StrCat("This version of Chord does not offer ", feature,
                           " yet. See CHANGELOG.md for what it offers."));
}
absl::Status ContentTypeUnsupported(absl::string_view expected) {
  return Invalid(
      "CONTENT_TYPE_UNSUPPORTED",
      absl::StrCat("The request's Content-Type is not taken here. Send ", expected, "."));
}
absl::Status RequestMalformed(absl::string_view what) {
  return Invalid("REQUEST_MALFORMED",
                 absl::StrCat("The request is not valid HTTP/1.1: ", what, "."));
}
absl::Status HeadersTooLarge(int64_t limit) {
  return Invalid("HEADERS_TOO_LARGE",
                 absl::StrCat("The request's header is over the limit of ", Bytes(limit),
                              ". Send fewer or shorter fields."));
}
absl::Status HttpVersionUnsupported() {
  return Make(absl::StatusCode::kUnimplemented, "HTTP_VERSION_UNSUPPORTED",
              "This server speaks HTTP/1.1 and HTTP/1.0. Use one of them.");
}
absl::Status ExpectationUnsupported() {
  return Make(absl::StatusCode::kUnimplemented, "EXPECTATION_UNSUPPORTED",
              "The only expectation taken is 100-continue. Send the request without the field "
              "Expect.");
}
absl::Status RequestTimeout() {
  return Make(absl::StatusCode::kDeadlineExceeded, "REQUEST_TIMEOUT",
              "The request did not arrive in time. Send it again over a faster connection.");
}
absl::Status ConnectionLimit() {
  return MakeCatalogued(absl::StatusCode::kUnavailable, "CONNECTION_LIMIT",
                        "The server has as many connections as it takes. Try again shortly.",
                        absl::Seconds(1));
}
absl::Status DeadlineExceeded() {
  return Make(
      absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
      "The answer was not ready within the deadline. Allow more time, or send a smaller image.");
}
absl::Status Cancelled() {
  return Make(absl::StatusCode::kCancelled, "CANCELLED",
              "The request was cancelled by its client.");
}
absl::Status Overloaded(absl::Duration retry_after) {
  return MakeCatalogued(absl::StatusCode::kResourceExhausted, "OVERLOADED",
                        "The service is busy. Try again after the time given.", retry_after);
}
absl::Status ClientLimit(int limit, absl::Duration retry_after) {
  return MakeCatalogued(absl::StatusCode::kResourceExhausted, "CLIENT_LIMIT",
                        absl::StrCat("This client has ", limit,
                                     " requests under way, which is the limit. Wait for an answer "
                                     "before you send the next."),
                        retry_after);
}
absl::Status BatchLimit(int64_t prompts, int64_t limit) {
  return Invalid("BATCH_TOO_LONG",
                 absl::StrCat("The batch has ", prompts, " prompts; it may have 1 to ", limit,
                              ". Send it in parts, or stream it (GroundBatch)."));
}
absl::Status SessionBusy() {
  return MakeCatalogued(absl::StatusCode::kAborted, "SESSION_BUSY",
                        "A prompt of this session is still being answered. Wait for its answer, "
                        "then ask the next.",
                        absl::Seconds(1));
}
absl::Status ShuttingDown() {
  return MakeCatalogued(
      absl::StatusCode::kUnavailable, "SHUTTING_DOWN",
      "This server is shutting down. Send the request to another one, or try again shortly.",
      absl::Seconds(1));
}
absl::Status WorkerUnavailable(absl::string_view role) {
  return MakeCatalogued(absl::StatusCode::kUnavailable, "WORKER_UNAVAILABLE",
                        absl::StrCat("No ", role,
                                     " worker is ready. Try again shortly; if it persists, ask the "
                                     "operator to run \"chord doctor\"."),
                        absl::Seconds(1));
}
absl::Status WorkerLost(absl::string_view role) {
  return MakeCatalogued(
      absl::StatusCode::kUnavailable, "WORKER_LOST",
      absl::StrCat("The ", role, " worker went away while it answered. Send the request again."),
      absl::Seconds(1));
}
absl::Status ModelMismatch() {
  return Make(absl::StatusCode::kFailedPrecondition, "MODEL_MISMATCH",
              "The servers of this installation hold different models. Ask the operator to start "
              "all of them with the same one.");
}
absl::Status DeviceMemory() {
  return MakeCatalogued(absl::StatusCode::kResourceExhausted, "DEVICE_MEMORY",
                        "The device has no memory left for this request. Try again shortly, or "
                        "send a smaller image.",
                        absl::Seconds(1));
}
absl::Status ContextLimit(int64_t tokens, int64_t limit) {
  return Invalid(
      "CONTEXT_TOO_LONG",
      absl::StrCat("Image, prompt and answer need ", tokens, " tokens; the model takes ", limit,
                   ". Send a smaller image, a shorter prompt, or a smaller max_new_tokens."));
}
absl::Status Internal() {
  return Make(absl::StatusCode::kInternal, "INTERNAL",
              "Something went wrong on our side. Try again; if it persists, give the request id to "
              "the operator.");
}

absl::Status TicketUnknown() {
  return Make(absl::StatusCode::kNotFound, "TICKET_UNKNOWN",
              "The ticket is not known here: it was never issued, has expired or was cancelled.");
}
absl::Status TicketReused() {
  return Make(absl::StatusCode::kFailedPrecondition, "TICKET_REUSED",
              "The ticket has been used already.");
}
absl::Status EmbeddingMismatch(absl::string_view field) {
  return Invalid("EMBEDDING_MISMATCH",
                 absl::StrCat("The embeddings do not match their ticket: ", field, "."));
}
absl::Status EmbeddingNotFinite() {
  return Invalid("EMBEDDING_NOT_FINITE", "The embeddings hold values that are not finite.");
}
absl::Status FrameMismatch() {
  return Make(absl::StatusCode::kFailedPrecondition, "FRAME_MISMATCH",
              "The image's size differs from what its header said. Save it again with another "
              "program and send that.");
}
absl::Status PeerUnknown() {
  return Make(absl::StatusCode::kFailedPrecondition, "PEER_UNKNOWN",
              "The named peer is not configured here.");
}

absl::Status CheckpointInvalid(absl::string_view what) {
  return Make(absl::StatusCode::kFailedPrecondition, "CHECKPOINT_INVALID", what);
}
absl::Status ConfigInvalid(absl::string_view what) { return Invalid("CONFIG_INVALID", what); }
absl::Status DeviceUnavailable(absl::string_view what) {
  return Make(absl::StatusCode::kFailedPrecondition, "DEVICE_UNAVAILABLE", what);
}
absl::Status FileNotWritten(absl::string_view what) {
  return Make(absl::StatusCode::kFailedPrecondition, "FILE_NOT_WRITTEN", what);
}

}  // namespace errors
}  // namespace chord
