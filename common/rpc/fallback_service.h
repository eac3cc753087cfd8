// Calls that no service of a server takes: server reflection where it is enabled, otherwise a
// refusal with a reason. Reflection is served here because gRPC's own service parses a request
// before its size can be checked.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <string>
#include <vector>

namespace chord::rpc {

class Fallback final : public grpc::CallbackGenericService {
 public:
  // `reflect`: full names of the services that reflection lists; empty: no reflection.
  explicit Fallback(std::vector<std::string> reflect);
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  const std::vector<std::string> reflect_;
};

}  // namespace chord::rpc
