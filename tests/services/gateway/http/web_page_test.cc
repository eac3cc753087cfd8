#include "services/gateway/http/web_page.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/gateway/http/web_assets.h"

namespace chord::gateway {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

PageConfig Config() {
  PageConfig config;
  config.model = "a \"quoted\" model";
  config.grpc_address = "127.0.0.1:50051";
  config.max_image_bytes = 20 << 20;
  config.max_image_pixels = 50'000'000;
  config.max_prompt_bytes = 4096;
  config.review_threshold = 0.7;
  config.advice_threshold = 0.75;
  return config;
}

// The answer of the page to GET `path`; 404 when it has no such route.
http::Response Get(absl::string_view path, http::Fields fields = {}) {
  for (const http::Route& route : WebPageRoutes(Config())) {
    if (route.path != path) continue;
    EXPECT_EQ(route.method, "GET");
    EXPECT_TRUE(route.quick) << "a page must open while all handlers are busy";
    http::Request request;
    request.method = "GET";
    request.path = std::string(path);
    request.fields = std::move(fields);
    return route.handler(request);
  }
  http::Response missing;
  missing.status = 404;
  return missing;
}

std::string Field(const http::Response& response, absl::string_view name) {
  for (const auto& [key, value] : response.fields) {
    if (key == name) return value;
  }
  return "";
}

// What follows `marker` in `text` up to the next `end`, for every occurrence.
std::set<std::string> Between(absl::string_view text, absl::string_view marker, char end) {
  std::set<std::string> out;
  for (size_t at = text.find(marker); at != absl::string_view::npos; at = text.find(marker, at)) {
    at += marker.size();
    out.insert(std::string(text.substr(at, text.find(end, at) - at)));
  }
  return out;
}

TEST(WebAssetsTest, TellsTheMediaTypeByTheExtension) {
  EXPECT_EQ(ContentTypeOf("/index.html"), "text/html; charset=utf-8");
  EXPECT_EQ(ContentTypeOf("/js/viewer.js"), "text/javascript; charset=utf-8");
  EXPECT_EQ(ContentTypeOf("/css/base.css"), "text/css; charset=utf-8");
  EXPECT_EQ(ContentTypeOf("/icon.svg"), "image/svg+xml");
  EXPECT_EQ(ContentTypeOf("/samples/fruit.webp"), "image/webp");
  EXPECT_EQ(ContentTypeOf("/unknown.xyz"), "application/octet-stream");
  EXPECT_EQ(ContentTypeOf("/none"), "application/octet-stream");
}

TEST(WebAssetsTest, ComparesEntityTagsWeakly) {
  EXPECT_TRUE(MatchesEntityTag(R"("a")", R"("a")"));
  EXPECT_TRUE(MatchesEntityTag(R"(W/"a")", R"("a")"));
  EXPECT_TRUE(MatchesEntityTag(R"("x", "y" , "a")", R"("a")"));
  EXPECT_TRUE(MatchesEntityTag("*", R"("a")"));
  EXPECT_FALSE(MatchesEntityTag("", R"("a")"));
  EXPECT_FALSE(MatchesEntityTag("a", R"("a")"));
  EXPECT_FALSE(MatchesEntityTag(R"("ab")", R"("a")"));
}

TEST(WebAssetsTest, EmbedsBytesAsTheyAre) {
  const auto assets = EmbeddedAssets();
  const auto sample = std::find_if(assets.begin(), assets.end(), [](const WebAsset& asset) {
    return asset.path == "/samples/fruit.webp";
  });
  ASSERT_NE(sample, assets.end());
  EXPECT_TRUE(absl::StartsWith(sample->content, "RIFF"));
  EXPECT_THAT(sample->content, HasSubstr("WEBP"));
  EXPECT_THAT(sample->content, HasSubstr(std::string(1, '\0')));
  std::set<std::string> tags;
  for (const WebAsset& asset : assets) tags.insert(std::string(asset.etag));
  EXPECT_EQ(tags.size(), assets.size()) << "different files have different tags";
}

TEST(WebPageTest, ServesEveryFileWithItsTypeTagAndPolicy) {
  ASSERT_GT(EmbeddedAssets().size(), 20u);
  for (const WebAsset& asset : EmbeddedAssets()) {
    SCOPED_TRACE(asset.path);
    const http::Response answer = Get(asset.path);
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.content_type, ContentTypeOf(asset.path));
    EXPECT_NE(answer.content_type, "application/octet-stream");
    EXPECT_EQ(answer.body, asset.content);
    EXPECT_EQ(Field(answer, "ETag"), asset.etag);
    EXPECT_EQ(Field(answer, "Cache-Control"), "no-cache");
    EXPECT_EQ(Field(answer, "Referrer-Policy"), "no-referrer");
    const std::string policy = Field(answer, "Content-Security-Policy");
    EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
    EXPECT_THAT(policy, HasSubstr("script-src 'self'"));
    EXPECT_THAT(policy, HasSubstr("frame-ancestors 'none'"));
    EXPECT_THAT(policy, HasSubstr("require-trusted-types-for 'script'"));
    EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
    EXPECT_THAT(policy, Not(HasSubstr("http")));
  }
  EXPECT_EQ(Get("/").body, Get("/index.html").body);
  EXPECT_EQ(Get("/embed.cmake").status, 404);
}

TEST(WebPageTest, AnswersNotModifiedToAKnownTag) {
  const std::string tag = Field(Get("/app.js"), "ETag");
  const http::Response known = Get("/app.js", {{"if-none-match", tag}});
  EXPECT_EQ(known.status, 304);
  EXPECT_EQ(known.body, "");
  EXPECT_EQ(known.content_type, "");
  EXPECT_EQ(Field(known, "ETag"), tag);
  EXPECT_EQ(Get("/app.js", {{"if-none-match", "\"other\""}}).status, 200);
}

TEST(WebPageTest, EveryFileThatIsNamedIsThere) {
  const std::string page = Get("/").body;
  for (const absl::string_view marker : {"href=\"", "src=\""}) {
    for (const std::string& name : Between(page, marker, '"')) {
      if (absl::StartsWith(name, "#")) continue;
      EXPECT_EQ(Get(absl::StrCat("/", name)).status, 200) << name;
    }
  }
  for (const WebAsset& asset : EmbeddedAssets()) {
    if (!absl::EndsWith(asset.path, ".js")) continue;
    const absl::string_view folder = asset.path.substr(0, asset.path.rfind('/') + 1);
    for (const std::string& name : Between(asset.content, "from './", '\'')) {
      EXPECT_EQ(Get(absl::StrCat(folder, name)).status, 200) << asset.path << ": " << name;
    }
  }
}

TEST(WebPageTest, HasNothingInlineThatThePolicyForbids) {
  const std::string page = Get("/").body;
  EXPECT_THAT(page, Not(HasSubstr("style=")));
  EXPECT_THAT(page, Not(HasSubstr("<style")));
  EXPECT_THAT(page, Not(HasSubstr("onclick")));
  EXPECT_THAT(page, Not(HasSubstr("http://")));
  EXPECT_THAT(page, Not(HasSubstr("https://")));
}

TEST(WebPageTest, TellsThePageWhatThisServerTakes) {
  const http::Response answer = Get("/page.json");
  EXPECT_EQ(answer.content_type, "application/json");
  EXPECT_THAT(answer.fields, Contains(Pair("Cache-Control", "no-store")));
  const auto json = nlohmann::json::parse(answer.body);
  EXPECT_EQ(json["model"], "a \"quoted\" model");
  EXPECT_EQ(json["grpc_address"], "127.0.0.1:50051");
  EXPECT_EQ(json["limits"]["image_bytes"], 20 << 20);
  EXPECT_EQ(json["limits"]["image_pixels"], 50'000'000);
  EXPECT_EQ(json["limits"]["prompt_bytes"], 4096);
  EXPECT_EQ(json["thresholds"]["review"], 0.7);
  EXPECT_EQ(json["thresholds"]["advice"], 0.75);
}

}  // namespace
}  // namespace chord::gateway
