#include "services/llm_worker/kv_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace chord::llm_worker {
namespace {

using Keys = std::vector<TokenKey>;

const absl::Time kStart = absl::UnixEpoch();
absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

// `before` text rows, `rows` of the image, `after` text rows made from `prompt`.
Keys Prompt(uint64_t image, int before, int rows, int after, int prompt = 0) {
  Keys out;
  for (int i = 0; i < before; ++i) out.push_back(TextKey(i));
  for (int i = 0; i < rows; ++i) out.push_back(ImageKey(image, i));
  for (int i = 0; i < after; ++i) out.push_back(TextKey(1000 * (prompt + 1) + i));
  return out;
}

PagedKvManager::Admission Enter(PagedKvManager& kv, const Keys& prompt, int more, uint64_t image,
                                absl::Time now = kStart, bool share = true) {
  auto admission = kv.Admit(prompt, static_cast<int>(prompt.size()) + more, image, share, now);
  EXPECT_TRUE(admission.has_value());
  return *admission;
}
// Computes and inserts the whole prompt.
void Prefill(PagedKvManager& kv, KvLease* lease, int rows) {
  kv.Pages(lease, rows);
  kv.InsertPrefix(lease, rows);
}

TEST(PagedKvManager, ASecondRequestMatchesTheImageToItsLastRow) {
  PagedKvManager kv({/*pages=*/40, /*page_rows=*/16});
  const Keys first = Prompt(7, 14, 100, 12, 1), second = Prompt(7, 14, 100, 20, 2);
  auto a = Enter(kv, first, 30, 7);
  EXPECT_EQ(a.cached_rows, 0);
  Prefill(kv, a.lease, static_cast<int>(first.size()));
  // While the first still runs, and after it.
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(kv.MatchedPrefixLength(second), 114);
    auto b = Enter(kv, second, 30, 7);
    EXPECT_EQ(b.cached_rows, 114) << "the last page is copied as far as it fits";
    ASSERT_TRUE(b.copy.has_value());
    EXPECT_EQ(b.copy->rows, 114 % 16);
    EXPECT_NE(b.copy->from, b.copy->to);
    EXPECT_EQ(kv.Pages(b.lease, 114).back(), b.copy->to);
    kv.Release(b.lease, At(1));
    if (round == 0) kv.Release(a.lease, At(2));
  }
}

TEST(PagedKvManager, TheLastRowOfAPromptIsAlwaysComputed) {
  PagedKvManager kv({20, 16});
  for (int rows : {16, 17, 31, 32, 33}) {
    const Keys prompt = Prompt(rows, 3, rows - 4, 1);
    auto a = Enter(kv, prompt, 1, rows);
    Prefill(kv, a.lease, rows);
    kv.Release(a.lease, kStart);
    auto b = Enter(kv, prompt, 1, rows);
    EXPECT_EQ(b.cached_rows, rows - 1);
    kv.Release(b.lease, kStart);
  }
}

TEST(PagedKvManager, TwoImagesShareOnlyTheTextBeforeThem) {
  PagedKvManager kv({40, 16});
  auto a = Enter(kv, Prompt(1, 20, 60, 5), 0, 1);
  Prefill(kv, a.lease, 85);
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(2, 20, 60, 5)), 20);
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(1, 20, 61, 5)), 80);
}

TEST(PagedKvManager, WhatMayNotBeSharedIsNotCached) {
  PagedKvManager kv({40, 16});
  const Keys prompt = Prompt(1, 20, 60, 5);
  auto a = Enter(kv, prompt, 0, 1, kStart, /*share=*/false);
  Prefill(kv, a.lease, 85);
  EXPECT_EQ(kv.MatchedPrefixLength(prompt), 0);
  kv.Release(a.lease, kStart);
  EXPECT_EQ(kv.counts().free, 40);
}

TEST(PagedKvManager, AnAnswerBecomesPartOfTheNextTurn) {
  PagedKvManager kv({40, 16});
  Keys turn = Prompt(1, 5, 30, 5);
  auto a = Enter(kv, turn, 30, 1);
  Prefill(kv, a.lease, 40);
  const Keys answer = {501, 502, 503, 504, 505, 506, 507, 508, 509, 510};
  kv.Append(a.lease, answer);
  kv.Pages(a.lease, 49);
  kv.InsertPrefix(a.lease, 49);  // the last one has no KV
  kv.Release(a.lease, kStart);
  turn.insert(turn.end(), answer.begin(), answer.end());
  turn.push_back(9);
  EXPECT_EQ(kv.MatchedPrefixLength(turn), 49);
}

TEST(PagedKvManager, AdmitsByTheRowsThatMayBeNeededAndReservesThem) {
  PagedKvManager kv({10, 16});
  auto a = Enter(kv, Prompt(1, 0, 30, 2), 64, 1);  // 6 pages
  EXPECT_EQ(kv.counts().reserved, 6);
  EXPECT_FALSE(kv.Admit(Prompt(2, 0, 30, 2), 80, 2, true, kStart).has_value());
  auto b = Enter(kv, Prompt(2, 0, 30, 2), 32, 2);  // 4 pages
  EXPECT_EQ(kv.Pages(a.lease, 96).size(), 6u);
  EXPECT_EQ(kv.Pages(b.lease, 64).size(), 4u);
  EXPECT_EQ(kv.counts().free, 0);
  kv.Release(a.lease, kStart);
  kv.Release(b.lease, kStart);
  EXPECT_EQ(kv.counts().free, 10) << "nothing was inserted";
  EXPECT_TRUE(kv.CanEverFit(160));
  EXPECT_FALSE(kv.CanEverFit(161));
}

TEST(PagedKvManager, CachedPagesAreEvictedLeastRecentlyUsedFirstPinnedLast) {
  PagedKvManager kv({12, 16});
  for (uint64_t image : {1, 2, 3}) {
    auto a = Enter(kv, Prompt(image, 0, 60, 4), 0, image);
    Prefill(kv, a.lease, 64);
    kv.Release(a.lease, At(static_cast<int>(image)));
  }
  EXPECT_EQ(kv.counts().cached, 12);
  kv.SetPinned(1, true);
  auto use = Enter(kv, Prompt(2, 0, 60, 4), 0, 2, At(8));
  kv.Release(use.lease, At(9));
  auto b = Enter(kv, Prompt(4, 0, 60, 4), 0, 4, At(10));
  Prefill(kv, b.lease, 64);
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(1, 0, 60, 4)), 63) << "pinned";
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(2, 0, 60, 4)), 63) << "used recently";
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(3, 0, 60, 4)), 0);
  auto c = Enter(kv, Prompt(5, 0, 60, 4), 0, 5, At(11));
  kv.Pages(c.lease, 64);
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(2, 0, 60, 4)), 0);
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(1, 0, 60, 4)), 63);
}

TEST(PagedKvManager, InvalidatingAnImageFreesItsPagesAndLeavesRunningSequencesTheirs) {
  PagedKvManager kv({20, 16});
  auto a = Enter(kv, Prompt(1, 20, 60, 4), 30, 1);
  Prefill(kv, a.lease, 84);
  auto b = Enter(kv, Prompt(1, 20, 60, 4, 1), 30, 1);
  kv.Release(a.lease, kStart);
  kv.InvalidateImage(1);
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(1, 20, 60, 4)), 16)
      << "the page of text belongs to no image";
  kv.Pages(b.lease, 100);
  kv.InsertPrefix(b.lease, 84);  // under invalidated pages: must not be found
  EXPECT_EQ(kv.MatchedPrefixLength(Prompt(1, 20, 60, 4, 1)), 16);
  kv.Release(b.lease, kStart);
  EXPECT_EQ(kv.counts().free, 19);
}

TEST(PagedKvManager, TellsHowManyRowsOfAPromptAnotherSequenceWillInsert) {
  PagedKvManager kv({20, 16});
  auto a = Enter(kv, Prompt(1, 20, 60, 4), 30, 1);
  EXPECT_EQ(PagedKvManager::SharedPromptRows(*a.lease, Prompt(1, 20, 60, 4, 3)), 80);
  EXPECT_EQ(PagedKvManager::SharedPromptRows(*a.lease, Prompt(2, 20, 60, 4)), 20);
}

// Random operations against a model of what each page holds: cached rows must hold the sequence's
// own keys, pages of running sequences are never handed out, and in the end no page is lost.
TEST(PagedKvManager, NeverHandsOutAPageInUseAndLosesNone) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % n); };
    constexpr int kPages = 24, kRows = 4;
    PagedKvManager kv({kPages, kRows});
    std::vector<std::vector<TokenKey>> memory(kPages, std::vector<TokenKey>(kRows, ~TokenKey{0}));
    struct Running {
      KvLease* lease;
      Keys keys;  // of the rows that are written
      int prompt, max_rows;
      uint64_t image;
    };
    std::vector<Running> running;
    std::map<uint64_t, uint64_t> ids;  // image -> its current id
    uint64_t next_id = 1;
    for (int step = 0; step < 1500; ++step) {
      const absl::Time now = At(step);
      const int action = below(10);
      if (action < 3 && running.size() < 5) {
        const uint64_t which = below(4);
        if (ids[which] == 0) ids[which] = next_id++;
        const uint64_t image = ids[which];
        const Keys prompt = Prompt(image, below(2) * 6, 1 + below(2) * 9, 1 + below(9), below(3));
        const int max_rows = static_cast<int>(prompt.size()) + 1 + below(12);
        auto entry = kv.Admit(prompt, max_rows, image, below(5) > 0, now);
        if (!entry) continue;
        if (entry->copy) {
          for (int i = 0; i < entry->copy->rows; ++i) {
            memory[entry->copy->to][i] = memory[entry->copy->from][i];
          }
        }
        Running r{entry->lease, prompt, static_cast<int>(prompt.size()), max_rows, image};
        ASSERT_LT(entry->cached_rows, r.prompt);
        const auto pages = kv.Pages(r.lease, entry->cached_rows);
        for (int i = 0; i < entry->cached_rows; ++i) {
          ASSERT_EQ(memory[pages[i / kRows]][i % kRows], prompt[i]) << seed << " " << step;
        }
        const auto all = kv.Pages(r.lease, r.prompt);
        for (int i = entry->cached_rows; i < r.prompt; ++i)
          memory[all[i / kRows]][i % kRows] = prompt[i];
        kv.InsertPrefix(r.lease, r.prompt);
        running.push_back(r);
      } else if (action < 7 && !running.empty()) {
        Running& r = running[below(static_cast<int>(running.size()))];
        if (static_cast<int>(r.keys.size()) == r.max_rows) continue;
        const TokenKey answer = TextKey(50 + below(2));
        r.keys.push_back(answer);
        const int rows = static_cast<int>(r.keys.size());
        const auto pages = kv.Pages(r.lease, rows);
        memory[pages.back()][(rows - 1) % kRows] = answer;
        kv.Append(r.lease, {answer});
        if (below(3) == 0) kv.InsertPrefix(r.lease, rows);
      } else if (action < 9 && !running.empty()) {
        const int i = below(static_cast<int>(running.size()));
        kv.Release(running[i].lease, now);
        running.erase(running.begin() + i);
      } else if (action == 9) {
        const uint64_t which = below(4);
        if (below(4) == 0) kv.SetPinned(ids[which], below(2) == 0);
        if (below(6) == 0) kv.InvalidateImage(std::exchange(ids[which], 0));
      }
      std::set<int32_t> writable;
      for (const Running& r : running) {
        const int rows = static_cast<int>(r.keys.size());
        const auto pages = kv.Pages(r.lease, rows);
        for (int i = 0; i < rows; ++i) {
          ASSERT_EQ(memory[pages[i / kRows]][i % kRows], r.keys[i]) << seed << " " << step;
        }
        if (rows % kRows != 0) {
          ASSERT_TRUE(writable.insert(pages.back()).second);
        }
      }
      const auto counts = kv.counts();
      ASSERT_GE(counts.free + counts.cached, counts.reserved);
      ASSERT_GE(counts.used, 0);
    }
    for (const Running& r : running) kv.Release(r.lease, At(5000));
    for (const auto& [which, id] : ids) kv.InvalidateImage(id);
    // What is left was inserted before any image's row.
    EXPECT_EQ(kv.counts().used, 0);
    EXPECT_EQ(kv.counts().reserved, 0);
    EXPECT_EQ(kv.counts().free + kv.counts().cached, kPages);
  }
}

}  // namespace
}  // namespace chord::llm_worker
