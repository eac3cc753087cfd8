// The gRPC door: chord.v1 over the core.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/base/executor.h"
#include "common/obs/metrics.h"
#include "services/gateway/grounder.h"

namespace chord::gateway {

// Calls that a client may hold open with nothing asked: they would keep a server that ends until
// its deadline. Thread-safe.
class OpenStreams {
 public:
  class Stream {
   public:
    virtual ~Stream() = default;
    // Takes no further prompt; ends with `why` once those that are asked have been answered.
    virtual void EndWhenIdle(const absl::Status& why) = 0;
  };
  void Add(std::weak_ptr<Stream> stream);
  // Ends those that are open, and at once those that come later.
  void End(const absl::Status& why);

 private:
  absl::Mutex mu_;
  absl::Status why_ ABSL_GUARDED_BY(mu_);  // OK: not ended
  std::vector<std::weak_ptr<Stream>> streams_ ABSL_GUARDED_BY(mu_);
  // So many are looked through for those that have ended.
  size_t look_at_ ABSL_GUARDED_BY(mu_) = 64;
};

// Bytes of a message beyond the image in it.
inline constexpr int64_t kMessageSlackBytes = 1 << 20;

// The services of chord.v1. Requests run on `executor`; a client that cancels its call cancels its
// request. What this version does not offer answers UNIMPLEMENTED with a reason. All arguments
// outlive the services, which outlive their server.
std::vector<std::unique_ptr<grpc::Service>> GrpcServices(Grounder& grounder, Executor& executor,
                                                         obs::Metrics& metrics,
                                                         OpenStreams& streams);
std::vector<std::string> GrpcServiceNames();

}  // namespace chord::gateway
