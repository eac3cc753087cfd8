#include "common/base/errors.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
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

absl::Status Make(Reason reason, absl::string_view text,
                  absl::Duration retry_after = absl::ZeroDuration()) {
  const ReasonInfo& info = Info(reason);
  return MakeCatalogued(info.code, info.name, text,
                        info.retryable ? retry_after : absl::ZeroDuration());
}

// A name from outside as it may stand in an error: short, and without control characters.
std::string Quoted(absl::string_view name) {
  constexpr size_t kMaxBytes = 64;
  const bool whole = name.size() <= kMaxBytes;
  size_t end = whole ? name.size() : kMaxBytes;
  // Not inside a character.
  while (!whole && end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(name.substr(0, end)), whole ? "" : "…", "\"");
}

}  // namespace

std::string ErrorReason(const absl::Status& status) {
  if (auto reason = status.GetPayload(kReasonUrl)) return std::string(*reason);
  return absl::StatusCodeToString(status.code());
}

std::optional<Reason> ReasonOf(const absl::Status& status) {
  const auto name = status.GetPayload(kReasonUrl);
  return name ? ReasonFromName(std::string(*name)) : std::nullopt;
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

bool Is(const absl::Status& status, Reason reason) { return ReasonOf(status) == reason; }

absl::Status ImageMissing() {
  return Make(Reason::kImageMissing,
              "The request has no image. Send a JPEG, PNG or WebP file in the field \"image\".");
}
absl::Status ImageEmpty() {
  return Make(Reason::kImageEmpty, "The image has no bytes. Send a JPEG, PNG or WebP file.");
}
absl::Status ImageBytesLimit(int64_t bytes, int64_t limit) {
  return Make(Reason::kImageTooManyBytes,
              absl::StrCat("The image has ", Bytes(bytes), "; the limit is ", Bytes(limit),
                           ". Scale it down or compress it and send it again."));
}
absl::Status ImageFormatUnknown() {
  return Make(Reason::kImageFormatUnknown,
              "The file is not an image we know. Send JPEG, PNG or WebP; the format is told by "
              "the file's bytes, not by its name.");
}
absl::Status ImageFormatUnsupported(absl::string_view format) {
  return Make(
      Reason::kImageFormatUnsupported,
      absl::StrCat(format, " is not accepted. Convert it to JPEG, PNG or WebP and send it again."));
}
absl::Status ImageAnimated(absl::string_view format) {
  return Make(Reason::kImageAnimated,
              absl::StrCat("The ", format, " is animated. Send one frame as JPEG, PNG or WebP."));
}
absl::Status ImageCorrupt(absl::string_view format) {
  return Make(Reason::kImageCorrupt,
              absl::StrCat("The ", format, " is cut off or damaged. Send the whole file again."));
}
absl::Status ImageCodingUnsupported(absl::string_view coding) {
  return Make(
      Reason::kImageCodingUnsupported,
      absl::StrCat(
          "This image is a ", coding,
          ", which is not accepted. Save it as a baseline JPEG, PNG or WebP and send it again."));
}
absl::Status ImagePixelLimit(int64_t width, int64_t height, int64_t limit_pixels) {
  return Make(Reason::kImageTooLarge,
              absl::StrFormat("The image is %d×%d px; the limit is %.1f megapixels and %d px "
                              "a side. Scale it down and send it again.",
                              width, height, static_cast<double>(limit_pixels) / 1e6,
                              limits::kMaxImageSide));
}
absl::Status ImageZeroSide() {
  return Make(Reason::kImageZeroSide,
              "The image has a side of 0 px. Send an image of at least 1×1 px.");
}
absl::Status ImageAspectRatio(int64_t width, int64_t height) {
  return Make(Reason::kImageAspectRatio,
              absl::StrFormat("The image is %d×%d px; the longer side may be at most %d times "
                              "the shorter. Crop it and send it again.",
                              width, height, limits::kMaxAspectRatio));
}
absl::Status ImageMetadataLimit(int64_t limit_bytes) {
  return Make(Reason::kImageMetadataTooLarge,
              absl::StrCat("The image carries more than ", Bytes(limit_bytes),
                           " of metadata. Strip it (EXIF, ICC, text) and send the image again."));
}
absl::Status ImageUrlRefused() {
  return Make(
      Reason::kImageUrlRefused,
      "Images are not fetched from addresses. Send the file itself, or a data: URL with base64.");
}
absl::Status ImageIdUnknown() {
  return Make(Reason::kImageIdUnknown,
              "This image_id is unknown or has expired. Upload the image again.");
}
absl::Status ImageSourceConflict() {
  return Make(Reason::kImageSourceConflict,
              "The request has an image and an image_id. Send one of them.");
}
absl::Status ImageStoreFull(absl::Duration retry_after) {
  return Make(Reason::kImageStoreFull,
              "There is no room for more images that stay. Delete pinned ones, upload "
              "without pin, or try again when some have expired.",
              retry_after);
}
absl::Status UploadMismatch() {
  return Make(Reason::kUploadMismatch,
              "The upload does not hold what its start announced. Send the start with the "
              "file's size, then the file in chunks of 1 byte to 1 MiB.");
}

absl::Status PromptMissing() {
  return Make(Reason::kPromptMissing,
              "The request has no prompt. Say in the field \"prompt\" what to look for.");
}
absl::Status PromptEmpty() {
  return Make(Reason::kPromptEmpty, "The prompt is empty. Say in a few words what to look for.");
}
absl::Status PromptBytesLimit(int64_t bytes, int64_t limit) {
  return Make(Reason::kPromptTooLong,
              absl::StrCat("The prompt has ", bytes, " bytes of UTF-8; the limit is ", limit,
                           ". Shorten it and ask again."));
}
absl::Status PromptTokensLimit(int64_t tokens, int64_t limit) {
  return Make(Reason::kPromptTooManyTokens,
              absl::StrCat("The prompt has ", tokens, " tokens; with this image there is room for ",
                           limit, ". Shorten it and ask again."));
}
absl::Status PromptNotUtf8() {
  return Make(Reason::kPromptNotUtf8,
              "The prompt is not valid UTF-8. Encode it as UTF-8 and ask again.");
}
absl::Status PromptHasNul() {
  return Make(Reason::kPromptHasNul, "The prompt holds a NUL character. Remove it and ask again.");
}
absl::Status ParameterInvalid(absl::string_view name, absl::string_view expected) {
  return Make(Reason::kParameterInvalid,
              absl::StrCat("The parameter \"", name, "\" must be ", expected, "."));
}
absl::Status ParameterUnsupported(absl::string_view name, absl::string_view expected) {
  return Make(Reason::kParameterUnsupported,
              absl::StrCat("The parameter \"", name,
                           "\" is not supported with this value; it must be ", expected, "."));
}
absl::Status ModelUnknown() {
  return Make(Reason::kModelUnknown,
              "There is no model of that name here. GET /v1/models lists the ones there are.");
}
absl::Status FieldUnknown(absl::string_view name) {
  return Make(Reason::kFieldUnknown,
              absl::StrCat("The field ", Quoted(name),
                           " is not known. See the API page for the fields of this call."));
}
absl::Status QueryParameterUnknown(absl::string_view name) {
  return Make(Reason::kFieldUnknown,
              absl::StrCat("The query parameter ", Quoted(name),
                           " is not known. Send the fields of the request in its body."));
}

absl::Status BodyTooLarge(int64_t limit) {
  return Make(Reason::kBodyTooLarge, absl::StrCat("The request body is over the limit of ",
                                                  Bytes(limit), ". Send a smaller image."));
}
absl::Status BodyMalformed(absl::string_view expected) {
  return Make(Reason::kBodyMalformed,
              absl::StrCat("The request body could not be read. Send ", expected, "."));
}
absl::Status JsonMalformed(absl::string_view what) {
  return Make(Reason::kBodyMalformed,
              absl::StrCat("The request body could not be read as JSON: ", what, "."));
}
absl::Status RouteUnknown() {
  return Make(Reason::kRouteUnknown,
              "There is nothing at this address. POST /api/ground asks a prompt; GET /healthz, "
              "/readyz and /metrics tell the state.");
}
absl::Status CallUnknown() {
  return Make(Reason::kCallUnknown,
              "There is no such call. Ask the server by reflection which calls there are, or look "
              "for a newer server.");
}
absl::Status ServiceUnknown() {
  return Make(Reason::kServiceUnknown,
              "There is no such service. Ask for the health of \"\", or of one that reflection "
              "names.");
}
absl::Status MethodNotAllowed(absl::string_view allowed) {
  return Make(Reason::kMethodNotAllowed,
              absl::StrCat("This address does not take that method. Use ", allowed, "."));
}
absl::Status NotImplementedYet(absl::string_view feature) {
  return Make(Reason::kNotImplemented,
              absl::StrCat("This version of Chord does not offer ", feature,
                           " yet. See CHANGELOG.md for what it offers."));
}
absl::Status ContentTypeUnsupported(absl::string_view expected) {
  return Make(Reason::kContentTypeUnsupported,
              absl::StrCat("The request's Content-Type is not taken here. Send ", expected, "."));
}
absl::Status ContentTypeParameter(absl::string_view type, absl::string_view parameter,
                                  absl::string_view expected) {
  return Make(Reason::kContentTypeUnsupported,
              absl::StrCat("The parameter \"", parameter, "\" of Content-Type ", type, " must be ",
                           expected, "."));
}
absl::Status RequestMalformed(absl::string_view what) {
  return Make(Reason::kRequestMalformed,
              absl::StrCat("The request is not valid HTTP/1.1: ", what, "."));
}
absl::Status HeadersTooLarge(int64_t limit) {
  return Make(Reason::kHeadersTooLarge,
              absl::StrCat("The request's header is over the limit of ", Bytes(limit),
                           ". Send fewer or shorter fields."));
}
absl::Status HttpVersionUnsupported() {
  return Make(Reason::kHttpVersionUnsupported,
              "This server speaks HTTP/1.1 and HTTP/1.0. Use one of them.");
}
absl::Status ExpectationUnsupported() {
  return Make(Reason::kExpectationUnsupported,
              "The only expectation taken is 100-continue. Send the request without the field "
              "Expect.");
}
absl::Status RequestTimeout() {
  return Make(Reason::kRequestTimeout,
              "The request did not arrive in time. Send it again over a faster connection.");
}
absl::Status ConnectionLimit() {
  return Make(Reason::kConnectionLimit,
              "The server has as many connections as it takes. Try again shortly.",
              absl::Seconds(1));
}
absl::Status DeadlineExceeded() {
  return Make(
      Reason::kDeadlineExceeded,
      "The answer was not ready within the deadline. Allow more time, or send a smaller image.");
}
absl::Status Cancelled() {
  return Make(Reason::kCancelled, "The request was cancelled by its client.");
}
absl::Status Overloaded(absl::Duration retry_after) {
  return Make(Reason::kOverloaded, "The service is busy. Try again after the time given.",
              retry_after);
}
absl::Status ClientLimit(int limit, absl::Duration retry_after) {
  return Make(Reason::kClientLimit,
              absl::StrCat("This client has ", limit,
                           " requests under way, which is the limit. Wait for an answer "
                           "before you send the next."),
              retry_after);
}
absl::Status ApiKeyMissing() {
  return Make(Reason::kApiKeyMissing,
              "This service wants an API key. Send it as \"Authorization: Bearer KEY\" or as "
              "\"X-Api-Key: KEY\".");
}
absl::Status ApiKeyUnknown() {
  return Make(Reason::kApiKeyUnknown,
              "The API key is not known, or it has expired. Ask the operator for a valid one.");
}
absl::Status ApiKeyBlocked(absl::Duration retry_after) {
  return Make(Reason::kApiKeyBlocked,
              "Too many unknown API keys came from this address. Try again after the time given.",
              retry_after);
}
absl::Status ApiKeyLimit(double requests_per_second, absl::Duration retry_after) {
  return Make(Reason::kApiKeyLimit,
              absl::StrCat("This API key may send ", requests_per_second,
                           " requests a second. Try again after the time given."),
              retry_after);
}
absl::Status BatchEmpty() {
  return Make(Reason::kBatchEmpty, "The batch has no requests. Send at least one.");
}
absl::Status BatchLimit(int64_t requests, int64_t limit) {
  return Make(Reason::kBatchTooLong,
              absl::StrCat("The batch has ", requests, " requests; the limit is ", limit,
                           ". Send it in parts, or stream it (GroundBatch)."));
}
absl::Status SessionBusy() {
  return Make(Reason::kSessionBusy,
              "A prompt of this session is still being answered. Wait for its answer, "
              "then ask the next.",
              absl::Seconds(1));
}
absl::Status ShuttingDown() {
  return Make(
      Reason::kShuttingDown,
      "This server is shutting down. Send the request to another one, or try again shortly.",
      absl::Seconds(1));
}
absl::Status WorkerUnavailable(absl::string_view role) {
  return Make(Reason::kWorkerUnavailable,
              absl::StrCat("No ", role,
                           " worker is ready. Try again shortly; if it persists, ask the "
                           "operator to run \"chord doctor\"."),
              absl::Seconds(1));
}
absl::Status WorkerLost(absl::string_view role) {
  return Make(
      Reason::kWorkerLost,
      absl::StrCat("The ", role, " worker went away while it answered. Send the request again."),
      absl::Seconds(1));
}
absl::Status ModelMismatch() {
  return Make(Reason::kModelMismatch,
              "The servers of this installation hold different models. Ask the operator to start "
              "all of them with the same one.");
}
absl::Status DeviceMemory() {
  return Make(Reason::kDeviceMemory,
              "The device has no memory left for this request. Try again shortly, or "
              "send a smaller image.",
              absl::Seconds(1));
}
absl::Status ContextLimit(int64_t tokens, int64_t limit) {
  return Make(
      Reason::kContextTooLong,
      absl::StrCat("Image, prompt and answer need ", tokens, " tokens; the model takes ", limit,
                   ". Send a smaller image, a shorter prompt, or a smaller max_new_tokens."));
}
absl::Status Internal() {
  return Make(Reason::kInternal,
              "Something went wrong on our side. Try again; if it persists, give the request id to "
              "the operator.");
}

absl::Status TicketUnknown() {
  return Make(Reason::kTicketUnknown,
              "The ticket is not known here: it was never issued, has expired or was cancelled.");
}
absl::Status TicketReused() {
  return Make(Reason::kTicketReused, "The ticket has been used already.");
}
absl::Status EmbeddingMismatch(absl::string_view field) {
  return Make(Reason::kEmbeddingMismatch,
              absl::StrCat("The embeddings do not match their ticket: ", field, "."));
}
absl::Status EmbeddingNotFinite() {
  return Make(Reason::kEmbeddingNotFinite, "The embeddings hold values that are not finite.");
}
absl::Status FrameMismatch() {
  return Make(Reason::kFrameMismatch,
              "The image's size differs from what its header states. Save it again with another "
              "program and send that.");
}
absl::Status PeerUnknown() {
  return Make(Reason::kPeerUnknown, "The named peer is not configured here.");
}

absl::Status CheckpointInvalid(absl::string_view what) {
  return Make(Reason::kCheckpointInvalid, what);
}
absl::Status ConfigInvalid(absl::string_view what) { return Make(Reason::kConfigInvalid, what); }
absl::Status DeviceUnavailable(absl::string_view what) {
  return Make(Reason::kDeviceUnavailable, what);
}
absl::Status FileNotWritten(absl::string_view what) { return Make(Reason::kFileNotWritten, what); }

}  // namespace errors
}  // namespace chord
