#include "services/gateway/http/web_page.h"

#include <utility>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "services/gateway/http/web_assets.h"

namespace chord::gateway {
namespace {

// Everything comes from this server, no text can become markup or script, and no other page can
// frame this one. blob: and data: are the user's own images.
constexpr absl::string_view kContentSecurityPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'";

http::Fields PageFields() {
  return {{"Cache-Control", "no-cache"},  // kept by browsers, checked by its entity tag
          {"Content-Security-Policy", std::string(kContentSecurityPolicy)},
          {"Cross-Origin-Resource-Policy", "same-origin"},
          {"Permissions-Policy", "camera=(self), microphone=(), geolocation=()"},
          {"Referrer-Policy", "no-referrer"}};
}

http::Route AssetRoute(std::string path, const WebAsset& asset) {
  http::Route route;
  route.method = "GET";
  route.path = std::move(path);
  route.handler = [&asset](const http::Request& request) {
    http::Response out;
    out.fields = PageFields();
    out.fields.emplace_back("ETag", std::string(asset.etag));
    if (MatchesEntityTag(request.field("if-none-match"), asset.etag)) {
      out.status = 304;
      return out;
    }
    out.content_type = std::string(ContentTypeOf(asset.path));
    out.body = std::string(asset.content);
    return out;
  };
  route.quick = true;
  route.any_query = true;  // links to the page may carry parameters of their own
  return route;
}

std::string ConfigJson(const PageConfig& config) {
  const nlohmann::ordered_json json = {
      {"model", config.model},
      {"grpc_address", config.grpc_address},
      {"limits",
       {{"image_bytes", config.max_image_bytes},
        {"image_pixels", config.max_image_pixels},
        {"prompt_bytes", config.max_prompt_bytes}}},
      {"thresholds", {{"review", config.review_threshold}, {"advice", config.advice_threshold}}},
  };
  return json.dump(-1, ' ', /*ensure_ascii=*/false,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

http::Route ConfigRoute(const PageConfig& config) {
  http::Route route;
  route.method = "GET";
  route.path = "/page.json";
  route.handler = [json = ConfigJson(config)](const http::Request&) {
    http::Response out;
    out.content_type = "application/json";
    out.fields = {{"Cache-Control", "no-store"}};
    out.body = json;
    return out;
  };
  route.quick = true;
  route.any_query = true;  // links to the page may carry parameters of their own
  return route;
}

}  // namespace

std::vector<http::Route> WebPageRoutes(const PageConfig& config) {
  std::vector<http::Route> routes;
  for (const WebAsset& asset : EmbeddedAssets()) {
    routes.push_back(AssetRoute(std::string(asset.path), asset));
    if (asset.path == "/index.html") routes.push_back(AssetRoute("/", asset));
  }
  routes.push_back(ConfigRoute(config));
  return routes;
}

}  // namespace chord::gateway
