// The addresses every process answers: /metrics, /healthz, /readyz.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/http/message.h"

namespace chord::http {

// `metrics` returns the text of one scrape in Prometheus' text format; `ready` says OK when the
// process can do its work, else why not (a catalogued error). Both are called on any thread, must
// not block and must stay callable while the server lives. /healthz says that the process lives and
// never depends on a peer.
std::vector<Route> OperationalHandler(std::function<std::string()> metrics,
                                      std::function<absl::Status()> ready);

}  // namespace chord::http
