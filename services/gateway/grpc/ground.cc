#include "services/gateway/grpc/ground_call.h"

namespace chord::gateway {
namespace {

class GroundCall final : public RequestCall<grpc::ServerUnaryReactor> {
 public:
  GroundCall(const EndpointDeps& deps, grpc::CallbackServerContext* context,
             const grpc::ByteBuffer* request, grpc::ByteBuffer* response)
      : RequestCall(deps, context, request, obs::Method::kGround), response_(response) {}

 private:
  void OnEnd(const absl::Status& status) override {
    if (status.ok()) *response_ = rpc::SerializeRaw(ToProto(result()));
    ReportEnd(status);
    Finish(rpc::ToGrpc(status, id_));
  }

  grpc::ByteBuffer* const response_;
};

}  // namespace

grpc::ServerUnaryReactor* StartGround(const EndpointDeps& deps,
                                      grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return rpc::StartCall<GroundCall>(nullptr, deps, context, request, response);
}

}  // namespace chord::gateway
