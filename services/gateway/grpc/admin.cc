#include "services/gateway/grpc/admin.h"

#include <grpcpp/grpcpp.h>

#include "chord/v1/admin.grpc.pb.h"
#include "common/base/errors.h"
#include "services/gateway/grpc/immediate_call.h"

namespace chord::gateway {
namespace {

using AdminBase =
    v1::Admin::WithRawCallbackMethod_ListModels<v1::Admin::WithRawCallbackMethod_PlanModel<
        v1::Admin::WithRawCallbackMethod_LoadModel<v1::Admin::WithRawCallbackMethod_SwapModel<
            v1::Admin::WithRawCallbackMethod_RollBack<v1::Admin::Service>>>>>;

class AdminServiceImpl final : public AdminBase {
  using Unary = grpc::ServerUnaryReactor;
  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;

 public:
  explicit AdminServiceImpl(obs::Metrics& metrics) : metrics_(metrics) {}
  Unary* ListModels(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* PlanModel(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* LoadModel(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* SwapModel(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* RollBack(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }

 private:
  Unary* Refuse(Context* context) {
    return rpc::StartCall<ImmediateCall>(nullptr, context, metrics_,
                                         errors::NotImplementedYet("changing models while it runs"),
                                         obs::Method::kAdmin);
  }
  obs::Metrics& metrics_;
};

}  // namespace

std::unique_ptr<grpc::Service> AdminService(obs::Metrics& metrics) {
  return std::make_unique<AdminServiceImpl>(metrics);
}

}  // namespace chord::gateway
