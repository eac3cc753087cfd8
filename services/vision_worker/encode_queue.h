// One thread that owns the vision tower and the line before it.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/engine/vision_tower.h"
#include "common/image/frame_plan.h"

namespace chord::vision_worker {

struct EncodeJob {
  std::vector<float> patches;  // of one picture
  image::Grid grid;
  CancelToken cancel;
  // Called exactly once, on the queue's thread or on the one that sweeps; must not block.
  struct Result {
    engine::VisionTower::Output rows;
    absl::Duration queue, compute;
  };
  std::function<void(absl::StatusOr<Result>)> done;
};

// Thread-safe. First come, first served. The tower takes packed batches: when several pictures are
// to run at once, TakeNext is where they are put together.
class EncodeQueue {
 public:
  // `tower` is not owned and used by nobody else.
  EncodeQueue(engine::VisionTower* tower, int max_queue);
  // Ends what waits with SHUTTING_DOWN.
  ~EncodeQueue();

  // OVERLOADED with a time to wait when the line is full; `job.done` is not called then.
  absl::Status Submit(EncodeJob job);
  // Ends jobs in the line that were cancelled or ran out of time. Called several times a second.
  void Sweep();

  int queued() const;
  int running() const;
  // When a client that is refused now should come back.
  absl::Duration EstimateWait() const;

 private:
  struct Waiting {
    EncodeJob job;
    absl::Time since;
  };
  absl::Duration EstimateWaitLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool TakeNext(Waiting* out);
  absl::StatusOr<engine::VisionTower::Output> Encode(const EncodeJob& job);
  void Run();

  engine::VisionTower* const tower_;
  const size_t max_queue_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::deque<Waiting> line_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration mean_compute_ ABSL_GUARDED_BY(mu_) = absl::Milliseconds(100);
  std::thread thread_;
};

}  // namespace chord::vision_worker
