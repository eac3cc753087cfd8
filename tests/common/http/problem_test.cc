#include "common/http/problem.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/base/errors.h"

namespace chord::http {
namespace {

TEST(Problem, MapsReasonsAndCodesToTheStatusThatTellsMost) {
  const std::pair<absl::Status, int> cases[] = {
      {errors::ImageMissing(), 400},
      {errors::PromptEmpty(), 400},
      {errors::ParameterInvalid("x", "y"), 400},
      {errors::ImageCorrupt("PNG"), 400},
      {errors::FrameMismatch(), 400},
      {errors::ImageBytesLimit(2, 1), 413},
      {errors::BodyTooLarge(1), 413},
      {errors::ImageFormatUnknown(), 415},
      {errors::ImageFormatUnsupported("GIF"), 415},
      {errors::ContentTypeUnsupported("x"), 415},
      {errors::RouteUnknown(), 404},
      {errors::ImageIdUnknown(), 404},
      {errors::MethodNotAllowed("GET"), 405},
      {errors::RequestTimeout(), 408},
      {errors::Overloaded(absl::Seconds(1)), 429},
      {errors::Cancelled(), 499},
      {errors::Internal(), 500},
      {errors::NotImplementedYet("x"), 501},
      {errors::WorkerLost("vision"), 503},
      {errors::ModelMismatch(), 503},
      {errors::DeadlineExceeded(), 504},
  };
  for (const auto& [status, http] : cases) EXPECT_EQ(HttpStatus(status), http) << status;
}

TEST(Problem, HasEveryMemberOfTheContract) {
  const Response response = Problem(errors::Overloaded(absl::Milliseconds(1200)), "req_1");
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.content_type, "application/problem+json");
  const auto body = nlohmann::json::parse(response.body);
  EXPECT_EQ(body["type"], "urn:chord:error:overloaded");
  EXPECT_EQ(body["title"], "Too Many Requests");
  EXPECT_EQ(body["status"], 429);
  EXPECT_EQ(body["code"], "OVERLOADED");
  EXPECT_EQ(body["request_id"], "req_1");
  EXPECT_FALSE(body["detail"].get<std::string>().empty());
  EXPECT_DOUBLE_EQ(body["retry_after_seconds"], 1.2);
  ASSERT_EQ(response.fields.size(), 1);
  EXPECT_EQ(response.fields[0].second, "2");
}

TEST(Problem, ShowsNothingThatIsNotFromTheCatalogue) {
  const Response response =
      Problem(absl::InternalError("/root/x.cc:12 torch threw at 0xdeadbeef"), "req_1");
  EXPECT_EQ(response.status, 500);
  for (const char* leak : {"0x", ".cc", "torch", "/root"}) {
    EXPECT_EQ(response.body.find(leak), std::string::npos);
  }
}

}  // namespace
}  // namespace chord::http
