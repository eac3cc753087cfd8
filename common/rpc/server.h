// One way to run a gRPC server: limits, health, reflection, drain.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/certificates.h"

namespace chord::rpc {

class Server {
 public:
  struct Options {
    std::string address;  // host:port (port 0: any) or unix:/path (replaced when stale)
    // TLS on `address`, with the certificates of the start; null: none.
    std::shared_ptr<CertificateFiles> tls = nullptr;
    std::string local_address = {};  // one more, unix:/path; empty: none
    int64_t max_receive_bytes = 0;   // 0: gRPC's default of 4 MiB
    // Memory gRPC may hold for buffers of all calls. 0: 256 MiB.
    int64_t buffer_quota_bytes = 0;
    // Full names of the services that server reflection tells of; empty: no reflection.
    std::vector<std::string> reflect = {};
    // Health: "" is served from start (the process lives); `ready_service` follows SetReady.
    std::string ready_service = {};  // for example "chord.v1.Grounding"
  };
  // `services` are not owned and must outlive the server.
  // CONFIG_INVALID when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options,
                                                       const std::vector<grpc::Service*>& services);
  virtual ~Server() = default;
  virtual int port() const = 0;  // 0 for unix sockets
  virtual void SetReady(bool ready) = 0;
  // Stops accepting, waits for calls under way until `deadline`, then cancels them. Idempotent.
  virtual void Shutdown(absl::Time deadline) = 0;
};

}  // namespace chord::rpc
