#include <algorithm>
#include <cstring>

#include "common/engine/cuda/id_sets.h"

namespace chord::cuda {
namespace {

uint64_t Hash(const uint64_t* words, int count) {
  uint64_t lanes[4] = {1, 2, 3, 4};  // independent, so that multiplications overlap
  for (int i = 0; i < count; ++i) {
    uint64_t& lane = lanes[i % 4];
    lane = (lane ^ words[i]) * 0x9E3779B97F4A7C15u;
    lane ^= lane >> 32;
  }
  return lanes[0] ^ lanes[1] * 3 ^ lanes[2] * 5 ^ lanes[3] * 7;
}

}  // namespace

IdSets::IdSets(int vocab)
    : words_((vocab + 63) / 64),
      slots_(kSlots),
      host_(static_cast<int64_t>(kSlots) * words_),
      device_(static_cast<int64_t>(kSlots) * words_) {}

int IdSets::Claim(uint64_t hash) {
  // The first slot from `next_` on that this batch does not use; there are more than a batch needs.
  for (int i = 0; i < kSlots; ++i) {
    const int slot = (next_ + i) % kSlots;
    if (slots_[slot].batch == batch_) continue;
    const auto [begin, end] = by_hash_.equal_range(slots_[slot].hash);
    const auto old =
        std::find_if(begin, end, [slot](const auto& entry) { return entry.second == slot; });
    if (old != end) by_hash_.erase(old);
    slots_[slot] = {hash, batch_};
    by_hash_.emplace(hash, slot);
    next_ = (slot + 1) % kSlots;
    return slot;
  }
  throw Error(Code::kFailed, "a batch names more than %d sets of ids", kSlots);
}

int IdSets::Find(const IdBits& bits, const Stream& stream) {
  const int count = std::min(bits.count, words_);
  const uint64_t hash = Hash(bits.words, count);
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto entry = begin; entry != end; ++entry) {
    const int slot = entry->second;
    const uint64_t* words = host_.get() + static_cast<int64_t>(slot) * words_;
    if (std::memcmp(words, bits.words, count * sizeof(uint64_t)) == 0 &&
        std::all_of(words + count, words + words_, [](uint64_t word) { return word == 0; })) {
      slots_[slot].batch = batch_;
      return slot;
    }
  }
  const int slot = Claim(hash);
  const int64_t offset = static_cast<int64_t>(slot) * words_;
  std::copy_n(bits.words, count, host_.get() + offset);
  std::fill_n(host_.get() + offset + count, words_ - count, 0);
  CHORD_CUDA_CHECK(cudaMemcpyAsync(device_.get() + offset, host_.get() + offset,
                                   words_ * sizeof(uint64_t), cudaMemcpyHostToDevice,
                                   stream.get()));
  return slot;
}

}  // namespace chord::cuda
