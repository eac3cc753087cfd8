// The gateway as one object: worker pool, core, endpoints.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/obs/metrics.h"
#include "common/process/process.h"
#include "services/gateway/settings.h"

namespace chord::gateway {

// Drain: at once not ready; goes on answering for a moment, so that balancers notice before they
// are refused; then takes nothing new, ends streams on which nothing is asked, and lets what is
// under way finish until drain_seconds are over.
class Gateway : public process::Worker {
 public:
  // Reads the model's small files and listens. CHECKPOINT_INVALID or CONFIG_INVALID with one clear
  // sentence. Serves at once; it is ready when a worker of each role is. `metrics` outlives it.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(const Settings& settings,
                                                        obs::Metrics* metrics);

  virtual std::string http_address() const = 0;  // as bound
  virtual int http_port() const = 0;
  virtual std::string grpc_address() const = 0;  // as bound, or unix:path
};

// The process (common/process/process.h has its signals and exit codes).
int RunGateway(int argc, char** argv);

}  // namespace chord::gateway
