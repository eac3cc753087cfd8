// The vision worker as one object: service, tower, queue, maintenance.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/obs/metrics.h"
#include "common/process/process.h"
#include "services/vision_worker/settings.h"

namespace chord::vision_worker {

class VisionWorker : public process::Worker {
 public:
  // Listens at once, not ready; Load makes it ready. CONFIG_INVALID when it cannot listen.
  // `metrics` is not owned.
  static absl::StatusOr<std::unique_ptr<VisionWorker>> Start(const Settings& settings,
                                                             obs::Metrics* metrics);

  virtual int port() const = 0;  // 0 for unix sockets
  // What is held right now. All zero when nothing is under way.
  struct Counts {
    int calls = 0;
    int queued = 0;
    int running = 0;          // on the device
    int64_t patches = 0;      // of all calls
    int64_t image_bytes = 0;  // encoded images
    int64_t pixels = 0;       // images being decoded
    bool operator==(const Counts&) const = default;
  };
  virtual Counts counts() const = 0;
};

}  // namespace chord::vision_worker
