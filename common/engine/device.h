// Where and in what the engine computes. No libtorch type appears in the engine's public headers.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

struct Device {
  enum class Kind { kCpu, kCuda } kind = Kind::kCpu;
  int index = 0;                 // CUDA ordinal
  std::string ToString() const;  // "cpu", "cuda:0"
};

// "cpu", "cuda", "cuda:N", or "auto" (cuda:0 when there is one, else the CPU).
// DEVICE_UNAVAILABLE says why: libtorch without CUDA, no driver, no such ordinal.
absl::StatusOr<Device> ParseDevice(absl::string_view text);

// Bytes of a CUDA device that are free now, and all of them.
struct DeviceMemory {
  int64_t free = 0;
  int64_t total = 0;
};
absl::StatusOr<DeviceMemory> MeasureMemory(const Device& device);

// What `--dtype` chooses: what the model computes in, and the form of its weights.
struct Precision {
  model::DType compute = model::DType::kFloat32;
  WeightFormat weights;
  // For logs and status: "F32", "BF16", "F16", or the packed format ("int8", "int4-32").
  std::string name;
};
// As ParseDType, and on a CPU also the packed formats of ParseWeightFormat, which compute in
// float32.
absl::StatusOr<Precision> ParsePrecision(absl::string_view text, const Device& device,
                                         absl::string_view declared_dtype);

// The instruction set that products with packed weights use here, for logs: "avx512-vnni".
absl::string_view PackedInstructionSet();

// "auto" takes what suits device and checkpoint; "fp32", "bf16", "fp16" (CUDA only).
absl::StatusOr<model::DType> ParseDType(absl::string_view text, const Device& device,
                                        absl::string_view declared_dtype);

// Once per process, before anything else of the engine: threads of the CPU backend (0: all cores
// this process may use), deterministic reductions, no TF32, no reduced bf16 accumulation.
absl::Status InitEngine(int cpu_threads);

}  // namespace chord::engine
