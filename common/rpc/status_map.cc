#include "common/rpc/status_map.h"

#include <google/protobuf/util/time_util.h>

#include <string>

#include "common/base/errors.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace chord::rpc {
namespace {
constexpr char kDomain[] = "chord.dev";
}

grpc::Status ToGrpc(const absl::Status& status, absl::string_view request_id) {
  if (status.ok()) return grpc::Status::OK;
  const absl::Status shown = ForClient(status);
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(shown.code()));
  rich.set_message(std::string(shown.message()));
  google::rpc::ErrorInfo info;
  info.set_reason(ErrorReason(shown));
  info.set_domain(kDomain);
  if (!request_id.empty()) (*info.mutable_metadata())["request_id"] = std::string(request_id);
  rich.add_details()->PackFrom(info);
  if (const absl::Duration wait = RetryAfter(shown); wait > absl::ZeroDuration()) {
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(absl::ToInt64Milliseconds(wait));
    rich.add_details()->PackFrom(retry);
  }
  // absl and gRPC share the numbers of the canonical codes.
  return grpc::Status(static_cast<grpc::StatusCode>(shown.code()), rich.message(),
                      rich.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  google::rpc::Status rich;
  if (rich.ParseFromString(status.error_details())) {
    std::string reason;
    absl::Duration retry = absl::ZeroDuration();
    for (const auto& detail : rich.details()) {
      google::rpc::ErrorInfo info;
      google::rpc::RetryInfo retry_info;
      if (detail.Is<google::rpc::ErrorInfo>() && detail.UnpackTo(&info) &&
          info.domain() == kDomain) {
        reason = info.reason();
      } else if (detail.Is<google::rpc::RetryInfo>() && detail.UnpackTo(&retry_info)) {
        retry = absl::Milliseconds(
            google::protobuf::util::TimeUtil::DurationToMilliseconds(retry_info.retry_delay()));
      }
    }
    if (!reason.empty()) return MakeCatalogued(code, reason, status.error_message(), retry);
  }
  return absl::Status(code, status.error_message());
}

}  // namespace chord::rpc
