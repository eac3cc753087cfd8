// A language model of integers: what it says next is a function of all ids of the sequence, so a
// row that is lost, doubled or mixed up with a neighbour's changes the answer. It also checks what
// the loop promises it, and fails on purpose. For the loop's faults and races; whether the loop
// drives the real engine right is shown by workers_test.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <map>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"
#include "common/engine/language_model.h"

namespace chord::llm_worker {

class FakeLanguageModel : public engine::LanguageModel {
 public:
  static constexpr int32_t kEnd = 0;
  static constexpr int32_t kStepFails = 7;   // in a prompt: every step with this sequence fails
  static constexpr int32_t kNotFinite = 8;   // in a prompt: its logits are NaN
  static constexpr int32_t kNeverEnds = 9;   // in a prompt: only the limit ends it

  // Positions of a prompt are index + PromptOffset(axis), of generated tokens index + kRopeDelta.
  static constexpr int64_t kRopeDelta = 500;
  static int64_t PromptOffset(size_t axis) { return 1000 * (static_cast<int64_t>(axis) + 1); }
  static constexpr float kOther = 1, kChosen = 5;  // logits

  FakeLanguageModel(int slots, int tokens, int vocab) : vocab_(vocab) {
    options_.max_sequences = slots;
    options_.max_sequence_tokens = tokens;
    kv_.resize(slots);
  }

  // What it says next after `ids`.
  int32_t Next(const std::vector<int32_t>& ids) const {
    uint32_t hash = 2166136261;
    bool endless = false;
    for (int32_t id : ids) {
      hash = (hash ^ static_cast<uint32_t>(id)) * 16777619;
      endless |= id == kNeverEnds;
    }
    if (!endless && hash % 13 == 0) return kEnd;
    return 16 + static_cast<int32_t>(hash / 16 % static_cast<uint32_t>(vocab_ - 16));
  }

  class Rows : public engine::EmbeddingBuffer {
   public:
    explicit Rows(int64_t rows) : rows_(rows) {}
    absl::Status Write(int64_t, absl::Span<const std::byte>) override { return absl::OkStatus(); }
    int64_t rows() const override { return rows_; }

   private:
    int64_t rows_;
  };
  absl::StatusOr<std::unique_ptr<engine::EmbeddingBuffer>> CreateEmbeddings(
      int64_t rows, model::DType) override {
    return std::make_unique<Rows>(rows);
  }

  absl::Status Step(absl::Span<const Chunk> chunks, std::vector<float>* logits) override {
    {
      absl::MutexLock lock(&gate_);  // held by a test that wants to look between two steps
    }
    ++steps_;
    max_batch_ = std::max<int>(max_batch_, static_cast<int>(chunks.size()));
    logits->clear();
    std::map<int, int> seen;
    bool fails = false;
    for (const Chunk& chunk : chunks) {
      EXPECT_EQ(seen[chunk.slot]++, 0) << "a slot at most once in a step";
      std::vector<int32_t>& kv = kv_[chunk.slot];
      EXPECT_LE(chunk.start, static_cast<int>(kv.size()));
      kv.resize(chunk.start);
      EXPECT_EQ(chunk.positions.size(), 3 * chunk.ids.size());
      for (size_t i = 0; i < chunk.ids.size(); ++i) {
        const int64_t index = chunk.start + static_cast<int64_t>(i);
        for (size_t axis = 0; axis < 3; ++axis) {
          const int64_t position = chunk.positions[axis * chunk.ids.size() + i];
          const bool generated = chunk.positions[0] == index + kRopeDelta;
          EXPECT_EQ(position, index + (generated ? kRopeDelta : PromptOffset(axis)));
        }
        if (!chunk.image_rows.empty() && chunk.image_rows[i] >= 0) {
          EXPECT_NE(chunk.embeddings, nullptr);
          EXPECT_LT(chunk.image_rows[i], chunk.embeddings->rows());
          kv.push_back(-1 - chunk.image_rows[i]);
        } else {
          kv.push_back(chunk.ids[i]);
        }
      }
      EXPECT_LE(static_cast<int>(kv.size()), options_.max_sequence_tokens);
      bool nan = false;
      for (int32_t id : kv) {
        fails |= id == kStepFails;
        nan |= id == kNotFinite;
      }
      if (chunk.logits == Chunk::Logits::kNone) continue;
      const size_t row = logits->size();
      logits->resize(row + vocab_, nan ? NAN : kOther);
      if (!nan) (*logits)[row + Next(kv)] = kChosen;
    }
    return fails ? absl::InternalError("the engine failed at 0x7ffd in libtorch")
                 : absl::OkStatus();
  }

  int vocab_size() const override { return vocab_; }
  const Options& options() const override { return options_; }
  int64_t kv_bytes() const override { return 0; }

  absl::Mutex gate_;
  std::atomic<int> steps_{0};
  std::atomic<int> max_batch_{0};

 private:
  const int vocab_;
  Options options_;
  std::vector<std::vector<int32_t>> kv_;
};

}  // namespace chord::llm_worker
