// Owners of device memory, pinned host memory, streams and events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "common/engine/cuda/status.h"

namespace chord::cuda {

// Makes `device` current for the scope; every public entry of the plugin has one.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    CHORD_CUDA_CHECK(cudaGetDevice(&before_));
    CHORD_CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

// Memory of the current device; its contents are undefined.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(int64_t count) : count_(count) {
    if (count > 0) CHORD_CUDA_CHECK(cudaMalloc(&data_, count * sizeof(T)));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(DeviceArray&& other) noexcept { Swap(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    DeviceArray moved(std::move(other));
    Swap(moved);
    return *this;
  }
  T* get() const { return data_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  void Swap(DeviceArray& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }
  T* data_ = nullptr;
  int64_t count_ = 0;
};

// Page-locked host memory, for copies that run beside the host.
template <typename T>
class PinnedArray {
 public:
  PinnedArray() = default;
  explicit PinnedArray(int64_t count) : count_(count) {
    if (count > 0) CHORD_CUDA_CHECK(cudaMallocHost(&data_, count * sizeof(T)));
  }
  ~PinnedArray() { cudaFreeHost(data_); }
  PinnedArray(PinnedArray&& other) noexcept { Swap(other); }
  PinnedArray& operator=(PinnedArray&& other) noexcept {
    PinnedArray moved(std::move(other));
    Swap(moved);
    return *this;
  }
  T* get() const { return data_; }
  int64_t count() const { return count_; }

 private:
  void Swap(PinnedArray& other) {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
  }
  T* data_ = nullptr;
  int64_t count_ = 0;
};

class Stream {
 public:
  Stream() { CHORD_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void Wait() const { CHORD_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { CHORD_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }
  void Record(const Stream& stream) { CHORD_CUDA_CHECK(cudaEventRecord(event_, stream.get())); }
  void Wait() const { CHORD_CUDA_CHECK(cudaEventSynchronize(event_)); }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace chord::cuda
