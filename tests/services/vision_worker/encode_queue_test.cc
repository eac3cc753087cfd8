#include "services/vision_worker/encode_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "absl/synchronization/notification.h"
#include "common/base/errors.h"
#include "common/engine/cpu/widen.h"
#include "tests/common/engine/tiny_model.h"
#include "tests/support/has_reason.h"

namespace chord::vision_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A tower with one value per patch, which it returns once per merged cell. It waits while the test
// holds `gate`, and records the number of images of each batch.
class SlowTower : public engine::VisionTower {
 public:
  absl::StatusOr<Output> Encode(absl::Span<const float> patches,
                                absl::Span<const image::Grid> grids,
                                const CancelToken& cancel) override {
    absl::MutexLock lock(&gate);
    batches.push_back(static_cast<int>(grids.size()));
    if (auto status = cancel.Check(); !status.ok()) return status;
    if (static_cast<int64_t>(patches.size()) > memory) return errors::DeviceMemory();
    Output out{model::DType::kFloat32, static_cast<int64_t>(patches.size()) / 4, 1, {}};
    out.bytes.resize(patches.size());
    for (size_t i = 0; i < patches.size(); i += 4) {
      std::memcpy(&out.bytes[i], &patches[i], sizeof(float));
    }
    return out;
  }
  // One byte per patch here.
  absl::StatusOr<Output> EncodePixels(absl::Span<const uint8_t> pixels,
                                      absl::Span<const image::Grid> grids,
                                      const CancelToken& cancel) override {
    return Encode(std::vector<float>(pixels.begin(), pixels.end()), grids, cancel);
  }
  absl::Mutex gate;
  std::vector<int> batches;        // images each; guarded by gate
  int64_t memory = 1'000'000'000;  // patches at once
};

struct Ended {
  absl::Notification done;
  absl::StatusOr<EncodeJob::Result> result = absl::UnknownError("not ended");
  std::vector<float> values() const {
    std::vector<float> out(result->embeddings.rows * result->embeddings.width);
    EXPECT_EQ(out.size() * 4, result->embeddings.bytes.size());
    std::memcpy(out.data(), result->embeddings.bytes.data(), result->embeddings.bytes.size());
    return out;
  }
};

EncodeJob Job(std::vector<float> patches, image::Grid grid, const CancelToken& cancel,
              Ended* ended) {
  EncodeJob job;
  job.patches = std::move(patches);
  job.grid = grid;
  job.cancel = cancel;
  job.done = [ended](absl::StatusOr<EncodeJob::Result> result) {
    ended->result = std::move(result);
    ended->done.Notify();
  };
  return job;
}

// Of `rows` merged cells, each of which answers `value`.
EncodeJob Job(float value, int rows, Ended* ended, const CancelToken& cancel = CancelToken()) {
  return Job(std::vector<float>(4 * rows, value), {2, 2 * rows}, cancel, ended);
}

class EncodeQueueTest : public ::testing::Test {
 protected:
  void Start(int max_queue, int64_t max_batch_patches, int64_t max_patches = 100'000) {
    EncodeQueue::Options options;
    options.max_queue = max_queue;
    options.max_batch_patches = max_batch_patches;
    options.max_patches = max_patches;
    queue_ = std::make_unique<EncodeQueue>(&tower_, options, &metrics_);
  }
  // Keeps the tower busy with an image of one row until the gate is released. The caller holds the
  // gate.
  void Occupy(const CancelToken& cancel = CancelToken()) {
    ASSERT_TRUE(queue_->Submit(Job(-1, 1, &first_, cancel)).ok());
    while (queue_->running() == 0) absl::SleepFor(absl::Microseconds(100));
  }
  std::vector<int> Batches() {
    absl::MutexLock lock(&tower_.gate);
    return tower_.batches;
  }

  SlowTower tower_;
  obs::Metrics metrics_{obs::Role::kVisionWorker, "test"};
  Ended first_;
  std::unique_ptr<EncodeQueue> queue_;
};

TEST_F(EncodeQueueTest, BatchesQueuedImagesOfDifferentSizesAndReturnsToEachItsOwnEmbeddings) {
  Start(8, 100);
  Ended ended[5];
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    // 4, 8, 12, 16, 80 patches: the last does not fit beside the others.
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(queue_->Submit(Job(static_cast<float>(i), i + 1, &ended[i])).ok());
    }
    ASSERT_TRUE(queue_->Submit(Job(4, 20, &ended[4])).ok());
  }
  for (int i = 0; i < 5; ++i) {
    ended[i].done.WaitForNotification();
    ASSERT_TRUE(ended[i].result.ok()) << ended[i].result.status();
    EXPECT_EQ(ended[i].values(), std::vector<float>(i == 4 ? 20 : i + 1, static_cast<float>(i)));
  }
  EXPECT_THAT(Batches(), ElementsAre(1, 4, 1));
  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr("chord_encode_batch_images_count 3"));
  EXPECT_THAT(text, HasSubstr("chord_encode_batch_images_sum 6"));
}

TEST_F(EncodeQueueTest, TakesPixelsLikePatchesAlsoWhenABatchIsSplitUp) {
  Start(8, 100);
  tower_.memory = 12;  // patches: one image alone, not both
  Ended ended[2];
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    for (int i = 0; i < 2; ++i) {
      EncodeJob job = Job({}, {2, 4}, CancelToken(), &ended[i]);
      job.pixels = std::vector<uint8_t>(8, static_cast<uint8_t>(i + 1));
      ASSERT_TRUE(queue_->Submit(std::move(job)).ok());
    }
  }
  for (int i = 0; i < 2; ++i) {
    ended[i].done.WaitForNotification();
    ASSERT_TRUE(ended[i].result.ok()) << ended[i].result.status();
    EXPECT_EQ(ended[i].values(), std::vector<float>(2, static_cast<float>(i + 1)));
  }
  EXPECT_THAT(Batches(), ElementsAre(1, 2, 1, 1));
}

TEST_F(EncodeQueueTest, ReportsQueueAndComputeTimes) {
  Start(8, 100);
  Ended ended[2];
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    for (Ended& e : ended) ASSERT_TRUE(queue_->Submit(Job(0, 1, &e)).ok());
    absl::SleepFor(absl::Milliseconds(5));
  }
  for (Ended& e : ended) {
    e.done.WaitForNotification();
    EXPECT_GE(e.result->queue, absl::Milliseconds(5));
    EXPECT_LT(e.result->queue, absl::Minutes(5));  // and not the age of the epoch
    EXPECT_GT(e.result->compute, absl::ZeroDuration());
    EXPECT_LT(e.result->compute, absl::Minutes(5));
  }
  first_.done.WaitForNotification();
  EXPECT_LT(first_.result->queue, absl::Minutes(5));
  EXPECT_GE(first_.result->compute, absl::Milliseconds(5));
}

TEST_F(EncodeQueueTest, RefusesJobsWithATimeToWaitWhenTheQueueIsFull) {
  Start(2, 100);
  Ended ended[3];
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    ASSERT_TRUE(queue_->Submit(Job(0, 1, &ended[0])).ok());
    ASSERT_TRUE(queue_->Submit(Job(1, 1, &ended[1])).ok());
    const auto status = queue_->Submit(Job(2, 1, &ended[2]));
    EXPECT_THAT(status, HasReason(Reason::kOverloaded));
    EXPECT_GT(RetryAfter(status), absl::ZeroDuration());
  }
  for (int i = 0; i < 2; ++i) ended[i].done.WaitForNotification();
  EXPECT_FALSE(ended[2].done.HasBeenNotified());
}

TEST_F(EncodeQueueTest, AdmitsByPatchesAndReleasesPermits) {
  Start(8, 100, /*max_patches=*/1000);
  auto most = queue_->Admit(900, absl::InfiniteFuture());
  ASSERT_TRUE(most.ok()) << most.status();
  EXPECT_EQ(queue_->patches_in_flight(), 900);
  const auto refused = queue_->Admit(200, absl::InfiniteFuture());
  EXPECT_THAT(refused.status(), HasReason(Reason::kOverloaded));
  EXPECT_GT(RetryAfter(refused.status()), absl::ZeroDuration());
  EXPECT_TRUE(queue_->Admit(100, absl::InfiniteFuture()).ok());
  most->Release();
  {
    // Larger than all: alone.
    const auto giant = queue_->Admit(5000, absl::InfiniteFuture());
    EXPECT_TRUE(giant.ok());
    EXPECT_FALSE(queue_->Admit(1, absl::InfiniteFuture()).ok());
  }
  Ended ended;
  EncodeJob job = Job(0, 1, &ended);
  job.permit = *queue_->Admit(4, absl::InfiniteFuture());
  ASSERT_TRUE(queue_->Submit(std::move(job)).ok());
  ended.done.WaitForNotification();
  EXPECT_EQ(queue_->patches_in_flight(), 0);
}

TEST_F(EncodeQueueTest, RefusesAtOnceWhatCannotFinishByTheEstimate) {
  Start(8, 100);
  queue_->Observe(1000, absl::Seconds(1000));  // a second a patch
  const absl::Time now = absl::Now();
  // Alone it would take 2000 s: coming back does not help.
  EXPECT_THAT(queue_->Admit(2000, now + absl::Seconds(1000)).status(),
              HasReason(Reason::kDeadlineExceeded));
  const auto permit = queue_->Admit(1000, now + absl::Hours(1));
  ASSERT_TRUE(permit.ok()) << permit.status();
  const auto refused = queue_->Admit(1000, now + absl::Seconds(1500));
  EXPECT_THAT(refused.status(), HasReason(Reason::kOverloaded));
  EXPECT_EQ(RetryAfter(refused.status()), absl::Seconds(30));
  EXPECT_TRUE(queue_->Admit(1000, now + absl::Hours(1)).ok());
}

TEST_F(EncodeQueueTest, DecaysAnEstimateThatRefusesEveryRequest) {
  Start(8, 100);
  queue_->Observe(1000, absl::Seconds(1000));
  int refused = 0;
  while (!queue_->Admit(1000, absl::Now() + absl::Seconds(10)).ok()) ASSERT_LT(++refused, 100);
  EXPECT_GT(refused, 10);
}

TEST_F(EncodeQueueTest, AnIdleDeviceIsTriedAfterOneSlowBatch) {
  Start(8, 100);
  for (int i = 0; i < 4; ++i) queue_->Observe(1000, absl::Seconds(1));
  queue_->Observe(1000, absl::Minutes(1));
  const auto permit = queue_->Admit(1000, absl::Now() + absl::Seconds(5));
  EXPECT_TRUE(permit.ok()) << permit.status();
}

TEST_F(EncodeQueueTest, ChecksDeadlinesAgainWhenABatchStarts) {
  Start(8, 100);
  Ended late, good;
  CancelSource soon(absl::Now() + absl::Seconds(100));
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    ASSERT_TRUE(queue_->Submit(Job(0, 1, &late, soon.token())).ok());
    ASSERT_TRUE(queue_->Submit(Job(1, 1, &good)).ok());
    queue_->Observe(1'000'000, absl::Seconds(1'000'000));
  }
  late.done.WaitForNotification();
  good.done.WaitForNotification();
  EXPECT_THAT(late.result.status(), HasReason(Reason::kOverloaded));
  EXPECT_GT(RetryAfter(late.result.status()), absl::ZeroDuration());
  EXPECT_TRUE(good.result.ok());
  EXPECT_THAT(Batches(), ElementsAre(1, 1));
}

TEST_F(EncodeQueueTest, CancelledJobsLeaveTheQueueWhileTheDeviceIsBusy) {
  Start(2, 100);
  Ended ended;
  CancelSource source;
  absl::MutexLock hold(&tower_.gate);
  Occupy();
  ASSERT_TRUE(queue_->Submit(Job(1, 1, &ended, source.token())).ok());
  queue_->Sweep();
  EXPECT_EQ(queue_->queued(), 1);
  source.Cancel(errors::Cancelled());
  queue_->Sweep();
  EXPECT_EQ(queue_->queued(), 0);
  EXPECT_THAT(ended.result.status(), HasReason(Reason::kCancelled));
}

TEST_F(EncodeQueueTest, CancelledJobsAreInNoBatch) {
  Start(8, 100);
  Ended ended[3];
  CancelSource source;
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    ASSERT_TRUE(queue_->Submit(Job(0, 1, &ended[0])).ok());
    ASSERT_TRUE(queue_->Submit(Job(1, 1, &ended[1], source.token())).ok());
    ASSERT_TRUE(queue_->Submit(Job(2, 1, &ended[2])).ok());
    source.Cancel(errors::Cancelled());
  }
  for (Ended& e : ended) e.done.WaitForNotification();
  EXPECT_THAT(ended[0].values(), ElementsAre(0));
  EXPECT_THAT(ended[1].result.status(), HasReason(Reason::kCancelled));
  EXPECT_THAT(ended[2].values(), ElementsAre(2));
  EXPECT_THAT(Batches(), ElementsAre(1, 2));
}

// A tower whose runs last until their token is cancelled or the test lets them end.
class WaitingTower : public engine::VisionTower {
 public:
  absl::StatusOr<Output> Encode(absl::Span<const float> patches,
                                absl::Span<const image::Grid> grids,
                                const CancelToken& cancel) override {
    images = static_cast<int>(grids.size());
    began.Notify();
    while (!end.HasBeenNotified()) {
      if (auto status = cancel.Check(); !status.ok()) return status;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return Output{model::DType::kFloat32, static_cast<int64_t>(patches.size()) / 4, 1,
                  std::vector<std::byte>(patches.size())};
  }
  int images = 0;
  absl::Notification began, end;
};

// Holds the thread of a queue until destroyed, so that jobs submitted meanwhile form one batch.
class Hold {
 public:
  explicit Hold(EncodeQueue* queue) {
    CancelSource cancelled;
    cancelled.Cancel(errors::Cancelled());
    EncodeJob job = Job(0, 1, nullptr, cancelled.token());
    job.done = [this](const auto&) {
      inside_.Notify();
      go_.WaitForNotification();
      left_.Notify();
    };
    EXPECT_TRUE(queue->Submit(std::move(job)).ok());
    inside_.WaitForNotification();
  }
  ~Hold() {
    go_.Notify();
    left_.WaitForNotification();
  }

 private:
  absl::Notification inside_, go_, left_;
};

TEST_F(EncodeQueueTest, CancellingOneImageOfARunningBatchDoesNotStopTheOthers) {
  WaitingTower tower;
  Ended ended[3];
  CancelSource sources[3];
  EncodeQueue queue(&tower, {.max_queue = 8, .max_batch_patches = 100, .max_patches = 1000},
                    &metrics_);
  {
    Hold hold(&queue);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(queue.Submit(Job(0, 1 + i, &ended[i], sources[i].token())).ok());
    }
  }
  tower.began.WaitForNotification();
  EXPECT_EQ(tower.images, 3);
  sources[0].Cancel(errors::Cancelled());
  sources[1].Cancel(errors::DeadlineExceeded());
  EXPECT_FALSE(ended[2].done.WaitForNotificationWithTimeout(absl::Milliseconds(20)));
  tower.end.Notify();
  for (Ended& e : ended) e.done.WaitForNotification();
  EXPECT_THAT(ended[0].result.status(), HasReason(Reason::kCancelled));
  EXPECT_THAT(ended[1].result.status(), HasReason(Reason::kDeadlineExceeded));
  ASSERT_TRUE(ended[2].result.ok()) << ended[2].result.status();
  EXPECT_EQ(ended[2].result->embeddings.rows, 3);
}

TEST_F(EncodeQueueTest, StopsABatchWhenAllOfItsImagesAreCancelled) {
  WaitingTower tower;
  Ended ended[2];
  CancelSource sources[2];
  EncodeQueue queue(&tower, {.max_queue = 8, .max_batch_patches = 100, .max_patches = 1000},
                    &metrics_);
  {
    Hold hold(&queue);
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(queue.Submit(Job(0, 1, &ended[i], sources[i].token())).ok());
    }
  }
  tower.began.WaitForNotification();
  EXPECT_EQ(tower.images, 2);
  for (CancelSource& source : sources) source.Cancel(errors::Cancelled());
  for (Ended& e : ended) {
    e.done.WaitForNotification();
    EXPECT_THAT(e.result.status(), HasReason(Reason::kCancelled));
  }
}

TEST_F(EncodeQueueTest, AFailureEndsOnlyItsOwnJob) {
  Start(8, 100);
  tower_.memory = 12;  // patches
  Ended ended[4];
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    ASSERT_TRUE(queue_->Submit(Job(0, 1, &ended[0])).ok());
    ASSERT_TRUE(queue_->Submit(Job(1, 10, &ended[1])).ok());  // too large for this device
    ASSERT_TRUE(queue_->Submit(Job(2, 3, &ended[2])).ok());
  }
  for (int i = 0; i < 3; ++i) ended[i].done.WaitForNotification();
  EXPECT_THAT(ended[0].values(), ElementsAre(0));
  EXPECT_THAT(ended[1].result.status(), HasReason(Reason::kDeviceMemory));
  EXPECT_THAT(ended[2].values(), ElementsAre(2, 2, 2));
  EXPECT_THAT(Batches(), ElementsAre(1, 3, 1, 1, 1));
  ASSERT_TRUE(queue_->Submit(Job(3, 1, &ended[3])).ok());
  ended[3].done.WaitForNotification();
  EXPECT_TRUE(ended[3].result.ok());
}

TEST_F(EncodeQueueTest, MakesSmallerBatchesWhenTheDeviceIsFull) {
  Start(8, 1000);
  tower_.memory = 20;
  Ended ended[8];
  {
    absl::MutexLock hold(&tower_.gate);
    Occupy();
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(queue_->Submit(Job(0, 2, &ended[i])).ok());
  }
  for (int i = 0; i < 4; ++i) ended[i].done.WaitForNotification();
  EXPECT_THAT(Batches(), ElementsAre(1, 4, 1, 1, 1, 1));  // 32 patches were too many
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(ended[i].result.ok());
}

TEST_F(EncodeQueueTest, EndsQueuedJobsWhenItStops) {
  Start(2, 4);
  Ended second;
  EncodeQueue* const queue = queue_.get();
  tower_.gate.Lock();
  Occupy();
  ASSERT_TRUE(queue->Submit(Job(1, 1, &second)).ok());
  std::thread stop([&] { queue_ = nullptr; });
  std::deque<Ended> late;  // one of them may still fit into the queue
  while (queue->Submit(Job(2, 1, &late.emplace_back())).code() != absl::StatusCode::kUnavailable) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  tower_.gate.Unlock();
  stop.join();
  EXPECT_TRUE(first_.result.ok());
  EXPECT_THAT(second.result.status(), HasReason(Reason::kShuttingDown));
}

TEST(EncodeQueueWithARealTower, AnswersInABatchAsAlone) {
  constexpr int64_t kPatchValues = 3 * 2 * 14 * 14;
  const model::ModelConfig config = engine::TinyConfig();
  auto tower = engine::VisionTower::Load(engine::TinyCheckpoint(config, model::DType::kBFloat16),
                                         config, {});
  ASSERT_TRUE(tower.ok()) << tower.status();
  obs::Metrics metrics(obs::Role::kVisionWorker, "test");
  const std::vector<image::Grid> grids = {{4, 4}, {6, 22}, {18, 10}, {2, 2}, {22, 6}, {2, 40}};
  std::vector<std::vector<float>> patches, alone;
  for (size_t i = 0; i < grids.size(); ++i) {
    patches.push_back(engine::RandomFloats(grids[i].patches() * kPatchValues, static_cast<int>(i)));
    const auto output = (*tower)->Encode(patches[i], {grids[i]}, CancelToken());
    ASSERT_TRUE(output.ok()) << output.status();
    alone.push_back(engine::Widen(output->dtype, output->bytes));
  }

  EncodeQueue queue(tower->get(),
                    {.max_queue = 8, .max_batch_patches = 10'000, .max_patches = 10'000}, &metrics);
  std::vector<Ended> ended(grids.size());
  {
    Hold hold(&queue);
    for (size_t i = 0; i < grids.size(); ++i) {
      ASSERT_TRUE(queue.Submit(Job(patches[i], grids[i], CancelToken(), &ended[i])).ok());
    }
  }
  for (size_t i = 0; i < grids.size(); ++i) {
    ended[i].done.WaitForNotification();
    ASSERT_TRUE(ended[i].result.ok()) << ended[i].result.status();
    EXPECT_LT(engine::Distance(ended[i].values(), alone[i]), 1e-5) << i;
  }
  EXPECT_THAT(metrics.Serialize(), HasSubstr("chord_encode_batch_images_sum 6"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("chord_encode_batch_images_count 1"));
}

}  // namespace
}  // namespace chord::vision_worker
