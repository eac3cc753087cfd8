#pragma once

#include "common/base/executor.h"
#include "common/obs/metrics.h"
#include "services/gateway/access/access.h"
#include "services/gateway/admission.h"
#include "services/gateway/grounder.h"
#include "services/gateway/images/image_service.h"

namespace chord::gateway {

// What the handlers of both endpoints (gRPC, HTTP) work with. All outlive the handlers.
struct EndpointDeps {
  Grounder& grounder;
  Admission& admission;
  ImageService& images;
  Executor& executor;  // runs requests of calls that may not block, and items of batches
  obs::Metrics& metrics;
  int max_batch = 64;              // requests of one batch request
  const Access* access = nullptr;  // null: every request may
};

}  // namespace chord::gateway
