#include <algorithm>

#include "common/engine/cuda/step_plan.h"

namespace chord::cuda {
namespace {

// The most query rows of a chunk that tiles of few rows serve.
constexpr int kFewQueryRows = 64;

int PagesFor(const StepChunk& chunk) {
  return (chunk.start + chunk.count + kPageRows - 1) / kPageRows;
}

}  // namespace

int64_t PagesOf(const StepChunk* chunks, int count) {
  int64_t pages = 0;
  for (int i = 0; i < count; ++i) pages += PagesFor(chunks[i]);
  return pages;
}

int64_t TokensOf(const StepChunk* chunks, int count) {
  int64_t tokens = 0;
  for (int i = 0; i < count; ++i) tokens += chunks[i].count;
  return tokens;
}

StepPlan::StepPlan(int tokens, int64_t pages, int heads, int kv_heads, bool per_token)
    : tokens_(tokens),
      pages_(pages),
      group_(heads / kv_heads),
      per_token_(per_token),
      tiles_per_token_((group_ + AttentionTileRows(AttentionShape::kFewRows) - 1) /
                       AttentionTileRows(AttentionShape::kFewRows)) {
  int64_t bytes = 0;
  const auto section = [&bytes](int64_t count, int64_t size) {
    const int64_t offset = bytes;
    bytes += (count * size + 15) / 16 * 16;
    return offset;
  };
  tile_capacity_ = tokens * tiles_per_token_;
  sources_ = section(tokens, sizeof(void*));
  ids_ = section(tokens, sizeof(int32_t));
  positions_ = section(3LL * tokens, sizeof(int32_t));
  slots_ = section(tokens, sizeof(int32_t));
  logit_tokens_ = section(tokens, sizeof(int32_t));
  items_ = section(tokens, sizeof(AttentionItem));
  samples_ = section(tokens, sizeof(SampleRow));
  for (int64_t& tiles : tiles_) tiles = section(tile_capacity_, sizeof(AttentionTile));
  page_list_ = section(pages, sizeof(int32_t));
  host_ = PinnedArray<char>(bytes);
  device_ = DeviceArray<char>(bytes);
}

void StepPlan::AddTiles(int item, int count) {
  const AttentionShape shape = per_token_ || count * group_ <= kFewQueryRows
                                   ? AttentionShape::kFewRows
                                   : AttentionShape::kManyRows;
  auto* tiles = HostAt<AttentionTile>(tiles_[Index(shape)]);
  for (int row = 0; row < count * group_; row += AttentionTileRows(shape)) {
    tiles[used_tiles_[Index(shape)]++] = {item, row};
  }
}

void StepPlan::Fill(const StepChunk* chunks, int count, int hidden, int padded) {
  auto** sources = HostAt<const void*>(sources_);
  auto* ids = HostAt<int32_t>(ids_);
  auto* positions = HostAt<int32_t>(positions_);
  auto* slots = HostAt<int32_t>(slots_);
  auto* logit_tokens = HostAt<int32_t>(logit_tokens_);
  auto* items = HostAt<AttentionItem>(items_);
  auto* pages = HostAt<int32_t>(page_list_);
  int token = 0, used_items = 0;
  int32_t table = 0;
  logit_rows_ = used_tiles_[0] = used_tiles_[1] = 0;
  for (const StepChunk* chunk = chunks; chunk != chunks + count; ++chunk) {
    const int n = chunk->count;
    std::copy_n(chunk->pages, PagesFor(*chunk), pages + table);
    if (!per_token_) {
      AddTiles(used_items, n);
      items[used_items++] = {token, n, chunk->start, table, chunk->start};
    }
    for (int i = 0; i < n; ++i, ++token) {
      const int32_t row = chunk->image_rows == nullptr ? -1 : chunk->image_rows[i];
      sources[token] = row < 0 ? nullptr
                               : static_cast<const char*>(chunk->embeddings) +
                                     static_cast<int64_t>(row) * hidden * 2;
      ids[token] = row < 0 ? chunk->ids[i] : 0;
      for (int axis = 0; axis < 3; ++axis) {
        positions[axis * tokens_ + token] = chunk->positions[axis * n + i];
      }
      const int at = chunk->start + i;
      slots[token] = chunk->pages[at / kPageRows] * kPageRows + at % kPageRows;
      if (per_token_) {
        AddTiles(used_items, 1);
        items[used_items++] = {token, 1, at, table, chunk->start};
      }
      if (i >= n - chunk->logits) logit_tokens[logit_rows_++] = token;
    }
    table += PagesFor(*chunk);
  }
  used_tokens_ = token;
  for (int i = 0; i < std::max(token, padded); ++i) samples_on_host()[i].logits_row = -1;
  for (; token < padded; ++token) {
    sources[token] = nullptr;
    ids[token] = 0;
    slots[token] = -1;
    for (int axis = 0; axis < 3; ++axis) positions[axis * tokens_ + token] = 0;
    for (int i = 0; per_token_ && i < tiles_per_token_; ++i) {
      HostAt<AttentionTile>(tiles_[0])[used_tiles_[0]++] = {-1, 0};
    }
  }
  // The longest shares first, so that the last blocks to run are short ones.
  auto* many = HostAt<AttentionTile>(tiles_[1]);
  std::sort(many, many + used_tiles_[1], [&](const AttentionTile& a, const AttentionTile& b) {
    const int x = items[a.item].start + a.row / group_, y = items[b.item].start + b.row / group_;
    return x != y ? x > y : a.item < b.item;
  });
  used_bytes_ = page_list_ + static_cast<int64_t>(table) * static_cast<int64_t>(sizeof(int32_t));
}

void StepPlan::Upload(const Stream& stream) const {
  CHORD_CUDA_CHECK(cudaMemcpyAsync(device_.get(), host_.get(), used_bytes_, cudaMemcpyHostToDevice,
                                   stream.get()));
}

}  // namespace chord::cuda
