#include "services/vision_worker/encode_queue.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord::vision_worker {

EncodeQueue::EncodeQueue(engine::VisionTower* tower, const Options& options, obs::Metrics* metrics)
    : options_(options),
      metrics_(metrics),
      patches_(options.max_patches),
      runner_(tower, [this](const BatchRunner::TowerRun& run) { OnTowerRun(run); }),
      limit_(options.max_batch_patches) {
  thread_ = std::thread([this] { Run(); });
}

EncodeQueue::~EncodeQueue() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
  for (QueuedJob& queued : queue_) queued.job.done(errors::ShuttingDown());
}

absl::StatusOr<ResourceBudget::Permit> EncodeQueue::Admit(int64_t patches, absl::Time deadline) {
  absl::MutexLock lock(&mu_);
  const absl::Time now = absl::Now();
  const int64_t ahead = AheadLocked(patches_.in_use(), now);
  switch (CheckAdmission(ahead, cost_.Micros(patches), absl::ToInt64Microseconds(deadline - now))) {
    case Admission::kInfeasible:
      if (ahead == 0) cost_.Decay();
      return errors::DeadlineExceeded();
    case Admission::kOverloaded:
      return errors::Overloaded(EstimateWaitLocked());
    case Admission::kAdmit:
      break;
  }
  auto permit = patches_.TryAcquire(patches);
  if (!permit) return errors::Overloaded(EstimateWaitLocked());
  return permit;
}

absl::Status EncodeQueue::Submit(EncodeJob job) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return errors::ShuttingDown();
  if (queue_.size() >= static_cast<size_t>(options_.max_queue)) {
    return errors::Overloaded(EstimateWaitLocked());
  }
  const bool contended = running_.images > 0 || !queue_.empty();
  queue_.push_back({std::move(job), absl::Now(), contended});
  changed_.Signal();
  return absl::OkStatus();
}

void EncodeQueue::Sweep() {
  std::vector<EncodeJob> ended;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = queue_.begin(); it != queue_.end();) {
      if (it->job.cancel.cancelled()) {
        ended.push_back(std::move(it->job));
        it = queue_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (EncodeJob& job : ended) job.done(job.cancel.Check());
}

void EncodeQueue::Observe(int64_t patches, absl::Duration took) {
  absl::MutexLock lock(&mu_);
  cost_.Observe(patches, absl::ToInt64Microseconds(took));
}

int EncodeQueue::queued() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(queue_.size());
}
absl::Duration EncodeQueue::oldest() const {
  absl::MutexLock lock(&mu_);
  return queue_.empty() ? absl::ZeroDuration() : absl::Now() - queue_.front().queued_at;
}
int EncodeQueue::running() const {
  absl::MutexLock lock(&mu_);
  return running_.images;
}
absl::Duration EncodeQueue::EstimateWait() const {
  absl::MutexLock lock(&mu_);
  return EstimateWaitLocked();
}

// Microseconds that `patches` take, less what the current batch has already run.
int64_t EncodeQueue::AheadLocked(int64_t patches, absl::Time now) const {
  if (patches == 0) return 0;
  int64_t done = 0;
  if (running_.images > 0) {
    done = std::clamp<int64_t>(absl::ToInt64Microseconds(now - running_.began), 0,
                               cost_.Micros(running_.patches));
  }
  return std::max<int64_t>(cost_.Micros(patches) - done, 1);
}

absl::Duration EncodeQueue::EstimateWaitLocked() const {
  return std::clamp(absl::Microseconds(AheadLocked(patches_.in_use(), absl::Now())),
                    absl::Milliseconds(100), absl::Seconds(30));
}

std::vector<QueuedImage> EncodeQueue::ImagesLocked(absl::Time now) const {
  std::vector<QueuedImage> images;
  for (const QueuedJob& queued : queue_) {
    const CancelToken& cancel = queued.job.cancel;
    images.push_back({queued.job.grid.patches(), absl::ToInt64Microseconds(cancel.deadline() - now),
                      cancel.cancelled()});
  }
  return images;
}

absl::Status EncodeQueue::ExpiredLocked(const QueuedJob& queued) {
  // A retry may find less work ahead. A job that had none ahead came with too short a deadline.
  if (queued.contended) return errors::Overloaded(EstimateWaitLocked());
  cost_.Decay();
  return errors::DeadlineExceeded();
}

void EncodeQueue::TakeBatchLocked(std::vector<QueuedJob>& batch, std::vector<EndedJob>& ended) {
  const absl::Time now = absl::Now();
  const std::vector<BatchAction> actions = PlanBatch(ImagesLocked(now), limit_.patches(), cost_);
  std::deque<QueuedJob> queue = std::exchange(queue_, {});
  for (size_t i = 0; i < queue.size(); ++i) {
    EncodeJob& job = queue[i].job;
    switch (actions[i]) {
      case BatchAction::kWait:
        queue_.push_back(std::move(queue[i]));
        break;
      case BatchAction::kRun:
        running_.images += 1;
        running_.patches += job.grid.patches();
        batch.push_back(std::move(queue[i]));
        break;
      case BatchAction::kExpire: {
        absl::Status status = ExpiredLocked(queue[i]);
        ended.push_back({std::move(job), std::move(status)});
        break;
      }
      case BatchAction::kCancel: {
        absl::Status status = job.cancel.Check();
        ended.push_back({std::move(job), std::move(status)});
        break;
      }
    }
  }
  running_.began = now;
}

bool EncodeQueue::NextBatch(std::vector<QueuedJob>& batch) {
  batch.clear();
  std::vector<EndedJob> ended;
  {
    absl::MutexLock lock(&mu_);
    running_ = {};
    while (queue_.empty() && !stopping_) changed_.Wait(&mu_);
    if (stopping_) return false;
    TakeBatchLocked(batch, ended);
  }
  for (EndedJob& each : ended) each.job.done(std::move(each.status));
  return true;
}

void EncodeQueue::OnTowerRun(const BatchRunner::TowerRun& run) {
  absl::MutexLock lock(&mu_);
  if (run.status.ok()) {
    cost_.Observe(run.patches, absl::ToInt64Microseconds(run.took));
    limit_.OnSuccess();
    metrics_->EncodeBatch(run.images);
  } else if (run.images > 1 && absl::IsResourceExhausted(run.status)) {
    limit_.OnOutOfMemory(run.patches);
  }
}

void EncodeQueue::Run() {
  std::vector<QueuedJob> batch;
  while (NextBatch(batch)) {
    if (!batch.empty()) runner_.Run(std::move(batch));
  }
}

}  // namespace chord::vision_worker
