// The log of a process as its settings want it.
#pragma once

#include "absl/status/status.h"
#include "chord/config/v1/config.pb.h"
#include "common/obs/log.h"

namespace chord::process {

// CONFIG_INVALID names the setting. Touches no file.
absl::Status CheckLogSettings(const config::v1::Log& settings);
// obs::StartLog, on stderr or in DIR/ROLE.log. CONFIG_INVALID also when the file cannot be written.
absl::Status StartLogging(const config::v1::Log& settings, obs::Role role, obs::Metrics* metrics);

}  // namespace chord::process
