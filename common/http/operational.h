// The addresses every process answers: /metrics, /healthz, /readyz.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/http/message.h"

namespace chord::http {

// /healthz and /readyz. `ready` says OK when the process can do its work, else why not (a
// catalogued error). It is called on any thread, must not block and must stay callable while the
// server lives. /healthz says that the process lives and never depends on a peer.
std::vector<Route> ProbeRoutes(std::function<absl::Status()> ready);

// /metrics. `metrics` returns the text of one scrape in Prometheus' text format and must stay
// callable while the server lives. It is called on an I/O thread and must not block, unless the
// caller makes the route one that is not `quick`.
Route MetricsRoute(std::function<std::string()> metrics);

// All three.
std::vector<Route> OperationalHandler(std::function<std::string()> metrics,
                                      std::function<absl::Status()> ready);

}  // namespace chord::http
