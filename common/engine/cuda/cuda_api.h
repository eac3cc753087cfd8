// What libchord_cuda offers to the engine: Chord's own CUDA kernels behind plain C++ interfaces.
//
// The plugin is loaded by cuda_plugin.h, and only where a CUDA driver answers, so that one binary
// serves hosts with and without a GPU. It exports one symbol, kEntrySymbol. This header names
// neither CUDA nor libtorch types: sizes, raw pointers, and a Status of its own, because both sides
// are compiled by different compilers. Host and plugin must agree on kApiVersion.
//
// No function throws. An object is used by one thread at a time unless its comment says otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chord::cuda {

// Raised with every change of this header or of the headers of the interfaces that Api names.
inline constexpr int kApiVersion = 1;
inline constexpr char kEntrySymbol[] = "chord_cuda_entry";

enum class Code : int {
  kOk = 0,
  kOutOfMemory,  // device or pinned memory; nothing was taken
  kUnsupported,  // these kernels do not take this device, shape or dtype; use another backend
  kFailed,       // a CUDA call failed; the object must not be used again
};

// Plain data, so that it crosses the plugin's border whatever each side links.
struct Status {
  Code code = Code::kOk;
  char message[240] = "";  // for logs, zero-terminated
  bool ok() const { return code == Code::kOk; }
};

// Two-byte floating types are what the kernels compute in.
enum class Dtype : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct DeviceInfo {
  char name[256] = "";
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // at the time of the call
};

struct DecoderOptions;
class Decoder;
struct TowerOptions;
class Tower;

// Filled in by the plugin; lives as long as the process.
struct Api {
  int version = 0;  // kApiVersion of the plugin's build
  Status (*device_info)(int device, DeviceInfo* info) = nullptr;
  // `decoder` is given to the caller, who deletes it. See decoder_api.h.
  Status (*create_decoder)(const DecoderOptions& options, Decoder** decoder) = nullptr;
  // Likewise. See tower_api.h.
  Status (*create_tower)(const TowerOptions& options, Tower** tower) = nullptr;
};

// The type of the symbol kEntrySymbol.
using Entry = const Api* (*)();

}  // namespace chord::cuda
