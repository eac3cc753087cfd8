#include "common/http/cors.h"

#include <gtest/gtest.h>

namespace chord::http {
namespace {

TEST(CorsTest, KnowsWhatAnOriginIs) {
  for (const char* good : {"*", "http://localhost:3000", "https://app.example", "http://127.0.0.1",
                           "https://[::1]:8443"}) {
    EXPECT_TRUE(IsCorsOrigin(good)) << good;
  }
  for (const char* bad : {"", "app.example", "https://", "https://app.example/", "HTTPS://a",
                          "https://A.example", "ftp://a", "null", "https://a:0", "https://a:99999",
                          "https://a b", "https://*.example", "https://a?b"}) {
    EXPECT_FALSE(IsCorsOrigin(bad)) << bad;
  }
}

TEST(CorsTest, AnyOriginNeedsNoVary) {
  const CorsPolicy policy({"*"});
  const Fields fields = policy.ForResponse("https://a");
  ASSERT_EQ(fields.size(), 2);
  EXPECT_EQ(fields[0], (std::pair<std::string, std::string>("Access-Control-Allow-Origin", "*")));
  EXPECT_TRUE(policy.ForResponse("").empty());
}

TEST(CorsTest, APreflightNamesAMethodAndAnAllowedOrigin) {
  const CorsPolicy policy({"https://a"});
  Request request;
  request.method = "OPTIONS";
  request.fields = {{"origin", "https://a"}};
  EXPECT_FALSE(policy.IsPreflight(request));
  request.fields.emplace_back("access-control-request-method", "POST");
  EXPECT_TRUE(policy.IsPreflight(request));
  request.fields[0].second = "https://b";
  EXPECT_FALSE(policy.IsPreflight(request));
  EXPECT_FALSE(CorsPolicy({}).IsPreflight(request));
}

}  // namespace
}  // namespace chord::http
