#include "common/engine/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/cpu_limit.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/packed/packed_kernels.h"
#include "common/engine/torch/torch_guard.h"

extern "C" void sgemm_();  // only its address is taken

namespace chord::engine {
namespace {

using model::DType;

// The file that defines `symbol`, as the dynamic linker resolved it.
std::string FileOf(const void* symbol) {
  Dl_info info;
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

// Asks the driver itself: libtorch's CUDA half costs a second and 80 MB of memory, which a host
// without a GPU should not pay, whatever libtorch it has.
absl::Status FindCudaDriver() {
  constexpr const char* kNone = "no CUDA device: no driver, or none is visible to it";
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays for libtorch
  if (driver == nullptr) return errors::DeviceUnavailable(kNone);
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  if (init == nullptr || count == nullptr || init(0) != 0 || count(&devices) != 0 || devices <= 0) {
    return errors::DeviceUnavailable(kNone);
  }
  return absl::OkStatus();
}

// libtorch's CUDA half registers itself when it is loaded, so one binary serves hosts with and
// without it. Linking it would also add 193 KB of static TLS to every thread.
absl::Status LoadCuda() {
  static const absl::Status status = []() -> absl::Status {
    CHORD_RETURN_IF_ERROR(FindCudaDriver());
    std::string path = FileOf(reinterpret_cast<const void*>(&at::globalContext));
    path.resize(path.rfind('/') + 1);
    path += "libtorch_cuda.so";
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      return errors::DeviceUnavailable(
          absl::StrCat("libtorch's CUDA library cannot be loaded: ", dlerror()));
    }
    return absl::OkStatus();
  }();
  return status;
}

absl::StatusOr<int> CudaDevices() {
  CHORD_RETURN_IF_ERROR(LoadCuda());
  return Guard([]() -> absl::StatusOr<int> {
    // Never before LoadCuda: the first call decides for good whether there is CUDA.
    const int count = at::detail::getCUDAHooks().deviceCount();
    if (count <= 0) {
      return errors::DeviceUnavailable("no CUDA device: no driver, or none is visible to it");
    }
    return count;
  });
}

// Compute capability 8.0 and later multiply bf16. libcudart is there whenever libtorch is.
bool CudaHasBf16(int index) {
  using Get = int (*)(int* value, int attribute, int device);
  const auto get = reinterpret_cast<Get>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  constexpr int kComputeCapabilityMajor = 75;
  int major = 0;
  return get != nullptr && get(&major, kComputeCapabilityMajor, index) == 0 && major >= 8;
}

}  // namespace

std::string Device::ToString() const {
  return kind == Kind::kCpu ? "cpu" : absl::StrCat("cuda:", index);
}

absl::StatusOr<Device> ParseDevice(absl::string_view text) {
  if (text == "cpu") return Device{};
  if (text == "auto") {
    if (CudaDevices().ok()) return Device{Device::Kind::kCuda, 0};
    return Device{};
  }
  Device device{Device::Kind::kCuda, 0};
  absl::string_view ordinal = text;
  if (text != "cuda" && (!absl::ConsumePrefix(&ordinal, "cuda:") ||
                         !absl::SimpleAtoi(ordinal, &device.index) || device.index < 0)) {
    return errors::ConfigInvalid(
        absl::StrCat("device \"", text, "\": must be cpu, cuda, cuda:N or auto"));
  }
  CHORD_ASSIGN_OR_RETURN(const int count, CudaDevices());
  if (device.index >= count) {
    return errors::DeviceUnavailable(
        absl::StrCat("no device cuda:", device.index, ": this host has ", count));
  }
  return device;
}

absl::StatusOr<DeviceMemory> MeasureMemory(const Device& device) {
  CHORD_RETURN_IF_ERROR(LoadCuda());
  // libcudart is there whenever libtorch is.
  const auto set = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "cudaSetDevice"));
  const auto get =
      reinterpret_cast<int (*)(size_t*, size_t*)>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
  size_t free = 0, total = 0;
  if (set == nullptr || get == nullptr || set(device.index) != 0 || get(&free, &total) != 0) {
    return errors::DeviceUnavailable(
        absl::StrCat("the memory of ", device.ToString(), " cannot be measured"));
  }
  return DeviceMemory{static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

absl::StatusOr<Precision> ParsePrecision(absl::string_view text, const Device& device,
                                         absl::string_view declared_dtype) {
  Precision out;
  if (!NamesWeightFormat(text)) {
    CHORD_ASSIGN_OR_RETURN(out.compute, ParseDType(text, device, declared_dtype));
    out.name = std::string(model::DTypeName(out.compute));
    return out;
  }
  CHORD_ASSIGN_OR_RETURN(out.weights, ParseWeightFormat(text));
  if (device.kind != Device::Kind::kCpu) {
    return errors::ConfigInvalid(absl::StrCat("dtype ", text, " needs the device cpu; on ",
                                              device.ToString(), " use bf16, fp16 or fp32"));
  }
  out.name = out.weights.ToString();
  return out;
}

absl::string_view PackedInstructionSet() { return ChoosePackedKernels().instruction_set; }

absl::StatusOr<DType> ParseDType(absl::string_view text, const Device& device,
                                 absl::string_view declared_dtype) {
  const bool cuda = device.kind == Device::Kind::kCuda;
  if (text == "fp32") return DType::kFloat32;
  if (text == "bf16") return DType::kBFloat16;
  if (text == "fp16") {
    if (!cuda) return errors::ConfigInvalid("dtype fp16 needs a CUDA device; use fp32 or bf16");
    return DType::kFloat16;
  }
  if (text != "auto") {
    return errors::ConfigInvalid(
        absl::StrCat("dtype \"", text, "\": must be auto, fp32, bf16, fp16, int8 or int4"));
  }
  if (declared_dtype == "float32") return DType::kFloat32;
  if (cuda) {
    if (declared_dtype == "float16" || !CudaHasBf16(device.index)) return DType::kFloat16;
    return DType::kBFloat16;
  }
  // Our products multiply float32 whatever is stored, so float32 is as fast and exact, and bf16
  // weights still stay as they are.
  return DType::kFloat32;
}

absl::Status InitEngine(int cpu_threads) {
  if (cpu_threads < 0) return errors::ConfigInvalid("threads: must be 0 (all cores) or more");
  // Another BLAS in front of libtorch's is 30 times slower and would go unnoticed.
  const std::string blas = FileOf(reinterpret_cast<const void*>(&sgemm_));
  if (!absl::StrContains(blas, "libtorch")) {
    return errors::ConfigInvalid(
        absl::StrCat("sgemm comes from ", blas, " and not from libtorch: link torch::cpu first"));
  }
  SetCpuThreads(cpu_threads == 0 ? UsableCpus() : cpu_threads);
  return Guard([]() -> absl::Status {
    at::set_num_threads(1);  // the work is shared out among our own threads
    at::Context& context = at::globalContext();
    context.setAllowTF32CuBLAS(false);
    context.setAllowTF32CuDNN(false);
    // cuDNN's attention plans each new length anew, a tenth of a second at a time, and ours are
    // new all the time. The other kernels take any.
    context.setSDPUseCuDNN(false);
    context.setAllowBF16ReductionCuBLAS(false);
    context.setAllowFP16ReductionCuBLAS(false);
    return absl::OkStatus();
  });
}

}  // namespace chord::engine
