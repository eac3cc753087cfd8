// The one exported symbol of libchord_cuda.
#include <cstring>

#include "common/engine/cuda/cuda_api.h"
#include "common/engine/cuda/memory.h"
#include "common/engine/cuda/tower_api.h"

namespace chord::cuda {

Status CreateDecoder(const DecoderOptions& options, Decoder** decoder);  // decoder.cu

namespace {

Status GetDeviceInfo(int device, DeviceInfo* info) {
  return Guarded([&] {
    const DeviceScope scope(device);
    cudaDeviceProp properties;
    CHORD_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    std::memcpy(info->name, properties.name, sizeof(info->name));
    info->name[sizeof(info->name) - 1] = 0;
    info->compute_major = properties.major;
    info->compute_minor = properties.minor;
    info->multiprocessors = properties.multiProcessorCount;
    size_t free = 0, total = 0;
    CHORD_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    info->free_bytes = static_cast<int64_t>(free);
    info->total_bytes = static_cast<int64_t>(total);
  });
}

}  // namespace
}  // namespace chord::cuda

extern "C" __attribute__((visibility("default"))) const chord::cuda::Api* chord_cuda_entry() {
  static const chord::cuda::Api api = {chord::cuda::kApiVersion, chord::cuda::GetDeviceInfo,
                                       chord::cuda::CreateDecoder, chord::cuda::CreateTower};
  return &api;
}
