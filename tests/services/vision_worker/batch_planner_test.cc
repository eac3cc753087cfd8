#include "services/vision_worker/batch_planner.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace chord::vision_worker {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// One microsecond a patch from 256 patches on.
PassCost OneMicroAPatch() {
  PassCost cost;
  cost.Observe(1000, 1000);
  return cost;
}

WaitingImage RgbImage(int64_t patches, int64_t left = kNever) { return {patches, left, false}; }
WaitingImage Cancelled(int64_t patches) { return {patches, kNever, true}; }

std::string Plan(const std::vector<WaitingImage>& line, int64_t max_patches,
                 const PassCost& cost = OneMicroAPatch()) {
  std::string out;
  for (Fate fate : PlanBatch(line, max_patches, cost)) out += "WRLC"[static_cast<int>(fate)];
  return out;
}

TEST(PlanBatch, TakesFromTheFrontWhatFitsIntoTheBudget) {
  const struct {
    std::vector<WaitingImage> line;
    std::string want;
  } cases[] = {
      {{}, ""},
      {{RgbImage(300)}, "R"},
      {{RgbImage(300), RgbImage(400), RgbImage(300)}, "RRR"},
      {{RgbImage(300), RgbImage(400), RgbImage(301)}, "RRW"},
      {{RgbImage(1000), RgbImage(1)}, "RW"},
      // None overtakes: the small ones would fit, but the large one came before them.
      {{RgbImage(300), RgbImage(900), RgbImage(4), RgbImage(4)}, "RWWW"},
      // Larger than the budget: alone, first or not.
      {{RgbImage(5000), RgbImage(4)}, "RW"},
      {{RgbImage(4), RgbImage(5000), RgbImage(4)}, "RWW"},
      {{RgbImage(std::numeric_limits<int64_t>::max()), RgbImage(4)}, "RW"},
  };
  for (const auto& c : cases) EXPECT_EQ(Plan(c.line, 1000), c.want);
}

TEST(PlanBatch, LetsCancelledImagesLeaveAndCountsThemNot) {
  EXPECT_EQ(Plan({Cancelled(900), RgbImage(500), Cancelled(4), RgbImage(500)}, 1000), "CRCR");
  EXPECT_EQ(Plan({RgbImage(900), RgbImage(500), Cancelled(4)}, 1000), "RWC");
  EXPECT_EQ(Plan({Cancelled(4), Cancelled(4)}, 1000), "CC");
}

TEST(PlanBatch, RefusesWhatCannotFinishEvenAloneAndNow) {
  EXPECT_EQ(Plan({RgbImage(500, 499), RgbImage(500, 500)}, 1000), "LR");
  EXPECT_EQ(Plan({RgbImage(500, 0)}, 1000), "L");
  EXPECT_EQ(Plan({RgbImage(500, -7), RgbImage(4000)}, 1000), "LR");
  // A pass of a few patches costs as much as one of 256.
  EXPECT_EQ(Plan({RgbImage(4, 255)}, 1000), "L");
  EXPECT_EQ(Plan({RgbImage(4, 256)}, 1000), "R");
  // Nothing is known yet: no image is refused.
  EXPECT_EQ(Plan({RgbImage(500, 1)}, 1000, PassCost()), "R");
}

TEST(PlanBatch, NeverMakesAImageLateForTheSakeOfAnother) {
  // The first has time for 600 patches, and 400 + 300 are more.
  EXPECT_EQ(Plan({RgbImage(400, 600), RgbImage(300)}, 1000), "RW");
  EXPECT_EQ(Plan({RgbImage(400, 700), RgbImage(300)}, 1000), "RR");
  // The second would be late in company: it waits and is judged again.
  EXPECT_EQ(Plan({RgbImage(400), RgbImage(300, 600)}, 1000), "RW");
  EXPECT_EQ(Plan({RgbImage(400), RgbImage(200, 600), RgbImage(100)}, 1000), "RRW");
}

TEST(PlanBatch, ServesEveryImageOfAnyLine) {
  // Random lines, served until they are empty: order kept, budget kept, somebody in each pass.
  uint64_t state = 1;
  const auto random = [&state](int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(n));
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<WaitingImage> line;
    for (int64_t i = random(20); i >= 0; --i) line.push_back(RgbImage(1 + random(1500)));
    while (!line.empty()) {
      const auto fates = PlanBatch(line, 1000, OneMicroAPatch());
      ASSERT_EQ(fates[0], Fate::kRun);
      size_t count = 0;
      int64_t patches = 0;
      for (; count < fates.size() && fates[count] == Fate::kRun; ++count) {
        patches += line[count].patches;
      }
      for (size_t i = count; i < fates.size(); ++i) ASSERT_EQ(fates[i], Fate::kWait);
      ASSERT_TRUE(count == 1 || patches <= 1000);
      line.erase(line.begin(), line.begin() + static_cast<int64_t>(count));
    }
  }
}

TEST(Admit, ComparesWithWhatIsAheadAndWithAnIdleDevice) {
  EXPECT_EQ(Admit(0, 10, 10), Admission::kTake);
  EXPECT_EQ(Admit(0, 11, 10), Admission::kHopeless);
  EXPECT_EQ(Admit(0, 0, -1), Admission::kHopeless);  // the deadline has passed
  EXPECT_EQ(Admit(90, 10, 100), Admission::kTake);
  EXPECT_EQ(Admit(91, 10, 100), Admission::kBusy);
  EXPECT_EQ(Admit(kNever, 10, kNever - 1), Admission::kBusy);
  EXPECT_EQ(Admit(kNever, 0, kNever), Admission::kTake);
}

TEST(PassCost, FollowsThePassesAndForgetsOldOnes) {
  PassCost cost;
  EXPECT_EQ(cost.Micros(1000), 0);
  cost.Observe(1000, 5000);
  EXPECT_EQ(cost.Micros(2000), 10'000);
  for (int i = 0; i < 40; ++i) cost.Observe(1000, 2000);
  EXPECT_NEAR(static_cast<double>(cost.Micros(1000)), 2000, 2);
  // A small pass says little about a large one.
  cost.Observe(4, 2000);
  EXPECT_LT(cost.Micros(1000), 3000);
  EXPECT_EQ(cost.Micros(4), cost.Micros(PassCost::kSmallPass));
  EXPECT_GT(cost.Micros(std::numeric_limits<int64_t>::max()), 0);
}

TEST(PassCost, OneSlowPassIsNotTheRule) {
  PassCost cost;
  for (int i = 0; i < 10; ++i) cost.Observe(1000, 1000);
  cost.Observe(1000, 60'000);  // the process was stopped for a while
  EXPECT_LE(cost.Micros(1000), 2000);
  EXPECT_EQ(Plan({RgbImage(1000, 3000)}, 1000, cost), "R");
  // What stays slow is believed.
  for (int i = 0; i < 20; ++i) cost.Observe(1000, 60'000);
  EXPECT_GT(cost.Micros(1000), 59'000);
  EXPECT_EQ(Plan({RgbImage(1000, 3000)}, 1000, cost), "L");
}

TEST(PassCost, ComesDownWhenItIsDoubted) {
  PassCost cost = OneMicroAPatch();
  cost.Doubt();
  EXPECT_EQ(cost.Micros(800), 700);
  for (int i = 0; i < 100; ++i) cost.Doubt();
  EXPECT_EQ(cost.Micros(800), 0);
  cost.Observe(1000, 1000);  // what was doubted is learned anew at once
  EXPECT_GT(cost.Micros(800), 400);
}

TEST(BatchBudget, HalvesWithoutMemoryAndComesBackSlowly) {
  BatchBudget budget(1600);
  budget.RanOutOfMemory(1200);
  EXPECT_EQ(budget.limit(), 600);
  budget.Ran();
  EXPECT_EQ(budget.limit(), 700);
  for (int i = 0; i < 20; ++i) budget.Ran();
  EXPECT_EQ(budget.limit(), 1600);
  for (int i = 0; i < 20; ++i) budget.RanOutOfMemory(budget.limit());
  EXPECT_EQ(budget.limit(), 1);
  budget.RanOutOfMemory(1'000'000);  // never up
  EXPECT_EQ(budget.limit(), 1);
}

}  // namespace
}  // namespace chord::vision_worker
