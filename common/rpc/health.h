// grpc.health.v1. gRPC's own service keeps Watch streams open during shutdown: a client that holds
// one, as load balancers do, would delay every shutdown until its deadline.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/rpc/call.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace chord::rpc {

// Raw messages: their size is checked before they are parsed.
using HealthBase = grpc::health::v1::Health::WithRawCallbackMethod_Check<
    grpc::health::v1::Health::WithRawCallbackMethod_Watch<grpc::health::v1::Health::Service>>;

// Thread-safe.
class Health final : public HealthBase {
 public:
  Health();
  ~Health() override;

  void Set(const std::string& service, bool serving);
  // Every known service becomes NOT_SERVING; watchers are sent that status and end.
  void Close();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;

 private:
  class Watcher;
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;
  Status StatusOf(const std::string& service) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void Update(Watcher& watcher);
  void UpdateWatchers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;  // taken before a watcher's
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, bool> serving_ ABSL_GUARDED_BY(mu_);
  CallRegistry watchers_;  // all are of class Watcher
};

}  // namespace chord::rpc
