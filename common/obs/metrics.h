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

enum class Role { kGateway, kVisionWorker, kLlmWorker, kMaxValue = kLlmWorker };

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
enum class LogLevel { kDebug, kInfo, kWarning, kError, kMaxValue = kError };

// The label values, also the words of the log: "vision_worker", "chat_completions", "prefill", …
absl::string_view Name(Role role);
absl::string_view Name(Method method);
absl::string_view Name(Stage stage);
absl::string_view Name(LogLevel level);

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
  // By the reason of `status` (common/base/reasons.h); without one that we know it counts as OTHER.
  void Rejected(const absl::Status& status);  // chord_rejected_total
  void Cancelled(Point at);                   // chord_cancelled_total
  void DeadlineExceeded(Point at);            // chord_deadline_exceeded_total
  void SetReady(bool ready);                  // chord_ready

  // Gateway.
  void HttpResponse(int http_status);                 // chord_http_responses_total{class="2xx"}
  void SetWorkers(Role role, int64_t alive);          // chord_workers
  void Answered(int64_t boxes);                       // chord_answer_boxes
  void BoxConfidence(double confidence);              // chord_box_confidence
  void ImageReceived(int64_t bytes);                  // chord_image_bytes_total
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
