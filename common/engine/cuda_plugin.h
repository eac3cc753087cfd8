// Loads libchord_cuda, Chord's own CUDA kernels. No CUDA header here.
#pragma once

#include "absl/status/statusor.h"
#include "common/engine/cuda/cuda_api.h"

namespace chord::engine {

// The plugin's functions, loaded once per process. The file is looked for in $CHORD_CUDA_PLUGIN (a
// path), beside the program, and in the ../lib beside it. DEVICE_UNAVAILABLE says why there is
// none: not built, built for another version of Chord, or a CUDA library that cannot be loaded.
// To be called after ParseDevice has found a CUDA device: loading it takes the CUDA runtime with
// it. Thread-safe.
absl::StatusOr<const cuda::Api*> LoadCudaPlugin();

// DEVICE_MEMORY for memory that ran out, DEVICE_UNAVAILABLE for an unsupported device or shape, an
// uncatalogued INTERNAL for the rest.
absl::Status FromCuda(const cuda::Status& status);

}  // namespace chord::engine
