#include "services/vision_worker/encode_queue.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "absl/synchronization/notification.h"
#include "common/base/errors.h"

namespace chord::vision_worker {
namespace {

// A tower that waits for the test between pictures and returns the first value it was given.
class SlowTower : public engine::VisionTower {
 public:
  absl::StatusOr<Output> Encode(absl::Span<const float> patches, absl::Span<const image::Grid>,
                                const CancelToken& cancel) override {
    absl::MutexLock lock(&gate);
    if (auto status = cancel.Check(); !status.ok()) return status;
    if (patches[0] < 0) return errors::DeviceMemory();
    Output out{model::DType::kFloat32, 1, 1, {}};
    out.bytes.resize(4);
    std::memcpy(out.bytes.data(), patches.data(), 4);
    return out;
  }
  absl::Mutex gate;
};

struct Ended {
  absl::Notification done;
  absl::StatusOr<EncodeJob::Result> result = absl::UnknownError("not ended");
  float value() const {
    float out;
    std::memcpy(&out, result->rows.bytes.data(), 4);
    return out;
  }
};

EncodeJob Job(float value, const CancelToken& cancel, Ended* ended) {
  EncodeJob job;
  job.patches = {value};
  job.grid = {2, 2};
  job.cancel = cancel;
  job.done = [ended](absl::StatusOr<EncodeJob::Result> result) {
    ended->result = std::move(result);
    ended->done.Notify();
  };
  return job;
}

TEST(EncodeQueue, RunsJobsInOrderAndGivesEachItsOwnRows) {
  SlowTower tower;
  Ended ended[5];
  EncodeQueue queue(&tower, 8);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(queue.Submit(Job(static_cast<float>(i), CancelToken(), &ended[i])).ok());
  }
  for (int i = 0; i < 5; ++i) {
    ended[i].done.WaitForNotification();
    ASSERT_TRUE(ended[i].result.ok());
    EXPECT_EQ(ended[i].value(), static_cast<float>(i));
  }
}

TEST(EncodeQueue, RefusesWhatTheLineCannotHoldWithATimeToWait) {
  SlowTower tower;
  Ended ended[4];
  EncodeQueue queue(&tower, 2);
  {
    absl::MutexLock hold(&tower.gate);
    ASSERT_TRUE(queue.Submit(Job(0, CancelToken(), &ended[0])).ok());
    while (queue.running() == 0) {
    }
    ASSERT_TRUE(queue.Submit(Job(1, CancelToken(), &ended[1])).ok());
    ASSERT_TRUE(queue.Submit(Job(2, CancelToken(), &ended[2])).ok());
    const auto status = queue.Submit(Job(3, CancelToken(), &ended[3]));
    EXPECT_EQ(ErrorReason(status), "OVERLOADED");
    EXPECT_GT(RetryAfter(status), absl::ZeroDuration());
  }
  for (int i = 0; i < 3; ++i) ended[i].done.WaitForNotification();
  EXPECT_FALSE(ended[3].done.HasBeenNotified());
}

TEST(EncodeQueue, CancelledJobsLeaveTheLineWhileTheDeviceIsBusy) {
  SlowTower tower;
  Ended ended[2];
  EncodeQueue queue(&tower, 2);
  CancelSource source;
  {
    absl::MutexLock hold(&tower.gate);
    ASSERT_TRUE(queue.Submit(Job(0, CancelToken(), &ended[0])).ok());
    while (queue.running() == 0) {
    }
    ASSERT_TRUE(queue.Submit(Job(1, source.token(), &ended[1])).ok());
    queue.Sweep();
    EXPECT_EQ(queue.queued(), 1);
    source.Cancel(errors::Cancelled());
    queue.Sweep();
    EXPECT_EQ(queue.queued(), 0);
    EXPECT_EQ(ErrorReason(ended[1].result.status()), "CANCELLED");
  }
  ended[0].done.WaitForNotification();
}

TEST(EncodeQueue, AFailureEndsOnlyItsOwnJob) {
  SlowTower tower;
  Ended bad, good;
  EncodeQueue queue(&tower, 2);
  ASSERT_TRUE(queue.Submit(Job(-1, CancelToken(), &bad)).ok());
  ASSERT_TRUE(queue.Submit(Job(5, CancelToken(), &good)).ok());
  bad.done.WaitForNotification();
  good.done.WaitForNotification();
  EXPECT_EQ(ErrorReason(bad.result.status()), "DEVICE_MEMORY");
  EXPECT_TRUE(good.result.ok());
}

TEST(EncodeQueue, EndsWhatWaitsWhenItStops) {
  SlowTower tower;
  Ended first, second;
  auto owner = std::make_unique<EncodeQueue>(&tower, 2);
  EncodeQueue* const queue = owner.get();
  tower.gate.Lock();
  ASSERT_TRUE(queue->Submit(Job(0, CancelToken(), &first)).ok());
  while (queue->running() == 0) {
  }
  ASSERT_TRUE(queue->Submit(Job(1, CancelToken(), &second)).ok());
  std::thread stop([&] { owner = nullptr; });
  std::deque<Ended> late;  // one of them may still find a place in the line
  while (queue->Submit(Job(2, CancelToken(), &late.emplace_back())).code() !=
         absl::StatusCode::kUnavailable) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  tower.gate.Unlock();
  stop.join();
  EXPECT_TRUE(first.result.ok());
  EXPECT_EQ(ErrorReason(second.result.status()), "SHUTTING_DOWN");
}

}  // namespace
}  // namespace chord::vision_worker
