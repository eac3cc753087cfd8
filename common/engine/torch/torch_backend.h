// ATen's side of backend.h. No torch header here.
#pragma once

#include <memory>

#include "common/engine/backend.h"

namespace chord::engine {

// `device` must be one that ParseDevice has returned.
std::unique_ptr<Backend> MakeTorchBackend(const Device& device, model::DType dtype);

}  // namespace chord::engine
