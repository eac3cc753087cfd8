// What the qkv product's two epilogues share (after a few-row product, and after cuBLASLt), and
// where keys and values lie.
#pragma once

#include "common/engine/cuda/device.cuh"
#include "common/engine/cuda/kernels.h"

namespace chord::cuda {

// --- where keys and values lie ------------------------------------------------------------------

// Row of the [pages, heads, kPageRows] rows of a KvPages tensor.
__host__ __device__ inline int64_t KvRowIndex(const KvPages& kv, int slot, int head) {
  return (static_cast<int64_t>(slot / kPageRows) * kv.heads + head) * kPageRows + slot % kPageRows;
}
template <typename T>
__device__ T* KvRow(const KvPages& kv, void* tensor, int slot, int head) {
  return static_cast<T*>(tensor) + KvRowIndex(kv, slot, head) * kv.dim;
}

// --- the columns of a fused qkv product ---------------------------------------------------------

enum class QkvPart { kQuery, kKey, kValue };

// Where the eight columns of a group belong: part, head (of that part), and the first column in the
// head of its two halves of four.
struct QkvPlace {
  QkvPart part;
  int head;
  int first;
  int second;
};
__host__ __device__ inline QkvPlace PlaceOf(const QkvShape& shape, int group) {
  const int per_head = shape.dim / 8;
  int head = group / per_head;
  const int inside = group % per_head;
  if (head < shape.heads + shape.kv_heads) {
    const bool query = head < shape.heads;
    return {query ? QkvPart::kQuery : QkvPart::kKey, query ? head : head - shape.heads, 4 * inside,
            4 * inside + shape.dim / 2};
  }
  head -= shape.heads + shape.kv_heads;
  return {QkvPart::kValue, head, 8 * inside, 8 * inside + 4};
}

// Rotates a pair of columns, already rounded to T. Products and sum are rounded one by one, as the
// reference does.
template <typename T>
__device__ void Rotate(float cos, float sin, float* low, float* high) {
  const float a = *low, b = *high;
  *low = Round<T>(Round<T>(a * cos) - Round<T>(b * sin));
  *high = Round<T>(Round<T>(b * cos) + Round<T>(a * sin));
}

// Rotates columns j and j + 4 of a group of queries or keys; leaves values alone.
template <typename T>
__device__ void FinishQkv(const QkvShape& shape, const Rotary& rotary, int token, int group, int j,
                          float* low, float* high) {
  const QkvPlace place = PlaceOf(shape, group);
  if (place.part == QkvPart::kValue) return;
  const int frequency = place.first + j;
  const int position = rotary.positions[rotary.axes[frequency] * rotary.stride + token];
  const int64_t at = static_cast<int64_t>(position) * (shape.dim / 2) + frequency;
  Rotate<T>(rotary.cos[at], rotary.sin[at], low, high);
}

// --- SwiGLU -------------------------------------------------------------------------------------

template <typename T>
__device__ float GatedValue(float gate, float up) {
  return Round<T>(gate / (1.f + expf(-gate))) * up;
}

}  // namespace chord::cuda
