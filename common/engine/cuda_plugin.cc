#include "common/engine/cuda_plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/errors.h"

namespace chord::engine {
namespace {

constexpr char kFile[] = "libchord_cuda.so";

std::string ProgramFolder() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == static_cast<ssize_t>(sizeof(path))) return ".";
  const std::string program(path, length);
  return program.substr(0, program.rfind('/'));
}

std::vector<std::string> Candidates() {
  if (const char* given = std::getenv("CHORD_CUDA_PLUGIN"); given != nullptr && *given != '\0') {
    return {given};
  }
  const std::string folder = ProgramFolder();
  return {absl::StrCat(folder, "/", kFile), absl::StrCat(folder, "/../lib/", kFile)};
}

absl::StatusOr<const cuda::Api*> Load() {
  for (const std::string& path : Candidates()) {
    if (access(path.c_str(), R_OK) != 0) continue;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      return errors::DeviceUnavailable(absl::StrCat(path, " cannot be loaded: ", dlerror()));
    }
    const auto entry = reinterpret_cast<cuda::Entry>(dlsym(library, cuda::kEntrySymbol));
    const cuda::Api* api = entry == nullptr ? nullptr : entry();
    if (api == nullptr || api->version != cuda::kApiVersion) {
      return errors::DeviceUnavailable(
          absl::StrCat(path, " belongs to another version of Chord: install both from one build"));
    }
    return api;
  }
  return errors::DeviceUnavailable(
      absl::StrCat(kFile, " was not found: build it with CHORD_CUDA=1 (tools/setup.sh)"));
}

}  // namespace

absl::StatusOr<const cuda::Api*> LoadCudaPlugin() {
  static const absl::StatusOr<const cuda::Api*> api = Load();
  return api;
}

absl::Status FromCuda(const cuda::Status& status) {
  switch (status.code) {
    case cuda::Code::kOk:
      return absl::OkStatus();
    case cuda::Code::kOutOfMemory:
      return errors::DeviceMemory();
    case cuda::Code::kUnsupported:
      return errors::DeviceUnavailable(status.message);
    case cuda::Code::kFailed:
      break;
  }
  return absl::InternalError(absl::StrCat("CUDA: ", status.message));
}

}  // namespace chord::engine
