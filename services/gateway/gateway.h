// The gateway as one object: pool, core, doors.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/gateway/settings.h"

namespace chord::gateway {

class Gateway {
 public:
  // Reads the model's small files and listens. CHECKPOINT_INVALID or CONFIG_INVALID with one clear
  // sentence. Serves at once; it is ready when a worker of each role is.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(const Settings& settings);
  virtual ~Gateway() = default;

  virtual std::string http_address() const = 0;  // as bound
  virtual int http_port() const = 0;
  virtual std::string grpc_address() const = 0;  // as bound, or unix:path

  // At once not ready; goes on answering for a moment, so that balancers notice before they are
  // refused; then takes nothing new and lets what is under way finish until drain_seconds are over.
  virtual void Drain() = 0;
};

// The process: settings from flags, signals, exit code. 0 after SIGTERM or SIGINT and a drain, and
// after --help; 2 with one sentence on stderr when settings, model or addresses are bad. A second
// signal exits at once. With CHORD_SUPERVISED=1 in the environment the process gets SIGTERM when
// its parent dies.
int RunGateway(int argc, char** argv);

}  // namespace chord::gateway
