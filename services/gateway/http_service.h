// The HTTP door: routes over the core.
#pragma once

#include <vector>

#include "common/http/message.h"
#include "common/obs/metrics.h"
#include "services/gateway/grounder.h"
#include "services/gateway/worker_pool.h"

namespace chord::gateway {

// `ready` says whether a request could be answered now; /readyz tells it.
// Everything must outlive the server that gets the routes.
std::vector<http::Route> HttpRoutes(Grounder& grounder, obs::Metrics& metrics,
                                    std::function<absl::Status()> ready);

}  // namespace chord::gateway
