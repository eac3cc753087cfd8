// The workers the gateway knows: one channel and one status stream each. One with
// heartbeats can be picked; one that missed three cannot, is probed on and comes back by itself.
// The set is what the settings name; names of the form dns:host:port are looked up again and again,
// and every address they have is a worker.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/internal/v1/decode.grpc.pb.h"
#include "chord/internal/v1/encode.grpc.pb.h"
#include "common/base/cancel.h"
#include "common/obs/exposition.h"
#include "services/gateway/settings.h"

namespace chord::gateway {

// One start of a worker: what it held before is lost.
struct WorkerId {
  std::string name;
  uint64_t epoch = 0;
  bool operator==(const WorkerId&) const = default;
};

// Thread-safe.
class WorkerPool {
 public:
  enum class Role { kVision, kLanguage };
  struct Options {
    std::vector<Peer> vision;
    std::vector<Peer> language;
    std::string fingerprint;                      // of the model that all must hold
    absl::Duration heartbeat = absl::Seconds(1);  // asked of the workers
    absl::Duration dns_every = absl::Seconds(5);
    // Called at each change of the eligible workers: how many of each role. One call at a time;
    // must not block.
    std::function<void(int vision, int language)> on_change;
  };
  static std::unique_ptr<WorkerPool> Start(Options options);
  virtual ~WorkerPool() = default;

  struct AcquireOptions {
    int64_t cost = 0;                // patches or tokens that the request will occupy there
    std::string preferred;           // name of the worker to take if it can be
    std::vector<WorkerId> excluded;  // not these, as long as they have not begun a new epoch
  };

  struct Worker;
  // One worker, counted as loaded until the lease goes. Its stubs live as long as the lease; the
  // pool must outlive it.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { Release(); }
    explicit operator bool() const { return worker_ != nullptr; }
    internal::v1::Vision::Stub& vision() const;
    internal::v1::Language::Stub& language() const;
    const WorkerId& id() const { return id_; }

   private:
    friend class WorkerPoolImpl;
    void Release();
    WorkerPool* pool_ = nullptr;
    std::shared_ptr<Worker> worker_;
    int64_t cost_ = 0;
    WorkerId id_;
  };

  // Waits until `until` (or `cancel`) for an eligible worker. WORKER_UNAVAILABLE, MODEL_MISMATCH,
  // OVERLOADED, or the reason of `cancel`.
  virtual absl::StatusOr<Lease> Acquire(Role role, const AcquireOptions& options,
                                        const CancelToken& cancel, absl::Time until) = 0;

  // Takes another worker, if there is one, for a while.
  virtual void Cooldown(const WorkerId& worker, absl::Duration time) = 0;

  // Tells a language worker to forget an image. Best effort: nothing when that epoch of it is over,
  // or when many such calls are still on their way.
  virtual void DropImage(const WorkerId& worker, absl::string_view key) = 0;

  // The pages of /metrics of the workers that beat and answer until `until`, by name. Blocks.
  virtual std::vector<obs::OtherExposition> Metrics(absl::Time until) = 0;
  // Of the workers that beat: requests in their queues, and the share of KV memory in use.
  struct Load {
    int64_t waiting = 0;
    double kv_usage = 0;
  };
  virtual Load load() = 0;

  // Whether a request could be sent now; does not wait. Names every role that has no worker.
  virtual absl::Status Ready() = 0;

 private:
  virtual void Return(const Lease& lease) = 0;
};

}  // namespace chord::gateway
