// What a step's kernels have to know beside the weights: ids, positions, slots, page tables and the
// shares of attention, laid out in one pinned buffer that goes to the device in one copy.
#pragma once

#include <cstdint>

#include "common/engine/cuda/decoder_api.h"
#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/memory.h"

namespace chord::cuda {

// Device addresses do not change while the plan lives, so graphs may hold them. Fill may be called
// again when the copy of the step before has ended.
class StepPlan {
 public:
  // `tokens` and `pages`: what one step may have at most. `per_token`: every token is an item of
  // attention of its own, as in a decode step; else every chunk is one.
  StepPlan(int tokens, int64_t pages, int heads, int kv_heads, bool per_token);

  bool Fits(int64_t tokens, int64_t pages) const { return tokens <= tokens_ && pages <= pages_; }
  // Lays out the chunks; tokens and tiles up to `padded` do nothing.
  void Fill(const StepChunk* chunks, int count, int hidden, int padded);
  void Upload(const Stream& stream) const;

  int tokens() const { return used_tokens_; }
  int logit_rows() const { return logit_rows_; }
  int tiles(AttentionShape shape) const { return used_tiles_[Index(shape)]; }
  // Tiles of kFewRows that `tokens` items of one token have.
  int TilesOf(int tokens) const { return tokens * tiles_per_token_; }

  const int32_t* ids() const { return At<int32_t>(ids_); }
  const void* const* sources() const { return At<const void*>(sources_); }
  const int32_t* positions() const { return At<int32_t>(positions_); }
  int position_stride() const { return tokens_; }
  const int32_t* slots() const { return At<int32_t>(slots_); }
  // Of the tokens whose logits are wanted: their rows.
  const int32_t* logit_tokens() const { return At<int32_t>(logit_tokens_); }
  const int32_t* logit_tokens_on_host() const { return HostAt<int32_t>(logit_tokens_); }
  const AttentionItem* items() const { return At<AttentionItem>(items_); }
  const AttentionTile* tile_list(AttentionShape shape) const {
    return At<AttentionTile>(tiles_[Index(shape)]);
  }
  const int32_t* pages() const { return At<int32_t>(page_list_); }
  // A row for each of `tokens`; Fill makes all of them choose nothing.
  const SampleRow* samples() const { return At<SampleRow>(samples_); }
  SampleRow* samples_on_host() const { return HostAt<SampleRow>(samples_); }

 private:
  static int Index(AttentionShape shape) { return shape == AttentionShape::kFewRows ? 0 : 1; }
  template <typename T>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(device_.get() + offset);
  }
  template <typename T>
  T* HostAt(int64_t offset) const {
    return reinterpret_cast<T*>(host_.get() + offset);
  }
  void AddTiles(int item, int count);

  const int tokens_;
  const int64_t pages_;
  const int group_;
  const bool per_token_;
  const int tiles_per_token_;
  int64_t sources_, ids_, positions_, slots_, logit_tokens_, items_, samples_, tiles_[2],
      page_list_;
  int tile_capacity_ = 0;
  int used_tokens_ = 0, logit_rows_ = 0, used_items_ = 0, used_tiles_[2] = {};
  int64_t used_bytes_ = 0;
  PinnedArray<char> host_;
  DeviceArray<char> device_;
};

// Pages that the chunks name, all together.
int64_t PagesOf(const StepChunk* chunks, int count);
int64_t TokensOf(const StepChunk* chunks, int count);

}  // namespace chord::cuda
