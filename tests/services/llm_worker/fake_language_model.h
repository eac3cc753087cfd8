// A language model of integers: what it says next is a function of all ids of the sequence, so a
// row that is lost, doubled or mixed up with a neighbour's changes the answer. It also checks what
// the loop promises it, and fails on purpose. For the loop's faults and races; that the loop drives
// the real engine right is shown by the process tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"
#include "common/engine/language_model.h"

namespace chord::llm_worker {

class FakeLanguageModel : public engine::LanguageModel {
 public:
  static constexpr int32_t kEnd = 0;
  static constexpr int32_t kStepFails = 7;  // in a prompt: every step with this sequence fails
  static constexpr int32_t kNotFinite = 8;  // in a prompt: its logits are NaN
  static constexpr int32_t kNeverEnds = 9;  // in a prompt: only the limit ends it

  // Positions of a prompt are index + PromptOffset(axis), of generated tokens index + kRopeDelta.
  static constexpr int64_t kRopeDelta = 500;
  static int64_t PromptOffset(size_t axis) { return 1000 * (static_cast<int64_t>(axis) + 1); }
  static constexpr float kOther = 1, kChosen = 5;  // logits

  FakeLanguageModel(int pages, int tokens, int vocab)
      : vocab_(vocab), kv_(pages, std::vector<int32_t>(engine::kKvPageTokens, kNothing)) {
    options_.kv_tokens = pages * engine::kKvPageTokens;
    options_.max_sequence_tokens = tokens;
  }
  static constexpr int32_t kNothing = 1 << 30;  // a KV row that was never written

  // What it says next after `ids`.
  int32_t Next(const std::vector<int32_t>& ids) const {
    if (script_) return script_(ids);
    uint32_t hash = 2166136261;
    bool endless = false;
    for (int32_t id : ids) {
      hash = (hash ^ static_cast<uint32_t>(id)) * 16777619;
      endless |= id == kNeverEnds;
    }
    if (!endless && hash % 13 == 0) return kEnd;
    return 16 + static_cast<int32_t>(hash / 16 % static_cast<uint32_t>(vocab_ - 16));
  }

  class Embeddings : public engine::EmbeddingBuffer {
   public:
    explicit Embeddings(int64_t rows) : rows_(rows) {}
    absl::Status Write(int64_t, absl::Span<const std::byte>) override { return absl::OkStatus(); }
    int64_t rows() const override { return rows_; }

   private:
    int64_t rows_;
  };
  absl::StatusOr<std::unique_ptr<engine::EmbeddingBuffer>> CreateEmbeddings(int64_t rows,
                                                                            model::DType) override {
    return std::make_unique<Embeddings>(rows);
  }

  absl::Status Step(absl::Span<const Chunk> chunks, std::vector<float>* logits) override {
    {
      absl::MutexLock lock(&gate_);  // held by a test that wants to look between two steps
    }
    ++steps_;
    max_batch_ = std::max<int>(max_batch_, static_cast<int>(chunks.size()));
    logits->clear();
    std::map<int32_t, int> written;
    bool fails = false;
    for (const Chunk& chunk : chunks) {
      const int n = static_cast<int>(chunk.ids.size());
      const int end = chunk.start + n;
      EXPECT_GE(n, 1);
      EXPECT_LE(end, options_.max_sequence_tokens);
      EXPECT_GE(static_cast<int>(chunk.pages.size()) * engine::kKvPageTokens, end);
      for (int page = chunk.start / engine::kKvPageTokens; page * engine::kKvPageTokens < end;
           ++page) {
        EXPECT_EQ(written[chunk.pages[page]]++, 0) << "a page is written by one chunk of a step";
      }
      EXPECT_EQ(chunk.positions.size(), 3 * chunk.ids.size());
      for (int i = 0; i < n; ++i) {
        const int64_t index = chunk.start + i;
        for (size_t axis = 0; axis < 3; ++axis) {
          const int64_t position = chunk.positions[axis * chunk.ids.size() + i];
          const bool generated = chunk.positions[i] == index + kRopeDelta;
          EXPECT_EQ(position, index + (generated ? kRopeDelta : PromptOffset(axis)));
        }
        int32_t& row =
            kv_[chunk.pages[index / engine::kKvPageTokens]][index % engine::kKvPageTokens];
        if (!chunk.image_rows.empty() && chunk.image_rows[i] >= 0) {
          EXPECT_NE(chunk.embeddings, nullptr);
          EXPECT_LT(chunk.image_rows[i], chunk.embeddings->rows());
          row = -1 - chunk.image_rows[i];
        } else {
          row = chunk.ids[i];
        }
      }
      std::vector<int32_t> all;
      bool nan = false;
      for (int i = 0; i < end; ++i) {
        all.push_back(kv_[chunk.pages[i / engine::kKvPageTokens]][i % engine::kKvPageTokens]);
        EXPECT_NE(all.back(), kNothing) << "row " << i << " was never written";
        fails |= all.back() == kStepFails;
        nan |= all.back() == kNotFinite;
        if (i < end - chunk.logits) continue;
        const size_t row = logits->size();
        logits->resize(row + vocab_, nan ? NAN : kOther);
        if (!nan) (*logits)[row + Next(all)] = kChosen;
      }
    }
    return fails ? absl::InternalError("the engine failed at 0x7ffd in libtorch")
                 : absl::OkStatus();
  }

  int vocab_size() const override { return vocab_; }
  const Options& options() const override { return options_; }
  int64_t kv_bytes() const override { return 0; }
  int kv_pages() const override { return static_cast<int>(kv_.size()); }
  absl::Status CopyPage(int32_t from, int32_t to, int rows) override {
    EXPECT_NE(from, to);
    std::copy_n(kv_[from].begin(), rows, kv_[to].begin());
    ++copies_;
    return absl::OkStatus();
  }

  absl::Mutex gate_;
  // What comes next after `ids`, instead of the hash, when set.
  std::function<int32_t(const std::vector<int32_t>& ids)> script_;
  std::atomic<int> steps_{0};
  std::atomic<int> max_batch_{0};
  std::atomic<int> copies_{0};

 private:
  const int vocab_;
  Options options_;
  std::vector<std::vector<int32_t>> kv_;  // by page and row
};

}  // namespace chord::llm_worker
