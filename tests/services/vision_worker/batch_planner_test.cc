#include "services/vision_worker/batch_planner.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace chord::vision_worker {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// One microsecond per patch from 256 patches on.
CostModel OneMicroPerPatch() {
  CostModel cost;
  cost.Observe(1000, 1000);
  return cost;
}

QueuedImage Queued(int64_t patches, int64_t time_left = kNever) {
  return {.patches = patches, .time_left = time_left};
}
QueuedImage Cancelled(int64_t patches) {
  return {.patches = patches, .time_left = kNever, .cancelled = true};
}

std::string Plan(const std::vector<QueuedImage>& queue, int64_t max_patches,
                 const CostModel& cost = OneMicroPerPatch()) {
  std::string out;
  for (const BatchAction action : PlanBatch(queue, max_patches, cost)) {
    out += "WREC"[static_cast<int>(action)];
  }
  return out;
}

TEST(PlanBatchTest, TakesFromTheFrontWhatFitsIntoTheLimit) {
  const struct {
    std::vector<QueuedImage> queue;
    std::string want;
  } cases[] = {
      {{}, ""},
      {{Queued(300)}, "R"},
      {{Queued(300), Queued(400), Queued(300)}, "RRR"},
      {{Queued(300), Queued(400), Queued(301)}, "RRW"},
      {{Queued(1000), Queued(1)}, "RW"},
      // None overtakes: the small ones would fit, but the large one came before them.
      {{Queued(300), Queued(900), Queued(4), Queued(4)}, "RWWW"},
      // Above the limit: alone, first or not.
      {{Queued(5000), Queued(4)}, "RW"},
      {{Queued(4), Queued(5000), Queued(4)}, "RWW"},
      {{Queued(std::numeric_limits<int64_t>::max()), Queued(4)}, "RW"},
  };
  for (const auto& c : cases) EXPECT_EQ(Plan(c.queue, 1000), c.want);
}

TEST(PlanBatchTest, RemovesCancelledImagesAndDoesNotCountThem) {
  EXPECT_EQ(Plan({Cancelled(900), Queued(500), Cancelled(4), Queued(500)}, 1000), "CRCR");
  EXPECT_EQ(Plan({Queued(900), Queued(500), Cancelled(4)}, 1000), "RWC");
  EXPECT_EQ(Plan({Cancelled(4), Cancelled(4)}, 1000), "CC");
}

TEST(PlanBatchTest, ExpiresImagesThatCannotFinishEvenAloneAndNow) {
  EXPECT_EQ(Plan({Queued(500, 499), Queued(500, 500)}, 1000), "ER");
  EXPECT_EQ(Plan({Queued(500, 0)}, 1000), "E");
  EXPECT_EQ(Plan({Queued(500, -7), Queued(4000)}, 1000), "ER");
  // A batch of a few patches costs as much as one of 256.
  EXPECT_EQ(Plan({Queued(4, 255)}, 1000), "E");
  EXPECT_EQ(Plan({Queued(4, 256)}, 1000), "R");
  // Nothing is known yet: no image is refused.
  EXPECT_EQ(Plan({Queued(500, 1)}, 1000, CostModel()), "R");
}

TEST(PlanBatchTest, NeverMakesAnImageLateForAnother) {
  // The first has time for 600 patches, and 400 + 300 are more.
  EXPECT_EQ(Plan({Queued(400, 600), Queued(300)}, 1000), "RW");
  EXPECT_EQ(Plan({Queued(400, 700), Queued(300)}, 1000), "RR");
  // The second would be late in this batch: it waits for the next plan.
  EXPECT_EQ(Plan({Queued(400), Queued(300, 600)}, 1000), "RW");
  EXPECT_EQ(Plan({Queued(400), Queued(200, 600), Queued(100)}, 1000), "RRW");
}

TEST(PlanBatchTest, ServesEveryImageOfAnyQueue) {
  // Random queues, served until they are empty: in order, within the limit, at least one image
  // each.
  uint64_t state = 1;
  const auto random = [&state](int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(n));
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<QueuedImage> queue;
    for (int64_t i = random(20); i >= 0; --i) queue.push_back(Queued(1 + random(1500)));
    while (!queue.empty()) {
      const auto actions = PlanBatch(queue, 1000, OneMicroPerPatch());
      ASSERT_EQ(actions[0], BatchAction::kRun);
      size_t count = 0;
      int64_t patches = 0;
      for (; count < actions.size() && actions[count] == BatchAction::kRun; ++count) {
        patches += queue[count].patches;
      }
      for (size_t i = count; i < actions.size(); ++i) ASSERT_EQ(actions[i], BatchAction::kWait);
      ASSERT_TRUE(count == 1 || patches <= 1000);
      queue.erase(queue.begin(), queue.begin() + static_cast<int64_t>(count));
    }
  }
}

TEST(CheckAdmissionTest, ComparesWithWorkAheadAndWithAnIdleDevice) {
  EXPECT_EQ(CheckAdmission(0, 10, 10), Admission::kAdmit);
  EXPECT_EQ(CheckAdmission(0, 11, 10), Admission::kInfeasible);
  EXPECT_EQ(CheckAdmission(0, 0, -1), Admission::kInfeasible);  // the deadline has passed
  EXPECT_EQ(CheckAdmission(90, 10, 100), Admission::kAdmit);
  EXPECT_EQ(CheckAdmission(91, 10, 100), Admission::kOverloaded);
  EXPECT_EQ(CheckAdmission(kNever, 10, kNever - 1), Admission::kOverloaded);
  EXPECT_EQ(CheckAdmission(kNever, 0, kNever), Admission::kAdmit);
}

TEST(CostModelTest, FollowsRecentBatches) {
  CostModel cost;
  EXPECT_EQ(cost.Micros(1000), 0);
  cost.Observe(1000, 5000);
  EXPECT_EQ(cost.Micros(2000), 10'000);
  for (int i = 0; i < 40; ++i) cost.Observe(1000, 2000);
  EXPECT_NEAR(static_cast<double>(cost.Micros(1000)), 2000, 2);
  // A small pass says little about a large one.
  cost.Observe(4, 2000);
  EXPECT_LT(cost.Micros(1000), 3000);
  EXPECT_EQ(cost.Micros(4), cost.Micros(CostModel::kMinPatches));
  EXPECT_GT(cost.Micros(std::numeric_limits<int64_t>::max()), 0);
}

TEST(CostModelTest, CountsOneSlowBatchInPartOnly) {
  CostModel cost;
  for (int i = 0; i < 10; ++i) cost.Observe(1000, 1000);
  cost.Observe(1000, 60'000);  // the process was stopped for a while
  EXPECT_LE(cost.Micros(1000), 2000);
  EXPECT_EQ(Plan({Queued(1000, 3000)}, 1000, cost), "R");
  // A lasting slowdown counts.
  for (int i = 0; i < 20; ++i) cost.Observe(1000, 60'000);
  EXPECT_GT(cost.Micros(1000), 59'000);
  EXPECT_EQ(Plan({Queued(1000, 3000)}, 1000, cost), "E");
}

TEST(CostModelTest, DecaysOnRequest) {
  CostModel cost = OneMicroPerPatch();
  cost.Decay();
  EXPECT_EQ(cost.Micros(800), 700);
  for (int i = 0; i < 100; ++i) cost.Decay();
  EXPECT_EQ(cost.Micros(800), 0);
  cost.Observe(1000, 1000);  // after a decay, one observation suffices
  EXPECT_GT(cost.Micros(800), 400);
}

TEST(BatchLimitTest, HalvesWithoutMemoryAndRecoversSlowly) {
  BatchLimit limit(1600);
  limit.OnOutOfMemory(1200);
  EXPECT_EQ(limit.patches(), 600);
  limit.OnSuccess();
  EXPECT_EQ(limit.patches(), 700);
  for (int i = 0; i < 20; ++i) limit.OnSuccess();
  EXPECT_EQ(limit.patches(), 1600);
  for (int i = 0; i < 20; ++i) limit.OnOutOfMemory(limit.patches());
  EXPECT_EQ(limit.patches(), 1);
  limit.OnOutOfMemory(1'000'000);  // never up
  EXPECT_EQ(limit.patches(), 1);
}

}  // namespace
}  // namespace chord::vision_worker
