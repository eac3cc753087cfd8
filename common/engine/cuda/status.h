// CUDA and cuBLASLt errors as exceptions inside the plugin, and their way out as Status.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <new>

#include "common/engine/cuda/cuda_api.h"

namespace chord::cuda {

// Thrown inside the plugin only; Guarded turns it into a Status.
class Error : public std::exception {
 public:
  template <typename... Args>
  explicit Error(Code code, const char* format, Args... args) {
    status_.code = code;
    std::snprintf(status_.message, sizeof(status_.message), format, args...);
  }
  const Status& status() const { return status_; }
  const char* what() const noexcept override { return status_.message; }

 private:
  Status status_;
};

inline void Check(cudaError_t error, const char* what, int line) {
  if (error == cudaSuccess) return;
  const Code code = error == cudaErrorMemoryAllocation ? Code::kOutOfMemory : Code::kFailed;
  throw Error(code, "%s (line %d): %s", what, line, cudaGetErrorString(error));
}
inline void Check(cublasStatus_t status, const char* what, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const Code code = status == CUBLAS_STATUS_ALLOC_FAILED ? Code::kOutOfMemory : Code::kFailed;
  throw Error(code, "%s (line %d): %s", what, line, cublasLtGetStatusString(status));
}

// Runs `fn` and returns what happened; the only way out of the plugin.
template <typename Fn>
Status Guarded(Fn&& fn) {
  try {
    fn();
    return {};
  } catch (const Error& error) {
    return error.status();
  } catch (const std::bad_alloc&) {
    return Error(Code::kOutOfMemory, "host memory is used up").status();
  } catch (const std::exception& error) {
    return Error(Code::kFailed, "%s", error.what()).status();
  }
}

}  // namespace chord::cuda

#define CHORD_CUDA_CHECK(call) ::chord::cuda::Check((call), #call, __LINE__)
// After a launch with <<<>>>: configuration errors only; faults of the kernel show up later.
#define CHORD_CUDA_LAUNCHED() ::chord::cuda::Check(cudaGetLastError(), __func__, __LINE__)
