#include "services/gateway/routing/worker_calls.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"

namespace chord::gateway {
namespace {

TEST(ForOutside, KeepsWhatAClientCanUnderstand) {
  EXPECT_TRUE(ForOutside(absl::OkStatus(), "vision").ok());
  for (const absl::Status& status :
       {errors::DeadlineExceeded(), errors::Overloaded(absl::Seconds(2)),
        errors::ImageCorrupt("PNG"), errors::PromptTokensLimit(9, 8), errors::Internal()}) {
    EXPECT_EQ(ForOutside(status, "vision"), status);
  }
}

TEST(ForOutside, HidesWhatOnlyOurProcessesUnderstand) {
  for (const absl::Status& status : {errors::TicketUnknown(), errors::TicketReused(),
                                     errors::EmbeddingNotFinite(), errors::PeerUnknown()}) {
    EXPECT_EQ(ErrorReason(ForOutside(status, "language")), "INTERNAL") << status;
  }
}

TEST(ForOutside, TellsTheTransportsWordsByTheirCode) {
  const struct {
    absl::Status leg;
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
    const absl::Status out = ForOutside(c.leg, "vision");
    EXPECT_EQ(ErrorReason(out), c.reason) << c.leg;
    EXPECT_TRUE(IsCatalogued(out));
    EXPECT_EQ(out.message().find("0x"), absl::string_view::npos);
  }
}

TEST(IsEcho, KnowsTheFailuresThatOnlyFollowTheOtherLegs) {
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

}  // namespace
}  // namespace chord::gateway
