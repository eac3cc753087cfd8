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

TEST(ErrorsTest, TheTableFixesCodeAndNameOfEachReason) {
  for (const ReasonInfo& info : kReasons) {
    EXPECT_EQ(ReasonFromName(info.name), info.reason);
    EXPECT_GE(info.http_status, 400) << info.name;
    EXPECT_LE(info.http_status, 505) << info.name;
    EXPECT_TRUE(errors::Is(MakeCatalogued(info.code, info.name, ""), info.reason));
  }
  EXPECT_EQ(ReasonFromName("NO_SUCH_REASON"), std::nullopt);
  EXPECT_EQ(ReasonOf(MakeCatalogued(absl::StatusCode::kInternal, "OF_ANOTHER_RELEASE", "")),
            std::nullopt);
  EXPECT_FALSE(errors::Is(absl::InternalError("INTERNAL"), Reason::kInternal));
  EXPECT_FALSE(errors::Is(absl::OkStatus(), Reason::kInternal));
}

TEST(ErrorsTest, NamesAnUnknownFieldShortAndWithoutControlCharacters) {
  const auto text = [](const std::string& name) {
    return std::string(errors::FieldUnknown(name).message());
  };
  EXPECT_NE(text("colour").find("\"colour\""), std::string::npos);
  EXPECT_NE(text("图片").find("\"图片\""), std::string::npos);
  EXPECT_NE(text("a\"\n\x01").find(R"("a\"\n\x01")"), std::string::npos) << text("a\"\n\x01");
  EXPECT_LT(text(std::string(100'000, 'x')).size(), 200);
  // 21 characters of three bytes and one byte more: the cut falls between characters.
  std::string wide;
  for (int i = 0; i < 30; ++i) wide += "图";
  EXPECT_NE(text(wide).find("图…\""), std::string::npos);
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
