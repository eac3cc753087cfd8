// grpc.health.v1. gRPC's own keeps the streams of Watch open when the server ends, and a client
// that holds one (a balancer, most likely) would make every end last until its deadline.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace chord::rpc {

// Messages come raw, to be looked at before they take memory.
using HealthBase = grpc::health::v1::Health::WithRawCallbackMethod_Check<
    grpc::health::v1::Health::WithRawCallbackMethod_Watch<grpc::health::v1::Health::Service>>;

// Thread-safe.
class Health final : public HealthBase {
 public:
  Health();
  ~Health() override;

  void Set(const std::string& service, bool serving);
  // Nothing is served from now on; who watches is told so, and that is the end of it.
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
  std::vector<std::shared_ptr<Watcher>> Watchers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;  // taken before a watcher's
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::map<std::string, bool> serving_ ABSL_GUARDED_BY(mu_);
  std::vector<std::weak_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mu_);
  // That many are looked through for those that have ended.
  size_t look_at_ ABSL_GUARDED_BY(mu_) = 64;
};

}  // namespace chord::rpc
