// Sets of token ids that live on the device. A grammar asks with the same few sets again and again,
// so they are kept there and looked up by content.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/engine/cuda/decoder_api.h"
#include "common/engine/cuda/memory.h"

namespace chord::cuda {

class IdSets {
 public:
  explicit IdSets(int vocab);

  int words() const { return words_; }
  const uint64_t* device() const { return device_.get(); }

  // A batch may name up to kSlots different sets, whose slots stay valid until the next BeginBatch.
  // BeginBatch waits for nothing: the work that reads earlier slots must have ended.
  void BeginBatch() { ++batch_; }
  int Find(const IdBits& bits, const Stream& stream);

  static constexpr int kSlots = 1024;

 private:
  struct Slot {
    uint64_t hash = 0;
    int64_t batch = -1;  // of the last use
  };
  int Claim(uint64_t hash);

  const int words_;
  std::vector<Slot> slots_;
  std::unordered_multimap<uint64_t, int> by_hash_;
  int64_t batch_ = 0;
  int next_ = 0;
  PinnedArray<uint64_t> host_;  // the same sets: what is compared, and what is copied from
  DeviceArray<uint64_t> device_;
};

}  // namespace chord::cuda
