// The queue in front of the vision tower, and the thread that serves it.
#pragma once

#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/engine/vision_tower.h"
#include "common/obs/metrics.h"
#include "services/vision_worker/batch_planner.h"
#include "services/vision_worker/batch_runner.h"
#include "services/vision_worker/encode_job.h"
#include "services/vision_worker/resource_budget.h"

namespace chord::vision_worker {

// Thread-safe. First come, first served; images that wait together run as one batch
// (batch_planner.h, batch_runner.h). Estimates from the batches that ran refuse an image early when
// it would miss its deadline.
class EncodeQueue {
 public:
  struct Options {
    int max_queue = 32;  // queued images
    // Patches of one batch of several images; a larger image runs alone.
    int64_t max_batch_patches = 512;
    // Patches of all images that were admitted and not yet encoded: bounds the memory of the queue,
    // 4.6 KiB each. The default is two of the largest images, 620 MB.
    int64_t max_patches = 131'072;
  };
  // `tower` and `metrics` are not owned; only the queue uses the tower.
  EncodeQueue(engine::VisionTower* tower, const Options& options, obs::Metrics* metrics);
  // Ends queued jobs with SHUTTING_DOWN. All permits of Admit must be back.
  ~EncodeQueue();

  // To be called as soon as an image's size is known, before it is uploaded and decoded.
  // OVERLOADED with a time to wait when the queue has no room for its patches, or when the estimate
  // says that work ahead would keep it past `deadline`; DEADLINE_EXCEEDED when even an idle device
  // would be too slow. The permit counts in patches_in_flight.
  absl::StatusOr<ResourceBudget::Permit> Admit(int64_t patches, absl::Time deadline);
  // OVERLOADED with a time to wait when the queue is full; `job.done` is not called then.
  absl::Status Submit(EncodeJob job);
  // Ends queued jobs that were cancelled or ran out of time. To be called several times a second.
  void Sweep();
  // A batch of `patches` took `took`: for estimates before the first job.
  void Observe(int64_t patches, absl::Duration took);

  int queued() const;
  absl::Duration oldest() const;  // how long the first in the queue has waited; zero: none
  int running() const;            // images of the current batch
  int64_t patches_in_flight() const { return patches_.in_use(); }
  // When a client that is refused now should retry.
  absl::Duration EstimateWait() const;

 private:
  struct EndedJob {
    EncodeJob job;
    absl::Status status;
  };

  int64_t AheadLocked(int64_t patches, absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration EstimateWaitLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<QueuedImage> ImagesLocked(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Why a queued job that cannot meet its deadline is refused.
  absl::Status ExpiredLocked(const QueuedJob& queued) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Moves jobs from the queue into `batch` and `ended`, as the planner says.
  void TakeBatchLocked(std::vector<QueuedJob>& batch, std::vector<EndedJob>& ended)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Waits for jobs. False when the queue stops. `batch` may come back empty.
  bool NextBatch(std::vector<QueuedJob>& batch);
  void OnTowerRun(const BatchRunner::TowerRun& run);
  void Run();

  const Options options_;
  obs::Metrics* const metrics_;
  ResourceBudget patches_;
  BatchRunner runner_;  // of the thread
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::deque<QueuedJob> queue_ ABSL_GUARDED_BY(mu_);
  CostModel cost_ ABSL_GUARDED_BY(mu_);
  BatchLimit limit_ ABSL_GUARDED_BY(mu_);
  struct {
    int images = 0;
    int64_t patches = 0;
    absl::Time began;
  } running_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace chord::vision_worker
