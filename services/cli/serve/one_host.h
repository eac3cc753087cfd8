// The settings of the three processes when `chord serve` runs them on one host.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chord/config/v1/config.pb.h"
#include "services/cli/serve/supervisor.h"

namespace chord::cli {

// Fills in what the supervisor decides: the default model, and the sockets through which the
// processes reach each other, in `socket_folder`. Addresses and peers of workers that `settings`
// has are for processes on several hosts and are replaced. CONFIG_INVALID when a model folder does
// not exist.
absl::Status CompleteForOneHost(const std::string& socket_folder, config::v1::Settings* settings);

// The processes, in the order in which they are started: workers first, because the gateway is
// ready only when they are. `file` holds `settings`.
std::vector<ChildProcess> OneHostProcesses(const std::string& file,
                                           const config::v1::Settings& settings);

// CONFIG_INVALID names the setting.
absl::StatusOr<Supervisor::Options> SupervisorOptions(const config::v1::Serve& settings);

// CONFIG_INVALID when a program is not beside this one.
absl::Status CheckPrograms(const std::vector<ChildProcess>& processes);

}  // namespace chord::cli
