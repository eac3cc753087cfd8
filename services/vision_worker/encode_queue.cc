#include "services/vision_worker/encode_queue.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::vision_worker {

EncodeQueue::EncodeQueue(engine::VisionTower* tower, int max_queue)
    : tower_(tower), max_queue_(max_queue) {
  thread_ = std::thread([this] { Run(); });
}

EncodeQueue::~EncodeQueue() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
  for (Waiting& waiting : line_) waiting.job.done(errors::ShuttingDown());
}

absl::Status EncodeQueue::Submit(EncodeJob job) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return errors::ShuttingDown();
  if (line_.size() >= max_queue_) return errors::Overloaded(EstimateWaitLocked());
  line_.push_back({std::move(job), absl::Now()});
  changed_.Signal();
  return absl::OkStatus();
}

void EncodeQueue::Sweep() {
  std::vector<Waiting> ended;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = line_.begin(); it != line_.end();) {
      if (it->job.cancel.cancelled()) {
        ended.push_back(std::move(*it));
        it = line_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (Waiting& waiting : ended) waiting.job.done(waiting.job.cancel.Check());
}

int EncodeQueue::queued() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(line_.size());
}
int EncodeQueue::running() const {
  absl::MutexLock lock(&mu_);
  return running_ ? 1 : 0;
}
absl::Duration EncodeQueue::EstimateWait() const {
  absl::MutexLock lock(&mu_);
  return EstimateWaitLocked();
}
absl::Duration EncodeQueue::EstimateWaitLocked() const {
  return std::clamp(mean_compute_ * (static_cast<int>(line_.size()) + 1), absl::Milliseconds(100),
                    absl::Seconds(30));
}

bool EncodeQueue::TakeNext(Waiting* out) {
  absl::MutexLock lock(&mu_);
  running_ = false;
  while (line_.empty() && !stopping_) changed_.Wait(&mu_);
  if (stopping_) return false;
  *out = std::move(line_.front());
  line_.pop_front();
  running_ = true;
  return true;
}

absl::StatusOr<engine::VisionTower::Output> EncodeQueue::Encode(const EncodeJob& job) {
  CHORD_RETURN_IF_ERROR(job.cancel.Check());
  return tower_->Encode(job.patches, absl::MakeConstSpan(&job.grid, 1), job.cancel);
}

void EncodeQueue::Run() {
  Waiting next;
  while (TakeNext(&next)) {
    const absl::Time began = absl::Now();
    auto rows = Encode(next.job);
    const absl::Time ended = absl::Now();
    if (rows.ok()) {
      absl::MutexLock lock(&mu_);
      mean_compute_ = mean_compute_ * 0.8 + (ended - began) * 0.2;
    }
    auto done = std::exchange(next.job.done, nullptr);
    next = Waiting();  // the patches go before the rows travel
    if (rows.ok()) {
      EncodeJob::Result result{*std::move(rows), began - next.since, ended - began};
      done(std::move(result));
    } else {
      done(rows.status());
    }
  }
}

}  // namespace chord::vision_worker
