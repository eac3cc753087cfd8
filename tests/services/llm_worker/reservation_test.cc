#include "services/llm_worker/reservation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "common/base/errors.h"
#include "common/base/ids.h"

namespace chord::llm_worker {
namespace {

using S = TicketState;

class Rows : public engine::EmbeddingBuffer {
 public:
  explicit Rows(std::atomic<int>* alive) : alive_(alive) { ++*alive_; }
  ~Rows() override { --*alive_; }
  absl::Status Write(int64_t, absl::Span<const std::byte>) override { return absl::OkStatus(); }
  int64_t rows() const override { return 4; }

 private:
  std::atomic<int>* alive_;
};

EmbeddingShape Shape(int64_t rows = 4) { return {{4, 4}, rows, 8, "model"}; }
absl::Time At(double seconds) { return absl::FromUnixSeconds(1000) + absl::Seconds(seconds); }
std::string Reason(const absl::Status& status) { return ErrorReason(status); }

TEST(TicketStates, OnlyTheEdgesOfTheDiagramExist) {
  const std::set<std::pair<S, S>> edges = {
      {S::kNew, S::kReserved},
      {S::kNew, S::kComplete},
      {S::kReserved, S::kReceiving},
      {S::kReserved, S::kCancelled},
      {S::kReserved, S::kExpired},
      {S::kReceiving, S::kComplete},
      {S::kReceiving, S::kCancelPending},
      {S::kComplete, S::kTaken},
      {S::kComplete, S::kCancelled},
      {S::kCancelPending, S::kCancelled},
  };
  for (int from = 0; from <= static_cast<int>(S::kExpired); ++from) {
    bool any = false;
    for (int to = 0; to <= static_cast<int>(S::kExpired); ++to) {
      const auto a = static_cast<S>(from), b = static_cast<S>(to);
      EXPECT_EQ(CanMove(a, b), edges.count({a, b}) > 0)
          << TicketStateName(a) << " -> " << TicketStateName(b);
      any |= CanMove(a, b);
    }
    EXPECT_EQ(IsTerminal(static_cast<S>(from)), !any);
  }
}

class ReservationTest : public ::testing::Test {
 protected:
  Reservation Make(int64_t rows = 4) { return {"t", Shape(rows), At(30), source_}; }
  std::unique_ptr<Rows> NewRows() { return std::make_unique<Rows>(&alive_); }
  std::atomic<int> alive_{0};
  CancelSource source_;
};

TEST_F(ReservationTest, HandsTheEmbeddingsOverOnce) {
  Reservation ticket = Make();
  EXPECT_EQ(ticket.state(), S::kReserved);
  ASSERT_TRUE(ticket.BeginReceive().ok());
  EXPECT_EQ(ticket.state(), S::kReceiving);
  ASSERT_TRUE(ticket.Complete(NewRows()).ok());
  EXPECT_TRUE(ticket.complete());
  auto rows = ticket.Take();
  ASSERT_TRUE(rows.has_value());
  EXPECT_NE(*rows, nullptr);
  rows.reset();
  EXPECT_FALSE(ticket.Take().has_value());
  EXPECT_EQ(ticket.state(), S::kTaken);
  EXPECT_EQ(alive_, 0);
}

TEST_F(ReservationTest, IsCompleteAtOnceWithoutImages) {
  Reservation ticket = Make(0);
  EXPECT_TRUE(ticket.complete());
  EXPECT_EQ(Reason(ticket.BeginReceive()), "TICKET_REUSED");
  const auto rows = ticket.Take();
  ASSERT_TRUE(rows.has_value());
  EXPECT_EQ(*rows, nullptr);
}

TEST_F(ReservationTest, ServedFromTheCacheItIgnoresItsWriter) {
  Reservation unannounced = Make();
  unannounced.EmbeddingsNotNeeded(/*push_expected=*/false);
  EXPECT_EQ(Reason(unannounced.BeginReceive()), "TICKET_UNKNOWN");
  EXPECT_FALSE(unannounced.ExpireIfDue(At(1000), errors::WorkerLost("vision")));
  Reservation late = Make();
  late.EmbeddingsNotNeeded(/*push_expected=*/true);
  EXPECT_FALSE(late.ExpireIfDue(At(1000), errors::WorkerLost("vision")));
  ASSERT_TRUE(late.BeginReceive().ok());
  ASSERT_TRUE(late.Complete(NewRows()).ok());
  EXPECT_EQ(alive_, 0) << "dropped as they come";
  Reservation complete = Make();
  ASSERT_TRUE(complete.BeginReceive().ok());
  ASSERT_TRUE(complete.Complete(NewRows()).ok());
  complete.EmbeddingsNotNeeded(/*push_expected=*/true);
  EXPECT_EQ(alive_, 0);
  Reservation writing = Make();
  ASSERT_TRUE(writing.BeginReceive().ok());
  writing.EmbeddingsNotNeeded(/*push_expected=*/true);
  writing.WriterLeft(errors::WorkerLost("vision"));
  EXPECT_TRUE(source_.token().Check().ok()) << "the request does not end with it";
}

TEST_F(ReservationTest, RefusesASecondWriterInEveryState) {
  Reservation ticket = Make();
  ASSERT_TRUE(ticket.BeginReceive().ok());
  EXPECT_EQ(Reason(ticket.BeginReceive()), "TICKET_REUSED");
  ASSERT_TRUE(ticket.Complete(NewRows()).ok());
  EXPECT_EQ(Reason(ticket.BeginReceive()), "TICKET_REUSED");
  ticket.Take();
  EXPECT_EQ(Reason(ticket.BeginReceive()), "TICKET_REUSED");
  Reservation cancelled = Make();
  cancelled.Cancel(errors::Cancelled());
  EXPECT_EQ(Reason(cancelled.BeginReceive()), "TICKET_UNKNOWN");
}

TEST_F(ReservationTest, CancelWhileAWriterIsInsideWaitsForItToLeave) {
  Reservation ticket = Make();
  ASSERT_TRUE(ticket.BeginReceive().ok());
  ticket.Cancel(errors::DeadlineExceeded());
  EXPECT_EQ(ticket.state(), S::kCancelPending);
  EXPECT_EQ(Reason(source_.token().Check()), "DEADLINE_EXCEEDED");
  EXPECT_EQ(Reason(ticket.Complete(NewRows())), "DEADLINE_EXCEEDED");
  EXPECT_EQ(ticket.state(), S::kCancelled);
  EXPECT_EQ(alive_, 0) << "rows of a cancelled ticket are dropped";
}

TEST_F(ReservationTest, AWriterThatFailsEndsTheRequestWithItsReason) {
  Reservation ticket = Make();
  ASSERT_TRUE(ticket.BeginReceive().ok());
  ticket.WriterLeft(errors::WorkerLost("vision"));
  EXPECT_EQ(ticket.state(), S::kCancelled);
  EXPECT_EQ(Reason(source_.token().Check()), "WORKER_LOST");
}

TEST_F(ReservationTest, TheFirstReasonWins) {
  Reservation ticket = Make();
  ASSERT_TRUE(ticket.BeginReceive().ok());
  ticket.Cancel(errors::Cancelled());
  ticket.WriterLeft(errors::WorkerLost("vision"));
  EXPECT_EQ(Reason(source_.token().Check()), "CANCELLED");
}

TEST_F(ReservationTest, CancelFreesEmbeddingsThatWereNotTaken) {
  Reservation ticket = Make();
  ASSERT_TRUE(ticket.BeginReceive().ok());
  ASSERT_TRUE(ticket.Complete(NewRows()).ok());
  EXPECT_EQ(alive_, 1);
  ticket.Cancel(errors::Cancelled());
  EXPECT_EQ(alive_, 0);
  EXPECT_EQ(ticket.state(), S::kCancelled);
}

TEST_F(ReservationTest, ExpiresOnlyWithoutAWriterAndOnlyWhenDue) {
  Reservation waiting = Make();
  EXPECT_FALSE(waiting.ExpireIfDue(At(29), errors::WorkerLost("vision")));
  EXPECT_TRUE(waiting.ExpireIfDue(At(30), errors::WorkerLost("vision")));
  EXPECT_EQ(waiting.state(), S::kExpired);
  EXPECT_EQ(Reason(waiting.BeginReceive()), "TICKET_UNKNOWN");
  Reservation receiving = Make();
  ASSERT_TRUE(receiving.BeginReceive().ok());
  EXPECT_FALSE(receiving.ExpireIfDue(At(99), errors::WorkerLost("vision")));
}

TEST_F(ReservationTest, CancelIsIdempotentInEveryState) {
  for (int steps = 0; steps < 4; ++steps) {
    Reservation ticket = Make();
    if (steps > 0) {
      ASSERT_TRUE(ticket.BeginReceive().ok());
    }
    if (steps > 1) {
      ASSERT_TRUE(ticket.Complete(NewRows()).ok());
    }
    if (steps > 2) ticket.Take();
    ticket.Cancel(errors::Cancelled());
    const S once = ticket.state();
    ticket.Cancel(errors::Cancelled());
    EXPECT_EQ(ticket.state(), once);
    if (once == S::kCancelPending) ticket.WriterLeft(errors::Cancelled());
    EXPECT_TRUE(IsTerminal(ticket.state()));
  }
  EXPECT_EQ(alive_, 0);
}

TEST_F(ReservationTest, WriterAndCancelOnTwoThreadsAlwaysEndInATerminalState) {
  for (int round = 0; round < 2000; ++round) {
    Reservation ticket = Make();
    std::thread writer([&] {
      if (!ticket.BeginReceive().ok()) return;
      auto rows = NewRows();
      if (round % 3 == 0) {
        ticket.WriterLeft(errors::WorkerLost("vision"));
      } else {
        (void)ticket.Complete(std::move(rows));
      }
    });
    ticket.Cancel(errors::Cancelled());
    writer.join();
    const S end = ticket.state();
    // A writer that came after the cancel was refused; one that came before has left.
    EXPECT_EQ(end, S::kCancelled) << TicketStateName(end);
    EXPECT_EQ(alive_, 0);
  }
}

TEST_F(ReservationTest, ReaderAndCancelOnTwoThreadsNeverMeetInAStateThatDoesNotExist) {
  for (int round = 0; round < 2000; ++round) {
    Reservation ticket = Make();
    ASSERT_TRUE(ticket.BeginReceive().ok());
    ASSERT_TRUE(ticket.Complete(NewRows()).ok());
    ASSERT_TRUE(ticket.complete());
    std::thread client([&] { ticket.Cancel(errors::Cancelled()); });
    const bool taken = ticket.Take().has_value();
    client.join();
    EXPECT_EQ(ticket.state(), taken ? S::kTaken : S::kCancelled);
    EXPECT_EQ(alive_, 0);
  }
}

class TicketTableTest : public ::testing::Test {
 protected:
  TicketTableTest() {
    TicketTable::Options options;
    options.max_tombstones = 3;
    options.max_waiters = 2;
    table_ = std::make_unique<TicketTable>(options);
  }
  std::shared_ptr<Reservation> Reserve(const std::string& id, double at = 0) {
    auto ticket = table_->Reserve(id, Shape(), CancelSource(), At(at));
    EXPECT_TRUE(ticket.ok()) << ticket.status();
    return ticket.ok() ? *ticket : nullptr;
  }
  // What a writer of `id` hears; "" while it hears nothing.
  std::shared_ptr<std::string> Await(const std::string& id, double until = 2) {
    auto heard = std::make_shared<std::string>();
    table_->Await(id, At(until), [heard](absl::StatusOr<std::shared_ptr<Reservation>> ticket) {
      *heard += ticket.ok() ? "ticket" : ErrorReason(ticket.status());
    });
    return heard;
  }
  void Sweep(double at) { table_->Sweep(At(at), errors::WorkerLost("vision")); }
  std::unique_ptr<TicketTable> table_;
};

TEST_F(TicketTableTest, FindsALiveTicketAtOnce) {
  Reserve("a");
  EXPECT_EQ(*Await("a"), "ticket");
  EXPECT_EQ(table_->live(), 1u);
}

TEST_F(TicketTableTest, AWriterMayComeBeforeItsRequest) {
  auto heard = Await("a");
  EXPECT_EQ(*heard, "");
  Reserve("a", 1);
  EXPECT_EQ(*heard, "ticket");
  EXPECT_EQ(table_->waiters(), 0u);
}

TEST_F(TicketTableTest, AWriterWithoutARequestIsRefusedWhenItsTimeIsUp) {
  auto heard = Await("a");
  Sweep(1.9);
  EXPECT_EQ(*heard, "");
  Sweep(2);
  EXPECT_EQ(*heard, "TICKET_UNKNOWN");
}

TEST_F(TicketTableTest, ARefusedRequestRefusesItsWriterAtOnceBeforeAndAfter) {
  auto before = Await("a");
  table_->Refuse("a", At(0));
  EXPECT_EQ(*before, "TICKET_UNKNOWN");
  EXPECT_EQ(*Await("a"), "TICKET_UNKNOWN");
}

TEST_F(TicketTableTest, CancelBeforeReserveLeavesATombstone) {
  table_->Refuse("a", At(0));
  auto ticket = table_->Reserve("a", Shape(), CancelSource(), At(1));
  EXPECT_EQ(Reason(ticket.status()), "TICKET_REUSED");
}

TEST_F(TicketTableTest, ATicketCannotBeUsedTwice) {
  auto ticket = Reserve("a");
  EXPECT_EQ(Reason(table_->Reserve("a", Shape(), CancelSource(), At(0)).status()), "TICKET_REUSED");
  ASSERT_TRUE(ticket->BeginReceive().ok());
  ASSERT_TRUE(ticket->Complete(nullptr).ok());
  ticket->Take();
  table_->Release("a", At(1));
  EXPECT_EQ(table_->live(), 0u);
  EXPECT_EQ(Reason(table_->Reserve("a", Shape(), CancelSource(), At(2)).status()), "TICKET_REUSED");
  EXPECT_EQ(*Await("a"), "TICKET_REUSED");
}

TEST_F(TicketTableTest, RefusingATicketThatLivesLeavesItAlone) {
  auto ticket = Reserve("a");
  table_->Refuse("a", At(0));
  EXPECT_EQ(*Await("a"), "ticket");
  EXPECT_EQ(ticket->state(), S::kReserved);
}

TEST_F(TicketTableTest, ReleaseCancelsAWriterThatIsInside) {
  auto ticket = Reserve("a");
  ASSERT_TRUE(ticket->BeginReceive().ok());
  table_->Release("a", At(1));
  EXPECT_EQ(ticket->state(), S::kCancelPending);
  EXPECT_TRUE(ticket->token().cancelled());
  ticket->WriterLeft(errors::Cancelled());
  EXPECT_EQ(ticket->state(), S::kCancelled);
}

TEST_F(TicketTableTest, SweepExpiresAReservationWithoutAWriter) {
  auto ticket = Reserve("a");
  Sweep(29);
  EXPECT_FALSE(ticket->token().cancelled());
  Sweep(31);
  EXPECT_EQ(Reason(ticket->token().Check()), "WORKER_LOST");
}

TEST_F(TicketTableTest, SweepEndsARequestWhoseDeadlineHasPassed) {
  bool told = false;
  auto ticket = table_->Reserve("a", Shape(), CancelSource(absl::Now() - absl::Seconds(1)), At(0));
  ASSERT_TRUE(ticket.ok());
  auto watch = (*ticket)->token().OnCancel([&] { told = true; });
  Sweep(0);
  EXPECT_TRUE(told);
  EXPECT_EQ((*ticket)->state(), S::kCancelled);
}

TEST_F(TicketTableTest, TombstonesAreBoundedInNumberAndAge) {
  for (const char* id : {"a", "b", "c", "d"}) table_->Refuse(id, At(0));
  EXPECT_EQ(table_->tombstones(), 3u);
  Sweep(59);
  EXPECT_EQ(table_->tombstones(), 3u);
  Sweep(60);
  EXPECT_EQ(table_->tombstones(), 0u);
}

TEST_F(TicketTableTest, WaitersAreBounded) {
  auto a = Await("a"), b = Await("b"), c = Await("c");
  EXPECT_EQ(*a + *b, "");
  EXPECT_EQ(*c, "TICKET_UNKNOWN");
}

}  // namespace
}  // namespace chord::llm_worker
