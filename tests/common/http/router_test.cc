#include "common/http/router.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"

namespace chord::http {
namespace {

Router Routes() {
  return Router({{.method = "GET", .path = "/a"},
                 {.method = "POST", .path = "/a", .query = {"x"}},
                 {.method = "GET", .path = "/tree/*"},
                 {.method = "", .path = "/any", .any_query = true}});
}

TEST(RouterTest, FindsTheRouteOfMethodAndPath) {
  const Router router = Routes();
  EXPECT_EQ(router.Find("GET", "/a", "").route->method, "GET");
  EXPECT_EQ(router.Find("POST", "/a", "").route->method, "POST");
  EXPECT_EQ(router.Find("HEAD", "/a", "").route->method, "GET");
  EXPECT_EQ(router.Find("GET", "/tree/b/c", "").route->path, "/tree/*");
  EXPECT_EQ(router.Find("BREW", "/any", "").route->path, "/any");
}

TEST(RouterTest, SaysWhyThereIsNone) {
  const Router router = Routes();
  EXPECT_TRUE(errors::Is(router.Find("GET", "/b", "").problem, Reason::kRouteUnknown));
  EXPECT_TRUE(errors::Is(router.Find("OPTIONS", "/b", "").problem, Reason::kRouteUnknown));
  const Routed wrong = router.Find("PUT", "/a", "");
  EXPECT_TRUE(errors::Is(wrong.problem, Reason::kMethodNotAllowed));
  EXPECT_EQ(wrong.allow, "GET, HEAD, POST, OPTIONS");
  EXPECT_EQ(wrong.route->path, "/a") << "for the log";
}

TEST(RouterTest, AnswersOptionsItself) {
  const Router router = Routes();
  for (const char* path : {"/a", "*"}) {
    const Routed routed = router.Find("OPTIONS", path, "");
    EXPECT_TRUE(routed.options) << path;
    EXPECT_EQ(routed.route, nullptr) << path;
    EXPECT_TRUE(routed.problem.ok()) << path;
  }
  EXPECT_FALSE(router.Find("OPTIONS", "/any", "").options) << "the route takes every method";
}

TEST(RouterTest, RefusesUnknownQueryParameters) {
  const Router router = Routes();
  EXPECT_TRUE(router.Find("POST", "/a", "x=1&x&&").problem.ok());
  EXPECT_TRUE(router.Find("GET", "/any", "y").problem.ok());
  for (const char* query : {"y", "x=1&y=2", "=1", "X"}) {
    EXPECT_TRUE(errors::Is(router.Find("POST", "/a", query).problem, Reason::kFieldUnknown))
        << query;
  }
}

}  // namespace
}  // namespace chord::http
