#include "services/gateway/grpc/admin.h"

#include <grpcpp/grpcpp.h>

#include "chord/v1/admin.grpc.pb.h"
#include "common/base/errors.h"
#include "services/gateway/grpc/call_support.h"
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
  AdminServiceImpl(const ServedModel& model, obs::Metrics& metrics) : metrics_(metrics) {
    v1::ModelState& state = *models_.add_models();
    state.mutable_model()->set_name(model.name);
    state.set_state(v1::ModelState::STATE_SERVING);
    state.set_fingerprint(model.fingerprint);
  }
  Unary* ListModels(Context* context, const Bytes* request, Bytes* response) override {
    const absl::Status status = CheckListRequest(*request);
    if (status.ok()) *response = rpc::SerializeRaw(models_);
    return rpc::StartCall<ImmediateCall>(nullptr, context, metrics_, status,
                                         obs::Method::kListModels);
  }
  Unary* PlanModel(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* LoadModel(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* SwapModel(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }
  Unary* RollBack(Context* context, const Bytes*, Bytes*) override { return Refuse(context); }

 private:
  static absl::Status CheckListRequest(Bytes bytes) {
    if (bytes.Valid() && bytes.Length() > kMaxSmallBytes) {
      return errors::BodyTooLarge(kMaxSmallBytes);
    }
    v1::ListModelsRequest request;
    return ParseAs(&bytes, "ListModelsRequest", &request);
  }
  Unary* Refuse(Context* context) {
    return rpc::StartCall<ImmediateCall>(nullptr, context, metrics_,
                                         errors::NotImplementedYet("changing models while it runs"),
                                         obs::Method::kAdmin);
  }
  obs::Metrics& metrics_;
  v1::ListModelsResponse models_;
};

}  // namespace

std::unique_ptr<grpc::Service> AdminService(const ServedModel& model, obs::Metrics& metrics) {
  return std::make_unique<AdminServiceImpl>(model, metrics);
}

}  // namespace chord::gateway
