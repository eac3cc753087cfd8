// The lifetime of a client call of the callback API that nothing else owns. (call.h is the same for
// server calls.)
//
//   class Fetch final : public rpc::ClientCall<grpc::ClientReadReactor<Chunk>> {
//     void OnEnd(const grpc::Status& status) override { … }
//   };
//   auto call = rpc::MakeClientCall<Fetch>(…);
//   call->Start(stub);
#pragma once

#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <utility>

namespace chord::rpc {

// `Reactor`: a Client…Reactor of gRPC's callback API.
template <typename Reactor>
class ClientCall : public Reactor {
 public:
  void OnDone(const grpc::Status& status) final {
    const std::shared_ptr<void> self = std::move(self_);  // may be the last owner
    OnEnd(status);
  }

 protected:
  // The call has ended; gRPC does not touch it again. Called once.
  virtual void OnEnd(const grpc::Status& status) = 0;

 private:
  template <typename Call, typename... Args>
  friend std::shared_ptr<Call> MakeClientCall(Args&&... args);
  std::shared_ptr<void> self_;
};

// Makes a call that keeps itself alive until OnDone. It must be started.
template <typename Call, typename... Args>
std::shared_ptr<Call> MakeClientCall(Args&&... args) {
  auto call = std::make_shared<Call>(std::forward<Args>(args)...);
  call->self_ = call;
  return call;
}

}  // namespace chord::rpc
