#include "services/gateway/http_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/http/operational.h"
#include "common/http/problem.h"
#include "common/rpc/answer_json.h"
#include "services/gateway/codec.h"
#include "services/gateway/form.h"
#include "services/gateway/request_scope.h"
#include "services/gateway/web.h"

namespace chord::gateway {
namespace {

absl::StatusOr<GroundResult> Ground(Grounder& grounder, const http::Request& request) {
  auto form = ParseGroundForm(request);
  if (!form.ok()) return form.status();
  auto timeout = RequestTimeout(request);
  if (!timeout.ok()) return timeout.status();
  GroundInput input;
  input.request_id = request.id;
  // Taken here, when the form has its final place: a decoded picture lives in it.
  input.image = form->decoded.empty() ? form->image : absl::string_view(form->decoded);
  input.prompt = std::move(form->prompt);
  input.max_new_tokens = form->max_new_tokens;
  input.received_at = request.received_at;
  if (*timeout) input.deadline = request.received_at + **timeout;
  input.cancel = request.cancel;
  return grounder.Ground(input);
}

http::Response Answer(const absl::StatusOr<GroundResult>& result, const http::Request& request) {
  http::Response out;
  if (!result.ok()) {
    out = http::Problem(result.status(), request.id);
  } else {
    out.content_type = "application/json";
    out.body = rpc::AnswerJson(ToProto(*result)) + "\n";
  }
  out.fields.emplace_back("Cache-Control", "no-store");
  return out;
}

http::Route NotYet(std::string path, std::string feature) {
  http::Route route;
  route.path = std::move(path);
  route.handler = [feature = std::move(feature)](const http::Request& request) {
    return http::Problem(errors::NotImplementedYet(feature), request.id);
  };
  route.body_limit = 1 << 20;  // read so that the connection can go on, then dropped
  route.quick = true;
  return route;
}

http::Route Page(std::string path, std::string content_type, absl::string_view content) {
  http::Route route;
  route.method = "GET";
  route.path = std::move(path);
  route.handler = [content_type = std::move(content_type), content](const http::Request&) {
    http::Response out;
    out.content_type = content_type;
    out.fields = {{"Cache-Control", "no-cache"},
                  {"Content-Security-Policy",
                   "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                   "connect-src 'self'; base-uri 'none'; form-action 'none'; "
                   "frame-ancestors 'none'"},
                  {"Referrer-Policy", "no-referrer"}};
    out.body = std::string(content);
    return out;
  };
  route.quick = true;
  return route;
}

}  // namespace

std::vector<http::Route> HttpRoutes(Grounder& grounder, obs::Metrics& metrics,
                                    std::function<absl::Status()> ready) {
  std::vector<http::Route> routes =
      http::OperationalHandler([&metrics] { return metrics.Serialize(); }, std::move(ready));
  http::Route ground;
  ground.method = "POST";
  ground.path = "/api/ground";
  ground.handler = [&grounder, &metrics](const http::Request& request) {
    RequestScope scope(metrics, obs::Method::kGround, request.id, request.client_id,
                       request.received_at);
    const auto result = Ground(grounder, request);
    scope.End(result);
    return Answer(result, request);
  };
  // Base64 takes four bytes for three; the rest is for the other fields.
  ground.body_limit = (grounder.options().image_limits.max_bytes + 2) / 3 * 4 + (1 << 20);
  ground.admit = [&grounder] { return grounder.Admission(); };
  routes.push_back(std::move(ground));
  routes.push_back(NotYet("/api/ground/batch", "batches over HTTP"));
  routes.push_back(NotYet("/api/images", "pictures kept for many questions"));
  routes.push_back(NotYet("/api/images/*", "pictures kept for many questions"));
  routes.push_back(NotYet("/v1/chat/completions", "the OpenAI protocol"));
  routes.push_back(NotYet("/v1/models", "the OpenAI protocol"));
  routes.push_back(Page("/", "text/html; charset=utf-8", web::kIndexHtml));
  routes.push_back(Page("/app.js", "text/javascript; charset=utf-8", web::kAppJs));
  routes.push_back(Page("/style.css", "text/css; charset=utf-8", web::kStyleCss));
  return routes;
}

}  // namespace chord::gateway
