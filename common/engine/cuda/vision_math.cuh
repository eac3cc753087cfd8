// Types, tensor-core instructions and asynchronous copies that the vision kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace chord::cuda::vision {

// float32 <-> the compute dtype, rounded to nearest even.
template <typename T>
struct Number;
template <>
struct Number<__nv_bfloat16> {
  using Pair = __nv_bfloat162;
  static __device__ float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }
  static __device__ float2 Widen(Pair x) { return __bfloat1622float2(x); }
  static __device__ __nv_bfloat16 Narrow(float x) { return __float2bfloat16_rn(x); }
  static __device__ Pair Narrow(float a, float b) { return __floats2bfloat162_rn(a, b); }
};
template <>
struct Number<__half> {
  using Pair = __half2;
  static __device__ float Widen(__half x) { return __half2float(x); }
  static __device__ float2 Widen(Pair x) { return __half22float2(x); }
  static __device__ __half Narrow(float x) { return __float2half_rn(x); }
  static __device__ Pair Narrow(float a, float b) { return __floats2half2_rn(a, b); }
};

// Two neighbouring values as the 32 bits that registers, loads and tensor cores hold.
template <typename T>
__device__ inline float2 WidenPair(uint32_t bits) {
  typename Number<T>::Pair pair;
  memcpy(&pair, &bits, sizeof(pair));
  return Number<T>::Widen(pair);
}
template <typename T>
__device__ inline uint32_t NarrowPair(float a, float b) {
  const typename Number<T>::Pair pair = Number<T>::Narrow(a, b);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
template <typename T>
__device__ inline float Round(float x) {
  return Number<T>::Widen(Number<T>::Narrow(x));
}

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8x8 tiles of 16-bit values; lane i names row i % 8 of tile i / 8.
__device__ inline void LoadTiles(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row)));
}
__device__ inline void LoadTilesTransposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row)));
}

// d [16, 8] += a [16, 16] · b [16, 8].
template <typename T>
__device__ inline void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void Mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void Mma<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes global -> shared without registers; `valid` false writes zeros and reads nothing.
__device__ inline void CopyAsync16(void* to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(bytes));
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

// Programmatic dependent launch: a kernel may start while the one before it ends. Nothing that the
// one before wrote may be read before WaitForPrevious. No-ops before Hopper.
__device__ inline void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void AllowNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace chord::cuda::vision
