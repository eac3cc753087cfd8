#include "services/gateway/routing/pick_worker.h"

#include <gtest/gtest.h>

#include <vector>

namespace chord::gateway {
namespace {

WorkerView Ready(int64_t load = 0, int in_flight = 0) {
  WorkerView view;
  view.alive = view.ready = true;
  view.fingerprint = "f";
  view.load = load;
  view.in_flight = in_flight;
  return view;
}

TEST(PickWorker, TakesTheLeastLoadedByWorkAndThenByCount) {
  EXPECT_EQ(PickWorker({Ready(5), Ready(3), Ready(4)}, "f", 0).index, 1);
  EXPECT_EQ(PickWorker({Ready(3, 2), Ready(3, 1)}, "f", 0).index, 1);
}

TEST(PickWorker, TrustsTheLargerOfTheReportAndItsOwnCount) {
  std::vector<WorkerView> workers = {Ready(0), Ready(2)};
  workers[0].ours_load = 9;  // sent just now, not in the report yet
  EXPECT_EQ(PickWorker(workers, "f", 0).index, 1);
  workers[1].load = 10;  // another gateway's
  EXPECT_EQ(PickWorker(workers, "f", 0).index, 0);
}

TEST(PickWorker, TakesEqualOnesInTurn) {
  for (uint64_t turn = 0; turn < 6; ++turn) {
    EXPECT_EQ(PickWorker({Ready(), Ready(), Ready()}, "f", turn).index, static_cast<int>(turn % 3));
  }
}

TEST(PickWorker, TakesTheOneThatHasTheImageWhateverItsLoad) {
  std::vector<WorkerView> workers = {Ready(1), Ready(900), Ready(2)};
  for (uint64_t turn = 0; turn < 3; ++turn) {
    EXPECT_EQ(PickWorker(workers, "f", turn, 1).index, 1);
  }
  workers[1].queued = workers[1].queue_capacity = 4;
  EXPECT_EQ(PickWorker(workers, "f", 0, 1).index, 0) << "but not into a full queue";
  workers[1] = Ready();
  workers[1].ready = false;
  EXPECT_EQ(PickWorker(workers, "f", 0, 1).index, 0);
}

TEST(PickWorker, LeavesOutTheOneThatHasJustFailed) {
  std::vector<WorkerView> workers = {Ready(1), Ready(9)};
  workers[0].excluded = true;
  EXPECT_EQ(PickWorker(workers, "f", 0, 0).index, 1);
  workers[1].excluded = true;
  EXPECT_EQ(PickWorker(workers, "f", 0).outcome, Picked::Outcome::kNoneReady);
}

TEST(PickWorker, TakesOneThatRestsOnlyIfThereIsNoOther) {
  std::vector<WorkerView> workers = {Ready(1), Ready(9)};
  workers[0].cooling_down = true;
  for (uint64_t turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(PickWorker(workers, "f", turn, 0).index, 1);
  }
  workers[1].excluded = true;
  EXPECT_EQ(PickWorker(workers, "f", 0, 0).index, 0);
}

TEST(PickWorker, SaysWhyItFindsNone) {
  using Outcome = Picked::Outcome;
  WorkerView dead = Ready(), loading = Ready(), other = Ready(), full = Ready();
  dead.alive = false;
  loading.ready = false;
  other.fingerprint = "g";
  full.queued = full.queue_capacity = 2;
  const struct {
    std::vector<WorkerView> workers;
    Outcome outcome;
  } cases[] = {{{}, Outcome::kNoneReady},
               {{dead, loading}, Outcome::kNoneReady},
               {{dead, other}, Outcome::kMismatch},
               {{full, other}, Outcome::kFull},
               {{full, dead, Ready()}, Outcome::kFound}};
  for (const auto& c : cases) {
    const Picked picked = PickWorker(c.workers, "f", 1);
    EXPECT_EQ(picked.outcome, c.outcome);
    EXPECT_EQ(picked.index >= 0, c.outcome == Outcome::kFound);
  }
}

TEST(PickWorker, DoesNotCallAQueueOfUnknownLengthFull) {
  WorkerView worker = Ready();
  worker.queued = 100;
  EXPECT_EQ(PickWorker({worker}, "f", 0).outcome, Picked::Outcome::kFound);
}

}  // namespace
}  // namespace chord::gateway
