// One request on its workers: Decode, and Encode when the image's embeddings are needed, under one
// ticket, joined, and ended together.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "chord/internal/v1/decode.grpc.pb.h"
#include "chord/internal/v1/encode.grpc.pb.h"
#include "common/base/cancel.h"
#include "services/gateway/routing/worker_failure.h"
#include "services/gateway/routing/worker_request.h"

namespace chord::gateway {

struct VisionTarget {
  internal::v1::Vision::Stub* stub = nullptr;  // outlives the calls
  std::string worker;                          // for the log
};

class WorkerCalls {
 public:
  struct Options {
    absl::Time deadline;
    CancelToken cancel;
    // Text as it is generated, on a thread of gRPC. May be null.
    std::function<void(absl::string_view)> on_delta;
    // The language worker has taken the request; on a thread of gRPC. May be null.
    std::function<void()> on_accepted;
    // The vision worker, asked for at once, or, when `only_if_needed`, once the language worker has
    // returned that it needs embeddings after all. May block, for a short time. Called at most
    // once, on the thread of Run.
    std::function<absl::StatusOr<VisionTarget>()> vision;
    bool only_if_needed = false;
  };
  // `request` outlives the object.
  WorkerCalls(const WorkerRequest& request, Options options);
  ~WorkerCalls();
  WorkerCalls(const WorkerCalls&) = delete;
  WorkerCalls& operator=(const WorkerCalls&) = delete;

  // Blocks until the calls have ended. Either one failing ends the other at once; so do `cancel`
  // and the deadline. A language worker that turns out to have the image ends the Encode. Errors
  // are for the client; what the transport returned is logged under the request id. Call once.
  absl::StatusOr<WorkerAnswer> Run(internal::v1::Language::Stub& language);

  // After Run: the verdict on a failure of a worker; its status is OK when no worker failed.
  const WorkerFailure& failure() const { return failure_; }
  // After Run: some of the answer was handed to on_delta.
  bool produced() const { return produced_; }

 private:
  class DecodeCall;
  class EncodeCall;
  struct Join;
  // What Run does next.
  enum class Step { kWait, kOpenEncode, kDropEncode, kSettled };

  Step NextStep(absl::Time now);
  void AwaitOutcome();
  void OpenEncode();
  void EndCalls();
  absl::StatusOr<WorkerAnswer> Outcome();
  void LogFailure(const std::optional<absl::Status>& end, absl::string_view call,
                  const std::string& worker) const;

  const WorkerRequest& request_;
  const Options options_;
  const std::unique_ptr<Join> join_;
  std::unique_ptr<DecodeCall> decode_;
  std::unique_ptr<EncodeCall> encode_;
  bool vision_asked_ = false;
  std::string vision_worker_;
  absl::Status no_vision_;  // of `vision` when there is no worker
  // How long the call that knows the cause of a failure, or the times of an Encode, are waited for.
  absl::Time grace_ends_ = absl::InfiniteFuture();
  std::optional<absl::Status> decode_end_, encode_end_;  // before we ended anything
  WorkerFailure failure_;
  bool produced_ = false;
};

}  // namespace chord::gateway
