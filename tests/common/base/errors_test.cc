#include "common/base/errors.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"

namespace chord {
namespace {

TEST(ErrorsTest, CatalogueErrorsKeepTheirTextForClients) {
  const absl::Status status = errors::ImagePixelLimit(19000, 19000, limits::kDefaultImagePixels);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "IMAGE_TOO_LARGE");
  EXPECT_EQ(ForClient(status), status);
}

TEST(ErrorsTest, ForeignTextNeverReachesAClient) {
  const absl::Status shown = ForClient(absl::InternalError("/home/x: torch 0xdeadbeef"));
  EXPECT_EQ(ErrorReason(shown), "INTERNAL");
  EXPECT_EQ(std::string(shown.message()).find("0x"), std::string::npos);
  EXPECT_EQ(ErrorReason(ForClient(absl::CancelledError("library text"))), "CANCELLED");
}

TEST(ErrorsTest, RetryTimeTravels) {
  EXPECT_EQ(RetryAfter(errors::Overloaded(absl::Milliseconds(250))), absl::Milliseconds(250));
  EXPECT_EQ(RetryAfter(errors::PromptEmpty()), absl::ZeroDuration());
}

TEST(ErrorsTest, TextIsCapped) {
  const absl::Status status = errors::CheckpointInvalid(std::string(100'000, 'x'));
  EXPECT_LE(static_cast<int64_t>(status.message().size()), limits::kMaxErrorTextBytes);
}

}  // namespace
}  // namespace chord
