// The error catalogue: every refusal of Chord is made here, so its reason (reasons.h: code, HTTP
// status, name) and its text are decided once. The text says what was wrong, what the limit is and
// what to do. Of the input it quotes the name of an unknown field alone, escaped and shortened;
// never other bytes, a path, a pointer or a library's own text, which go to the log under the
// request id. The reason travels as a status payload and becomes google.rpc.ErrorInfo.reason (gRPC)
// or `code` (HTTP problem+json). Code compares reasons with errors::Is, never their names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/reasons.h"

namespace chord {

// The stable reason of `status` ("IMAGE_TOO_LARGE"), or one derived from its code when it did not
// come from the catalogue ("INTERNAL"). Never empty for a status that is not OK.
std::string ErrorReason(const absl::Status& status);
// The reason of `status`; nullopt when it did not come from the catalogue, or names a reason that
// this release does not know.
std::optional<Reason> ReasonOf(const absl::Status& status);
// True when `status` was made by the catalogue (or rebuilt from one by rpc/status_map), so its
// sentence may be shown to a client.
bool IsCatalogued(const absl::Status& status);
// How long a client should wait before it tries again; zero when unknown.
absl::Duration RetryAfter(const absl::Status& status);
// Rebuilds a catalogued status on the far side of a process boundary; `reason` may be one of
// another release.
absl::Status MakeCatalogued(absl::StatusCode code, absl::string_view reason, absl::string_view text,
                            absl::Duration retry_after = absl::ZeroDuration());
// What a client may see of `status`: itself when catalogued, else errors::Internal() (the original
// belongs into the log).
absl::Status ForClient(const absl::Status& status);

namespace errors {

// True when the reason of `status` is `reason`.
bool Is(const absl::Status& status, Reason reason);

// Images (INVALID_ARGUMENT unless stated otherwise).
absl::Status ImageMissing();                                 // IMAGE_MISSING
absl::Status ImageEmpty();                                   // IMAGE_EMPTY
absl::Status ImageBytesLimit(int64_t bytes, int64_t limit);  // IMAGE_TOO_MANY_BYTES
absl::Status ImageFormatUnknown();                           // IMAGE_FORMAT_UNKNOWN
// `format` is our own word for it ("GIF", "HEIC"), never text of the file.
absl::Status ImageFormatUnsupported(absl::string_view format);  // IMAGE_FORMAT_UNSUPPORTED
absl::Status ImageAnimated(absl::string_view format);           // IMAGE_ANIMATED
absl::Status ImageCorrupt(absl::string_view format);            // IMAGE_CORRUPT: cut or damaged
// A real but exotic coding of an accepted format ("arithmetic-coded JPEG").
absl::Status ImageCodingUnsupported(absl::string_view coding);  // IMAGE_CODING_UNSUPPORTED
absl::Status ImagePixelLimit(int64_t width, int64_t height,
                             int64_t limit_pixels);            // IMAGE_TOO_LARGE
absl::Status ImageZeroSide();                                  // IMAGE_ZERO_SIDE
absl::Status ImageAspectRatio(int64_t width, int64_t height);  // IMAGE_ASPECT_RATIO
absl::Status ImageMetadataLimit(int64_t limit_bytes);          // IMAGE_METADATA_TOO_LARGE
absl::Status ImageUrlRefused();                                // IMAGE_URL_REFUSED
absl::Status ImageIdUnknown();                                 // IMAGE_ID_UNKNOWN (NOT_FOUND)
// The image came with its bytes and with an image_id.
absl::Status ImageSourceConflict();  // IMAGE_SOURCE_CONFLICT
// Pinned images fill the store, or its share for pinned ones.
absl::Status ImageStoreFull(absl::Duration retry_after);  // IMAGE_STORE_FULL (RESOURCE_EXHAUSTED)
// The chunks of an upload do not add up to what its start announced.
absl::Status UploadMismatch();  // UPLOAD_MISMATCH

// Text and parameters.
absl::Status PromptMissing();                                   // PROMPT_MISSING
absl::Status PromptEmpty();                                     // PROMPT_EMPTY
absl::Status PromptBytesLimit(int64_t bytes, int64_t limit);    // PROMPT_TOO_LONG
absl::Status PromptTokensLimit(int64_t tokens, int64_t limit);  // PROMPT_TOO_MANY_TOKENS
absl::Status PromptNotUtf8();                                   // PROMPT_NOT_UTF8
absl::Status PromptHasNul();                                    // PROMPT_HAS_NUL
// A parameter out of its range, of the wrong type, or unknown. `name` is one of our field names,
// `expected` reads after "must be": "an integer from 1 to 4096".
absl::Status ParameterInvalid(absl::string_view name,
                              absl::string_view expected);  // PARAMETER_INVALID
// A parameter that a protocol has and the service does not offer, or not with this value.
absl::Status ParameterUnsupported(absl::string_view name,
                                  absl::string_view expected);  // PARAMETER_UNSUPPORTED
absl::Status ModelUnknown();                                    // MODEL_UNKNOWN (NOT_FOUND)
// `name` is the client's word for it.
absl::Status FieldUnknown(absl::string_view name);           // FIELD_UNKNOWN
absl::Status QueryParameterUnknown(absl::string_view name);  // FIELD_UNKNOWN

// Requests as a whole.
absl::Status BodyTooLarge(int64_t limit);                // BODY_TOO_LARGE
absl::Status BodyMalformed(absl::string_view expected);  // BODY_MALFORMED
// `what` is our own word for the fault, or the quoted name of a key.
absl::Status JsonMalformed(absl::string_view what);         // BODY_MALFORMED
absl::Status RouteUnknown();                                // ROUTE_UNKNOWN (NOT_FOUND)
absl::Status CallUnknown();                                 // CALL_UNKNOWN (UNIMPLEMENTED)
absl::Status ServiceUnknown();                              // SERVICE_UNKNOWN (NOT_FOUND)
absl::Status MethodNotAllowed(absl::string_view allowed);   // METHOD_NOT_ALLOWED (UNIMPLEMENTED)
absl::Status NotImplementedYet(absl::string_view feature);  // NOT_IMPLEMENTED (UNIMPLEMENTED)
// `expected` reads after "Send ": "multipart/form-data or application/json".
absl::Status ContentTypeUnsupported(absl::string_view expected);  // CONTENT_TYPE_UNSUPPORTED
// A parameter of the Content-Type field: "boundary", "charset". `expected` reads after "must be".
absl::Status ContentTypeParameter(absl::string_view type, absl::string_view parameter,
                                  absl::string_view expected);  // CONTENT_TYPE_UNSUPPORTED
// `what` names the rule that was broken ("two Host fields"), never the bytes that broke it.
absl::Status RequestMalformed(absl::string_view what);  // REQUEST_MALFORMED
absl::Status HeadersTooLarge(int64_t limit);            // HEADERS_TOO_LARGE
absl::Status HttpVersionUnsupported();                  // HTTP_VERSION_UNSUPPORTED (UNIMPLEMENTED)
absl::Status ExpectationUnsupported();                  // EXPECTATION_UNSUPPORTED (UNIMPLEMENTED)
absl::Status RequestTimeout();                          // REQUEST_TIMEOUT (DEADLINE_EXCEEDED)
absl::Status ConnectionLimit();                         // CONNECTION_LIMIT (UNAVAILABLE)
absl::Status DeadlineExceeded();                        // DEADLINE_EXCEEDED
absl::Status Cancelled();                               // CANCELLED
absl::Status Overloaded(absl::Duration retry_after);    // OVERLOADED (RESOURCE_EXHAUSTED)
// One client has as many requests under way as it may.
absl::Status ClientLimit(int limit,
                         absl::Duration retry_after);  // CLIENT_LIMIT (RESOURCE_EXHAUSTED)
absl::Status ApiKeyMissing();
absl::Status ApiKeyUnknown();  // also of one that has expired
// Too many unknown keys from one address: its requests are refused for a while, whatever their key.
absl::Status ApiKeyBlocked(absl::Duration retry_after);
absl::Status ApiKeyLimit(double requests_per_second, absl::Duration retry_after);
absl::Status BatchEmpty();                                 // BATCH_EMPTY
absl::Status BatchLimit(int64_t requests, int64_t limit);  // BATCH_TOO_LONG
// A prompt of the same conversation is still being answered.
absl::Status SessionBusy();   // SESSION_BUSY (ABORTED)
absl::Status ShuttingDown();  // SHUTTING_DOWN (UNAVAILABLE)
// `role` is "vision" or "language".
absl::Status WorkerUnavailable(absl::string_view role);    // WORKER_UNAVAILABLE (UNAVAILABLE)
absl::Status WorkerLost(absl::string_view role);           // WORKER_LOST (UNAVAILABLE)
absl::Status ModelMismatch();                              // MODEL_MISMATCH (FAILED_PRECONDITION)
absl::Status DeviceMemory();                               // DEVICE_MEMORY (RESOURCE_EXHAUSTED)
absl::Status ContextLimit(int64_t tokens, int64_t limit);  // CONTEXT_TOO_LONG
absl::Status Internal();                                   // INTERNAL

// Between our processes.
absl::Status TicketUnknown();  // TICKET_UNKNOWN (NOT_FOUND): never issued, expired or cancelled
absl::Status TicketReused();   // TICKET_REUSED (FAILED_PRECONDITION)
// `field` is one of ours: "grid", "rows", "width", "dtype", "bytes", "chunk order", "checksum".
absl::Status EmbeddingMismatch(absl::string_view field);  // EMBEDDING_MISMATCH (INVALID_ARGUMENT)
absl::Status EmbeddingNotFinite();                        // EMBEDDING_NOT_FINITE (INVALID_ARGUMENT)
absl::Status FrameMismatch();                             // FRAME_MISMATCH (FAILED_PRECONDITION)
absl::Status PeerUnknown();                               // PEER_UNKNOWN (FAILED_PRECONDITION)

// An operator's own files and flags (never sent to a client).
// `what` may name files and tensors: it goes to a terminal or a log.
absl::Status CheckpointInvalid(absl::string_view what);  // CHECKPOINT_INVALID (FAILED_PRECONDITION)
absl::Status ConfigInvalid(absl::string_view what);      // CONFIG_INVALID (INVALID_ARGUMENT)
absl::Status DeviceUnavailable(absl::string_view what);  // DEVICE_UNAVAILABLE (FAILED_PRECONDITION)
absl::Status FileNotWritten(absl::string_view what);     // FILE_NOT_WRITTEN (FAILED_PRECONDITION)

}  // namespace errors
}  // namespace chord
