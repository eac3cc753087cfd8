// Which attention kernels a worker uses on a GPU.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/engine/device.h"

namespace chord::engine {

enum class Attention {
  kAuto,       // the fastest that runs: Chord's own kernels, else libtorch's choice
  kFlash,      // Chord's own kernels; an error where they do not run
  kEfficient,  // libtorch's memory-efficient kernels
  kEager,      // libtorch's plain products, whole score matrices: slow, for comparison
};

// "auto" (or empty), "flash", "efficient", "eager". CONFIG_INVALID names the choices.
absl::StatusOr<Attention> ParseAttention(absl::string_view text);

// Makes libtorch choose accordingly, for the whole process. Nothing to do on the CPU.
void SelectTorchAttention(const Device& device, Attention attention);

}  // namespace chord::engine
