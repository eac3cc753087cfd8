// The decoder's kernels as functions: each enqueues work on a stream and returns at once. All
// pointers are device pointers; matrices are row-major and dense unless a stride is named. The
// element type of void pointers is the `Dtype` given, one of the two-byte types. Failures are
// thrown as Error (status.h).
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/engine/cuda/cuda_api.h"

namespace chord::cuda {

inline constexpr int kPageRows = 16;

// Where and how a kernel is launched.
struct Launch {
  cudaStream_t stream = nullptr;
  bool overlap = false;  // may begin before the previous kernel ends (compute capability 9.0)
};

// What the kernels need to know of the device.
struct Device {
  int index = 0;
  int multiprocessors = 0;
  int shared_bytes_per_block = 0;  // with opt-in
  int shared_bytes_per_multiprocessor = 0;
  bool overlap = false;  // programmatic launches: compute capability 9.0
};
Device QueryDevice(int index);

// --- keys and values ----------------------------------------------------------------------------

// One layer's pages. A page holds for each kv head kPageRows rows of `dim` values, one after
// another. int8: values are scaled by a float32 per page, head and row.
struct KvPages {
  void* keys = nullptr;
  void* values = nullptr;
  float* key_scales = nullptr;  // null: the model's type
  float* value_scales = nullptr;
  int heads = 0;
  int dim = 0;
};

// The order of a fused qkv product's columns. Queries and keys of a head: groups of eight, four of
// the first half and their four rotary partners of the second half. Values: as they are.
struct QkvShape {
  int heads = 0;
  int kv_heads = 0;
  int dim = 0;
  constexpr int width() const { return (heads + 2 * kv_heads) * dim; }
};

// Rotation of one step's tokens: float32 [positions, dim / 2] tables, rounded to the model's type,
// axis of each frequency, and positions [3, stride] of which token i has column i.
struct Rotary {
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* axes = nullptr;
  const int32_t* positions = nullptr;
  int stride = 0;
};

// --- element-wise -------------------------------------------------------------------------------

// hidden[i] = image_rows[i] >= 0 ? embeddings row : table[ids[i]]. `sources[i]` is the embeddings'
// row itself, or null for the table.
void Embed(Dtype dtype, const void* table, const int32_t* ids, const void* const* sources,
           int tokens, int width, void* hidden, const Launch& launch);
// hidden[i] += delta[i] (unless null), rounded; out[i] = norm(hidden[i]) · weight. width <= 8192.
void AddNorm(Dtype dtype, void* hidden, const void* delta, const void* weight, float eps, int rows,
             int width, void* out, const Launch& launch);
// out[i] = x[rows[i]].
void GatherRows(Dtype dtype, const void* x, const int32_t* rows, int count, int width, void* out,
                const Launch& launch);
// out[i][4t + j] = silu(x[i][8t + j]) · x[i][8t + 4 + j], j < 4.
void SwiGlu(Dtype dtype, const void* x, int rows, int inner, void* out, const Launch& launch);
// qkv [tokens, shape.width()] in the order of QkvShape: queries rotated to q [tokens, heads·dim],
// keys rotated and values stored at KV rows slots[i] (page · kPageRows + row; -1: not stored).
void RotateAndStore(Dtype dtype, const void* qkv, const QkvShape& shape, const Rotary& rotary,
                    const int32_t* slots, int tokens, const KvPages& kv, void* q,
                    const Launch& launch);
// Of the same product: k and v [tokens, kv_heads·dim], keys rotated.
void SplitKeys(Dtype dtype, const void* qkv, const QkvShape& shape, const Rotary& rotary,
               int tokens, void* k, void* v, const Launch& launch);
// int8 pages from k, v [tokens, kv_heads·dim], keys rotated already.
void StoreInt8(Dtype dtype, const void* k, const void* v, const int32_t* slots, int tokens,
               const KvPages& kv, const Launch& launch);
void CopyPage(Dtype dtype, const KvPages& kv, int from, int to, int rows, const Launch& launch);

// --- products of few rows -----------------------------------------------------------------------

// Memory-bound products y = x·weightᵀ of 1 .. kFewTokens rows x [tokens, in], weight [out, in].
inline constexpr int kFewTokens = 8;

// A weight matrix [rows, columns] and, from compute capability 9.0 on, how the copy engine reads
// it. 128-byte alignment of `data`; columns a multiple of eight.
struct Weight {
  const void* data = nullptr;
  int rows = 0;
  int columns = 0;
  CUtensorMap map = {};
};
Weight DescribeWeight(const Device& device, const void* data, int rows, int columns);

// norm(hidden)·weightᵀ + bias, rotated and stored: q [tokens, heads·dim], keys and values to their
// pages. With int8 pages, k and v [tokens, kv_heads·dim] instead.
struct FewQkv {
  const void* hidden;
  const void* norm;
  float eps;
  const Weight* weight;
  const void* bias;
  QkvShape shape;
  Rotary rotary;
  const int32_t* slots;
  KvPages kv;
  void* q;
  void* k;
  void* v;
};
// Whether rows of `in` values fit into a block's memory, which all of these need but FewRowsAdd.
bool FewRowsFit(const Device& device, int tokens, int in);
void FewRowsQkv(Dtype dtype, const Device& device, const FewQkv& args, int tokens,
                const Launch& launch);
// out [tokens, inner] = silu(gate)·up of norm(hidden); weight [2·inner, in], groups of eight rows:
// four of gate, four of up.
void FewRowsSwiGlu(Dtype dtype, const Device& device, const void* hidden, const void* norm,
                   float eps, const Weight& weight, int tokens, void* out, const Launch& launch);
// hidden [tokens, out] += x·weightᵀ.
void FewRowsAdd(Dtype dtype, const Device& device, const void* x, const Weight& weight, int tokens,
                void* hidden, const Launch& launch);
// logits [tokens, stride] = norm(hidden)·weightᵀ.
void FewRowsHead(Dtype dtype, const Device& device, const void* hidden, const void* norm, float eps,
                 const Weight& weight, int tokens, int stride, void* logits, const Launch& launch);

// --- attention ----------------------------------------------------------------------------------

// `count` query rows from row `begin` of q, of one sequence; row begin + i sees KV rows
// [0, start + i], whose pages are pages[table ..].
struct AttentionItem {
  int32_t begin;
  int32_t count;
  int32_t start;
  int32_t table;
  int32_t fresh;  // first KV row of the sequence that this step writes
};
// A block's share of an item: query rows of all heads of a group, counted token by token.
struct AttentionTile {
  int32_t item;  // -1: nothing to do
  int32_t row;   // first of up to AttentionTileRows(…), a multiple of it
};
struct Attention {
  const void* q;  // [tokens, heads·dim]
  void* out;      // like q
  KvPages kv;
  int heads;
  const AttentionItem* items;
  const AttentionTile* tiles;
  const int32_t* pages;
  float* partial;      // AttentionPartialFloats(…)
  unsigned* counters;  // a zero for each tile and kv head; zero again afterwards
};
// Few query rows of each item (count · group <= 16 is best served) against long contexts, or many.
enum class AttentionShape { kFewRows, kManyRows };
int AttentionTileRows(AttentionShape shape);
// Shared memory of a block, at most.
inline constexpr int kAttentionSharedBytes = 67 << 10;
bool AttentionSupports(int dim, int heads, int kv_heads);
// Parts that the context is cut into so that `tiles` fill the device.
int AttentionSplits(const Device& device, AttentionShape shape, int tiles, int kv_heads);
int64_t AttentionPartialFloats(AttentionShape shape, int tiles, int kv_heads, int splits, int dim);
void RunAttention(Dtype dtype, AttentionShape shape, const Attention& args, int tiles, int splits,
                  const Launch& launch);

// --- choosing tokens ----------------------------------------------------------------------------

// How the token after one row of logits is chosen; see SampleSpec in sampler.h. Sets of ids are
// rows of `sets` [.., words] of 64-bit words; -1 means every id (allowed) or no set.
inline constexpr int kMaxMassSets = 6;
struct SampleRow {
  int32_t logits_row;  // -1: nothing to choose
  int32_t allowed;
  int32_t penalized_begin;  // in `penalized`
  int32_t penalized_count;
  float penalty;
  int32_t mass_sets;  // how many of mass[] count
  int32_t mass[kMaxMassSets];
};
struct SampleResult {
  double log_probability;
  double log_mass[kMaxMassSets];
  int32_t id;
  int32_t finite;
};
struct SampleBuffers {
  const void* logits;
  int64_t stride;
  int vocab;
  const uint64_t* sets;
  int words;
  const int32_t* penalized;
  const SampleRow* rows;
  void* partial;  // SamplePartialBytes(rows)
  SampleResult* results;
};
int64_t SamplePartialBytes(int rows);
void Sample(Dtype dtype, const SampleBuffers& buffers, int rows, const Launch& launch);
// out [rows, vocab] float32 = logits[row_of[i]].
void WidenRows(Dtype dtype, const void* logits, int64_t stride, const int32_t* row_of, int rows,
               int vocab, float* out, const Launch& launch);

}  // namespace chord::cuda
