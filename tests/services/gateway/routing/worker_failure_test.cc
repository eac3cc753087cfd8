#include "services/gateway/routing/worker_failure.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

TEST(WorkerErrorForClient, KeepsWhatAClientCanUnderstand) {
  EXPECT_TRUE(WorkerErrorForClient(absl::OkStatus(), "vision").ok());
  for (const absl::Status& status :
       {errors::DeadlineExceeded(), errors::Overloaded(absl::Seconds(2)),
        errors::ImageCorrupt("PNG"), errors::PromptTokensLimit(9, 8), errors::Internal()}) {
    EXPECT_EQ(WorkerErrorForClient(status, "vision"), status);
  }
}

TEST(WorkerErrorForClient, HidesReasonsBetweenOurProcesses) {
  for (const absl::Status& status : {errors::TicketUnknown(), errors::TicketReused(),
                                     errors::EmbeddingNotFinite(), errors::PeerUnknown()}) {
    EXPECT_THAT(WorkerErrorForClient(status, "language"), HasReason(Reason::kInternal)) << status;
  }
}

TEST(WorkerErrorForClient, MapsErrorsOfTheTransportByTheirCode) {
  const struct {
    absl::Status end;
    const char* reason;
  } cases[] = {{absl::UnavailableError("Socket closed"), "WORKER_LOST"},
               {absl::UnknownError("Stream removed"), "WORKER_LOST"},
               {absl::InternalError("RST_STREAM 0x7ffd"), "WORKER_LOST"},
               {absl::CancelledError("CANCELLED"), "WORKER_LOST"},
               {absl::DeadlineExceededError("Deadline Exceeded"), "DEADLINE_EXCEEDED"},
               {absl::ResourceExhaustedError("larger than max"), "OVERLOADED"},
               {absl::UnimplementedError(""), "WORKER_UNAVAILABLE"},
               {errors::Cancelled(), "WORKER_LOST"},
               {errors::ShuttingDown(), "WORKER_UNAVAILABLE"}};
  for (const auto& c : cases) {
    const absl::Status out = WorkerErrorForClient(c.end, "vision");
    EXPECT_EQ(ErrorReason(out), c.reason) << c.end;
    EXPECT_TRUE(IsCatalogued(out));
    EXPECT_EQ(out.message().find("0x"), absl::string_view::npos);
  }
}

TEST(IsEcho, KnowsTheFailuresThatOnlyFollowTheOtherCall) {
  for (const absl::Status& status :
       {errors::TicketUnknown(), errors::Cancelled(), errors::WorkerLost("language"),
        absl::CancelledError("CANCELLED")}) {
    EXPECT_TRUE(IsEcho(status)) << status;
  }
  for (const absl::Status& status :
       {absl::OkStatus(), errors::ImageCorrupt("PNG"), errors::DeadlineExceeded(),
        absl::UnavailableError("Socket closed")}) {
    EXPECT_FALSE(IsEcho(status)) << status;
  }
}

TEST(JudgeFailure, BlamesTheCallThatBrokeByItself) {
  using Where = WorkerFailure::Where;
  const absl::Status ok, echo = errors::TicketUnknown(), broken = absl::UnavailableError("");
  const struct {
    std::optional<absl::Status> decode, encode;
    Where where;
    const char* reason;
    bool worker_lost;
  } cases[] = {
      {broken, std::nullopt, Where::kLanguage, "WORKER_LOST", true},
      {broken, ok, Where::kLanguage, "WORKER_LOST", true},
      {broken, broken, Where::kLanguage, "WORKER_LOST", true},
      {echo, broken, Where::kVision, "WORKER_LOST", true},
      {errors::Cancelled(), errors::ImageCorrupt("PNG"), Where::kVision, "IMAGE_CORRUPT", false},
      {errors::PromptTokensLimit(9, 8), echo, Where::kLanguage, "PROMPT_TOO_MANY_TOKENS", false},
      {echo, errors::Cancelled(), Where::kVision, "WORKER_LOST", true},
      {std::nullopt, broken, Where::kVision, "WORKER_LOST", true},
      {std::nullopt, errors::WorkerLost("language"), Where::kBetween, "WORKER_LOST", true},
      {errors::ShuttingDown(), std::nullopt, Where::kLanguage, "WORKER_UNAVAILABLE", true},
      {errors::Overloaded(absl::Seconds(1)), std::nullopt, Where::kLanguage, "OVERLOADED", false},
      {std::nullopt, std::nullopt, Where::kNeither, "INTERNAL", false},
      {ok, ok, Where::kNeither, "INTERNAL", false},
  };
  for (const auto& c : cases) {
    const WorkerFailure failure = JudgeFailure(c.decode, c.encode);
    const size_t row = static_cast<size_t>(&c - cases);
    EXPECT_EQ(failure.where, c.where) << row;
    EXPECT_EQ(ErrorReason(failure.status), c.reason) << row;
    EXPECT_EQ(failure.worker_lost, c.worker_lost) << row;
    EXPECT_FALSE(failure.not_known) << row;
  }
}

TEST(JudgeFailure, ALanguageWorkerThatTheVisionWorkerDoesNotKnowIsAvoided) {
  const WorkerFailure failure = JudgeFailure(errors::Cancelled(), errors::PeerUnknown());
  EXPECT_EQ(failure.where, WorkerFailure::Where::kLanguage);
  EXPECT_THAT(failure.status, HasReason(Reason::kWorkerUnavailable));
  EXPECT_TRUE(failure.worker_lost);
  EXPECT_TRUE(failure.not_known);
}

}  // namespace
}  // namespace chord::gateway
