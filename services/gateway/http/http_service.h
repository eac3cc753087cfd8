// The HTTP door: routes over the core.
#pragma once

#include <functional>
#include <vector>

#include "common/base/executor.h"
#include "common/http/message.h"
#include "common/obs/metrics.h"
#include "services/gateway/grounder.h"

namespace chord::gateway {

// `ready` says whether a request could be answered now; /readyz tells it. Requests of a batch run
// on the handler's thread and on `executor`.
// Everything must outlive the server that gets the routes.
std::vector<http::Route> HttpRoutes(Grounder& grounder, Executor& executor, obs::Metrics& metrics,
                                    std::function<absl::Status()> ready);

}  // namespace chord::gateway
