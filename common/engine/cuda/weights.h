// The decoder's weights on the device, fused and laid out for the kernels, and how they get there.
#pragma once

#include <vector>

#include "common/engine/cuda/decoder_api.h"
#include "common/engine/cuda/kernels.h"
#include "common/engine/cuda/memory.h"

namespace chord::cuda {

// Two-byte elements of the decoder's type.
using Elements = DeviceArray<uint16_t>;

struct LayerWeights {
  Elements input_norm, post_norm;
  Elements qkv_weight, qkv_bias;  // rows in the order of QkvShape
  Elements o_weight;
  Elements gate_up_weight;  // groups of eight rows: four of gate, four of up
  Elements down_weight;
};

struct DecoderWeights {
  Elements embedding, final_norm;
  Elements head_storage;  // empty when tied
  std::vector<LayerWeights> layers;
  const uint16_t* head() const {
    return head_storage.get() == nullptr ? embedding.get() : head_storage.get();
  }
};

// Takes memory for all weights and fills it: rows are gathered, and converted where the checkpoint
// has another type, by several threads into two pinned buffers in turn, while the other one is on
// its way.
DecoderWeights LoadWeights(const DecoderOptions& options, const DecoderTensors& tensors,
                           int threads, const Stream& stream);

// Converts `count` host elements to the two-byte type `to`. `values` may be unaligned.
void ConvertElements(const void* values, Dtype from, int64_t count, Dtype to, uint16_t* out);

}  // namespace chord::cuda
