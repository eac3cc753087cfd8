// Every series of every Chord process, in one place. Names and units follow Prometheus: prefix,
// base unit, _total for counters. Label values are the enums below, closed at compile time: no text
// of a user, no path, no session and no request id can become a label. The one open label is a
// model's version, which the operator writes.
//
// One Metrics per process, made with its role; a role exports only the series it can fill. All
// methods are thread-safe and cheap enough for once per request or stage, not for once per token.
// Calls for a series the role does not have do nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cache_tier.h"
#include "common/base/reasons.h"

namespace chord::obs {

enum class Role { kGateway, kVisionWorker, kLlmWorker, kSupervisor, kMaxValue = kSupervisor };

// What was called. Public methods are the gateway's, the last three the workers'.
enum class Method {
  kGround,
  kGroundStream,
  kGroundBatch,
  kUploadImage,
  kChatCompletions,
  kListModels,
  kAdmin,
  kBatchItem,  // one prompt of a batch
  kEncode,
  kDecode,
  kPushEmbeddings,
  kMaxValue = kPushEmbeddings,
};
// Where the time of a request goes; the parts do not overlap within one process.
enum class Stage {
  kQueue,         // waiting for a turn
  kProbe,         // header of the image read, frame planned
  kDecodePixels,  // file -> pixels
  kPreprocess,    // pixels -> patches
  kVision,        // patches -> embeddings
  kPush,          // embeddings on their way to the llm_worker
  kTokenize,      // prompt -> ids and positions
  kReceive,       // waiting for embeddings
  kPrefill,
  kDecode,
  kParse,
  kMaxValue = kParse,
};
enum class Queue { kEncode, kPrefill, kMaxValue = kPrefill };
// Where cancellation or an expired deadline was noticed.
enum class Point {
  kQueue,
  kDecodePixels,
  kPreprocess,
  kVision,
  kPush,
  kReceive,
  kPrefill,
  kDecode,
  kReply,
  kMaxValue = kReply,
};
enum class Direction { kSent, kReceived, kMaxValue = kReceived };
// kUsed: requests run through it; kKept: of earlier requests, makes room when needed.
enum class KvState { kCapacity, kUsed, kKept, kMaxValue = kKept };
enum class TokenKind { kImage, kPrompt, kGenerated, kForced, kMaxValue = kForced };
enum class ImageEvent {
  kUploaded,
  kAsked,
  kHit,
  kMiss,
  kEvicted,
  kExpired,
  kDeleted,
  kRefused,
  kMaxValue = kRefused
};
enum class RetryOutcome { kAnswered, kFailed, kOverBudget, kNoWorker, kMaxValue = kNoWorker };
enum class SessionEvent { kCreated, kHit, kMiss, kEvicted, kExpired, kMaxValue = kExpired };
enum class ModelState { kLoading, kReady, kDraining, kError, kMaxValue = kError };
// What became of a request's API key.
enum class AuthOutcome { kOk, kMissing, kUnknown, kBlocked, kLimited, kMaxValue = kLimited };
// Why the supervisor started a process again.
enum class RestartCause { kExit, kHang, kMemory, kMaxValue = kMemory };
enum class LogLevel { kDebug, kInfo, kWarning, kError, kMaxValue = kError };

// The label values, also the words of the log: "vision_worker", "chat_completions", "prefill", …
absl::string_view Name(Role role);
absl::string_view Name(Method method);
absl::string_view Name(Stage stage);
absl::string_view Name(LogLevel level);
absl::string_view Name(RestartCause cause);

class Metrics {
 public:
  // `version` is the program's own.
  Metrics(Role role, absl::string_view version);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  Role role() const;

  // Requests.
  void RequestBegan(Method method);  // chord_inflight_requests
  void RequestEnded(Method method, absl::StatusCode code, absl::Duration took);
  void StageTook(Stage stage, absl::Duration took);  // chord_stage_seconds
  void SetQueueDepth(Queue queue, int64_t waiting);  // chord_queue_depth
  // How long the first of them has waited; zero when none waits.
  void SetQueueAge(Queue queue, absl::Duration oldest);  // chord_queue_oldest_seconds
  // By the reason of `status` (common/base/reasons.h); without one that we know it counts as OTHER.
  void Rejected(const absl::Status& status);  // chord_rejected_total
  void Cancelled(Point at);                   // chord_cancelled_total
  void DeadlineExceeded(Point at);            // chord_deadline_exceeded_total
  void SetReady(bool ready);                  // chord_ready
  // What this process serves with: chord_model_info, always 1. The latest call counts.
  void SetModelInfo(absl::string_view model, absl::string_view fingerprint, absl::string_view dtype,
                    absl::string_view device);

  // Gateway.
  void HttpResponse(int http_status);         // chord_http_responses_total{class="2xx"}
  void SetWorkers(Role role, int64_t alive);  // chord_workers
  // What a balancer needs to know: chord_requests_running (of this gateway), chord_requests_waiting
  // (in the queues of the workers it uses), chord_kv_usage_ratio (of those workers, 0 to 1).
  void SetLoad(int64_t running, int64_t waiting, double kv_usage);
  void Authenticated(AuthOutcome outcome);  // chord_auth_total
  void TlsHandshakeFailed();                // chord_tls_handshake_failures_total
  // When the certificate in use expires; chord_certificate_expires_timestamp_seconds.
  void SetCertificateExpiry(absl::Time at);
  void CertificateReloaded(bool ok);      // chord_certificate_reloads_total{outcome="ok|failed"}
  void Answered(int64_t boxes);           // chord_answer_boxes
  void BoxConfidence(double confidence);  // chord_box_confidence
  void ImageReceived(int64_t bytes);      // chord_image_bytes_total
  void SetImageStore(int64_t bytes, int64_t images);  // chord_image_store_bytes, _images
  void Image(ImageEvent event);                       // chord_image_store_total
  void SetSessions(int64_t alive);                    // chord_sessions
  void Session(SessionEvent event);                   // chord_session_total
  void Retried(RetryOutcome outcome);                 // chord_retries_total

  // Vision_worker.
  void ImageEncoded(int64_t patches);  // chord_image_patches
  void EncodeBatch(int64_t images);    // chord_encode_batch_images

  // Llm_worker.
  void Tokens(TokenKind kind, int64_t count);     // chord_tokens_total
  void PromptLength(int64_t tokens);              // chord_prompt_tokens
  void AnswerLength(int64_t tokens);              // chord_answer_tokens
  void TimeToFirstToken(absl::Duration took);     // chord_first_token_seconds
  void DecodeBatch(int64_t sequences);            // chord_decode_batch_sequences
  void SetInflightTokens(int64_t tokens);         // chord_inflight_tokens
  void SetKvBytes(KvState state, int64_t bytes);  // chord_kv_bytes
  void SetTickets(int64_t alive);                 // chord_tickets
  // Embeddings kept for more prompts; chord_image_cache_images, chord_image_cache_bytes.
  void SetImageCache(int64_t images, int64_t bytes);

  // Gateway and llm_worker.
  void ServedBy(CacheTier cache);  // chord_image_cache_requests_total

  // Both workers.
  void EmbeddingBytes(Direction direction, int64_t bytes);  // chord_embedding_bytes_total
  // 1 for `state`, 0 for the other states of `version`. At most 16 versions are remembered.
  void SetModelState(absl::string_view version, ModelState state);  // chord_model_state

  // Supervisor: of the processes of a role.
  void SetProcessUp(Role role, bool up);          // chord_process_up
  void Restarted(Role role, RestartCause cause);  // chord_process_restarts_total

  // Logs (called by obs/log).
  void LogLine(LogLevel level);                // chord_log_lines_total
  void SetLogDropped(int64_t dropped_so_far);  // chord_log_dropped_total

  // The exposition text (format 0.0.4); process_* series are read from /proc at this moment.
  std::string Serialize() const;
  static absl::string_view ContentType();  // of Serialize()
  // Names of the families of this role, sorted, for the pinned list of the tests.
  std::vector<std::string> FamilyNames() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chord::obs
