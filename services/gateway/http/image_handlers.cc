#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "services/gateway/http/handlers.h"
#include "services/gateway/http/request_form.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {
namespace {

constexpr absl::string_view kImages = "/api/images/";

http::Response StoredResponse(const ImageService::Kept& stored) {
  return JsonResponse({{"image_id", stored.id},
                       {"image_size", {stored.size.width, stored.size.height}},
                       {"expires_at", absl::FormatTime(absl::RFC3339_sec, stored.expires_at,
                                                       absl::UTCTimeZone())}});
}

}  // namespace

http::Response HandleUpload(const EndpointDeps& deps, const http::Request& request) {
  RequestScope scope(deps.metrics, obs::Method::kUploadImage, request.id, request.client_id,
                     request.received_at);
  scope.set_api_key(request.key);
  const auto upload = [&]() -> absl::StatusOr<ImageService::Kept> {
    CHORD_ASSIGN_OR_RETURN(const UploadForm form, ParseUploadForm(request));
    const absl::string_view file = form.file();
    const auto bytes = static_cast<int64_t>(file.size());
    CHORD_ASSIGN_OR_RETURN(const auto slot, deps.admission.EnterUpload(request.peer, bytes));
    // A file that is refused is not copied.
    CHORD_RETURN_IF_ERROR(deps.images.Plan(file).status());
    CHORD_RETURN_IF_ERROR(deps.images.CheckRoom(bytes, form.pin));
    deps.metrics.ImageReceived(bytes);
    return deps.images.Upload(std::string(file), form.pin);
  };
  const auto stored = upload();
  scope.EndWithout(stored.status());
  return stored.ok() ? StoredResponse(*stored) : RefusalResponse(stored.status(), request);
}

http::Response HandleTouch(const EndpointDeps& deps, const http::Request& request) {
  const auto stored =
      deps.images.Touch(absl::StripPrefix(absl::string_view(request.path), kImages));
  if (stored.ok()) return StoredResponse(*stored);
  Refused(deps.metrics, request.id, stored.status());
  return RefusalResponse(stored.status(), request);
}

http::Response HandleDelete(const EndpointDeps& deps, const http::Request& request) {
  const absl::Status status =
      deps.images.Delete(absl::StripPrefix(absl::string_view(request.path), kImages));
  if (!status.ok()) {
    Refused(deps.metrics, request.id, status);
    return RefusalResponse(status, request);
  }
  http::Response out;
  out.status = 204;
  return out;
}

}  // namespace chord::gateway
