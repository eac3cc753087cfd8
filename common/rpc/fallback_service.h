// What a server says to calls that none of its services takes: server reflection when it is asked
// for, otherwise a refusal with a reason like all others. Reflection is answered here and not by
// gRPC's own service because that one parses whatever comes before anybody can look at its size.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <string>
#include <vector>

namespace chord::rpc {

class Fallback final : public grpc::CallbackGenericService {
 public:
  // `reflect`: full names of the services to tell of; empty: no reflection.
  explicit Fallback(std::vector<std::string> reflect);
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  const std::vector<std::string> reflect_;
};

}  // namespace chord::rpc
