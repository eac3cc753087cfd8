// Runs the parts of a batch a few at a time.
#pragma once

#include <functional>

#include "common/base/executor.h"

namespace chord::gateway {

// Requests of one batch that are asked at once.
inline constexpr int kBatchWidth = 8;

// Calls fn(i) once for each i in [0, count), at most `width` at a time: on the calling thread, and
// on threads of `executor` as far as it has any free. Returns when all have returned. `fn` must not
// throw.
void ParallelFor(Executor& executor, int count, int width, const std::function<void(int)>& fn);

}  // namespace chord::gateway
