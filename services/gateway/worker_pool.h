// The workers the gateway knows: one channel and one status stream each. Who beats is picked from;
// who missed three beats is not, keeps being probed and comes back by itself.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/internal/v1/decode.grpc.pb.h"
#include "chord/internal/v1/encode.grpc.pb.h"
#include "common/base/cancel.h"
#include "services/gateway/settings.h"

namespace chord::gateway {

// Thread-safe.
class WorkerPool {
 public:
  struct Options {
    std::vector<Peer> vision;
    std::vector<Peer> language;
    std::string fingerprint;                 // of the model that all must hold
    absl::Duration beat = absl::Seconds(1);  // asked of the workers
    // Told at each change of who is fit: how many of each role. One call at a time; must not block.
    std::function<void(int vision, int language)> on_change;
  };
  static std::unique_ptr<WorkerPool> Start(Options options);
  virtual ~WorkerPool() = default;

  // What a request will cost its workers.
  struct Cost {
    int64_t patches = 0;
    int64_t tokens = 0;
  };

  // One worker of each role, counted as loaded until the lease goes. The stubs live as long as the
  // pool, which must outlive its leases.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { Release(); }
    internal::v1::Vision::Stub& vision() const { return *vision_stub_; }
    internal::v1::Language::Stub& language() const { return *language_stub_; }
    const std::string& language_name() const { return *language_name_; }

   private:
    friend class WorkerPoolImpl;
    void Release();
    WorkerPool* pool_ = nullptr;
    size_t vision_ = 0, language_ = 0;
    Cost cost_;
    internal::v1::Vision::Stub* vision_stub_ = nullptr;
    internal::v1::Language::Stub* language_stub_ = nullptr;
    const std::string* language_name_ = nullptr;
  };

  // Waits until `until` (or `cancel`) for a fit worker of each role. WORKER_UNAVAILABLE,
  // MODEL_MISMATCH, OVERLOADED, or the reason of `cancel`.
  virtual absl::StatusOr<Lease> Acquire(const Cost& cost, const CancelToken& cancel,
                                        absl::Time until) = 0;

  // Whether a request could be sent now; does not wait.
  virtual absl::Status Ready() = 0;

 private:
  virtual void Return(const Lease& lease) = 0;
};

}  // namespace chord::gateway
