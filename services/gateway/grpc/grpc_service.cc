#include "services/gateway/grpc/grpc_service.h"

#include <grpcpp/grpcpp.h>

#include "chord/v1/admin.grpc.pb.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"
#include "services/gateway/grpc/ground_call.h"
#include "services/gateway/grpc/images.h"

namespace chord::gateway {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;

using GroundingBase =
    v1::Grounding::WithRawCallbackMethod_Ground<v1::Grounding::WithRawCallbackMethod_GroundStream<
        v1::Grounding::WithRawCallbackMethod_GroundList<
            v1::Grounding::WithRawCallbackMethod_GroundBatch<v1::Grounding::Service>>>>;

class GroundingService final : public GroundingBase {
 public:
  GroundingService(const EndpointDeps& deps, rpc::CallRegistry& calls)
      : deps_(deps), calls_(calls) {}

  grpc::ServerUnaryReactor* Ground(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    return StartGround(deps_, context, request, response);
  }
  grpc::ServerWriteReactor<ByteBuffer>* GroundStream(CallbackServerContext* context,
                                                     const ByteBuffer* request) override {
    return StartGroundStream(deps_, context, request);
  }
  grpc::ServerUnaryReactor* GroundList(CallbackServerContext* context, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    return StartGroundList(deps_, context, request, response);
  }
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* GroundBatch(
      CallbackServerContext* context) override {
    return StartGroundBatch(deps_, calls_, context);
  }

 private:
  const EndpointDeps deps_;
  rpc::CallRegistry& calls_;
};

}  // namespace

std::vector<std::unique_ptr<grpc::Service>> GrpcServices(const EndpointDeps& deps,
                                                         const ServedModel& model,
                                                         rpc::CallRegistry& calls) {
  std::vector<std::unique_ptr<grpc::Service>> out;
  out.push_back(std::make_unique<GroundingService>(deps, calls));
  out.push_back(ImagesService(deps, calls));
  out.push_back(AdminService(model, deps.metrics));
  return out;
}

std::vector<std::string> GrpcServiceNames() {
  return {v1::Grounding::service_full_name(), v1::Images::service_full_name(),
          v1::Admin::service_full_name()};
}

}  // namespace chord::gateway
