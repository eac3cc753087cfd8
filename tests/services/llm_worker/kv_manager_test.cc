#include "services/llm_worker/kv_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace chord::llm_worker {
namespace {

using Symbols = std::vector<KvSymbol>;

const absl::Time kStart = absl::UnixEpoch();
absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

// `before` text rows, `rows` of the image, `after` text rows made of `prompt`.
Symbols Prompt(uint64_t image, int before, int rows, int after, int prompt = 0) {
  Symbols out;
  for (int i = 0; i < before; ++i) out.push_back(TextSymbol(i));
  for (int i = 0; i < rows; ++i) out.push_back(ImageSymbol(image, i));
  for (int i = 0; i < after; ++i) out.push_back(TextSymbol(1000 * (prompt + 1) + i));
  return out;
}

PagedKvManager::Admission Enter(PagedKvManager& planner, const Symbols& prompt, int more,
                                uint64_t image, absl::Time now = kStart, bool share = true) {
  auto admission = planner.Admit(prompt, static_cast<int>(prompt.size()) + more, image, share, now);
  EXPECT_TRUE(admission.has_value());
  return *admission;
}
// Computes and publishes the whole prompt.
void Prefill(PagedKvManager& planner, PagedKvManager::Sequence* sequence, int rows) {
  planner.Pages(sequence, rows);
  planner.Publish(sequence, rows);
}

TEST(PagedKvManager, ASecondRequestFindsTheImageToItsLastRow) {
  PagedKvManager planner({/*pages=*/40, /*page_rows=*/16});
  const Symbols first = Prompt(7, 14, 100, 12, 1), second = Prompt(7, 14, 100, 20, 2);
  auto a = Enter(planner, first, 30, 7);
  EXPECT_EQ(a.kept_rows, 0);
  Prefill(planner, a.sequence, static_cast<int>(first.size()));
  // While the first still runs, and after it.
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(planner.Kept(second), 114);
    auto b = Enter(planner, second, 30, 7);
    EXPECT_EQ(b.kept_rows, 114) << "the last page is copied as far as it fits";
    ASSERT_TRUE(b.copy.has_value());
    EXPECT_EQ(b.copy->rows, 114 % 16);
    EXPECT_NE(b.copy->from, b.copy->to);
    EXPECT_EQ(planner.Pages(b.sequence, 114).back(), b.copy->to);
    planner.Release(b.sequence, At(1));
    if (round == 0) planner.Release(a.sequence, At(2));
  }
}

TEST(PagedKvManager, TheLastRowOfAPromptIsAlwaysComputed) {
  PagedKvManager planner({20, 16});
  for (int rows : {16, 17, 31, 32, 33}) {
    const Symbols prompt = Prompt(rows, 3, rows - 4, 1);
    auto a = Enter(planner, prompt, 1, rows);
    Prefill(planner, a.sequence, rows);
    planner.Release(a.sequence, kStart);
    auto b = Enter(planner, prompt, 1, rows);
    EXPECT_EQ(b.kept_rows, rows - 1);
    planner.Release(b.sequence, kStart);
  }
}

TEST(PagedKvManager, TwoImagesShareNothingButTheWordsBeforeThem) {
  PagedKvManager planner({40, 16});
  auto a = Enter(planner, Prompt(1, 20, 60, 5), 0, 1);
  Prefill(planner, a.sequence, 85);
  EXPECT_EQ(planner.Kept(Prompt(2, 20, 60, 5)), 20);
  EXPECT_EQ(planner.Kept(Prompt(1, 20, 61, 5)), 80);
}

TEST(PagedKvManager, WhatMayNotBeSharedIsNotKept) {
  PagedKvManager planner({40, 16});
  const Symbols prompt = Prompt(1, 20, 60, 5);
  auto a = Enter(planner, prompt, 0, 1, kStart, /*share=*/false);
  Prefill(planner, a.sequence, 85);
  EXPECT_EQ(planner.Kept(prompt), 0);
  planner.Release(a.sequence, kStart);
  EXPECT_EQ(planner.counts().free, 40);
}

TEST(PagedKvManager, AnAnswerBecomesPartOfTheNextTurn) {
  PagedKvManager planner({40, 16});
  Symbols turn = Prompt(1, 5, 30, 5);
  auto a = Enter(planner, turn, 30, 1);
  Prefill(planner, a.sequence, 40);
  const Symbols said = {501, 502, 503, 504, 505, 506, 507, 508, 509, 510};
  planner.Append(a.sequence, said);
  planner.Pages(a.sequence, 49);
  planner.Publish(a.sequence, 49);  // the last one has no KV
  planner.Release(a.sequence, kStart);
  turn.insert(turn.end(), said.begin(), said.end());
  turn.push_back(9);
  EXPECT_EQ(planner.Kept(turn), 49);
}

TEST(PagedKvManager, AdmitsByTheRowsThatMayBeNeededAndKeepsItsPromise) {
  PagedKvManager planner({10, 16});
  auto a = Enter(planner, Prompt(1, 0, 30, 2), 64, 1);  // 6 pages
  EXPECT_EQ(planner.counts().promised, 6);
  EXPECT_FALSE(planner.Admit(Prompt(2, 0, 30, 2), 80, 2, true, kStart).has_value());
  auto b = Enter(planner, Prompt(2, 0, 30, 2), 32, 2);  // 4 pages
  EXPECT_EQ(planner.Pages(a.sequence, 96).size(), 6u);
  EXPECT_EQ(planner.Pages(b.sequence, 64).size(), 4u);
  EXPECT_EQ(planner.counts().free, 0);
  planner.Release(a.sequence, kStart);
  planner.Release(b.sequence, kStart);
  EXPECT_EQ(planner.counts().free, 10) << "nothing was published";
  EXPECT_TRUE(planner.CanEverFit(160));
  EXPECT_FALSE(planner.CanEverFit(161));
}

TEST(PagedKvManager, KeptPagesMakeRoomLeastRecentlyUsedFirstPinnedLast) {
  PagedKvManager planner({12, 16});
  for (uint64_t image : {1, 2, 3}) {
    auto a = Enter(planner, Prompt(image, 0, 60, 4), 0, image);
    Prefill(planner, a.sequence, 64);
    planner.Release(a.sequence, At(static_cast<int>(image)));
  }
  EXPECT_EQ(planner.counts().kept, 12);
  planner.SetPinned(1, true);
  auto use = Enter(planner, Prompt(2, 0, 60, 4), 0, 2, At(8));
  planner.Release(use.sequence, At(9));
  auto b = Enter(planner, Prompt(4, 0, 60, 4), 0, 4, At(10));
  Prefill(planner, b.sequence, 64);
  EXPECT_EQ(planner.Kept(Prompt(1, 0, 60, 4)), 63) << "pinned";
  EXPECT_EQ(planner.Kept(Prompt(2, 0, 60, 4)), 63) << "used lately";
  EXPECT_EQ(planner.Kept(Prompt(3, 0, 60, 4)), 0);
  auto c = Enter(planner, Prompt(5, 0, 60, 4), 0, 5, At(11));
  planner.Pages(c.sequence, 64);
  EXPECT_EQ(planner.Kept(Prompt(2, 0, 60, 4)), 0);
  EXPECT_EQ(planner.Kept(Prompt(1, 0, 60, 4)), 63);
}

TEST(PagedKvManager, ForgettingAImageFreesItsPagesAndLeavesRunningSequencesTheirs) {
  PagedKvManager planner({20, 16});
  auto a = Enter(planner, Prompt(1, 20, 60, 4), 30, 1);
  Prefill(planner, a.sequence, 84);
  auto b = Enter(planner, Prompt(1, 20, 60, 4, 1), 30, 1);
  planner.Release(a.sequence, kStart);
  planner.Forget(1);
  EXPECT_EQ(planner.Kept(Prompt(1, 20, 60, 4)), 16) << "the page of words is everybody's";
  planner.Pages(b.sequence, 100);
  planner.Publish(b.sequence, 84);  // under pages that are forgotten: nobody may find it
  EXPECT_EQ(planner.Kept(Prompt(1, 20, 60, 4, 1)), 16);
  planner.Release(b.sequence, kStart);
  EXPECT_EQ(planner.counts().free, 19);
  EXPECT_FALSE(planner.Keeps(1));
}

TEST(PagedKvManager, TellsHowMuchOfAPromptAnotherIsAboutToCompute) {
  PagedKvManager planner({20, 16});
  auto a = Enter(planner, Prompt(1, 20, 60, 4), 30, 1);
  EXPECT_EQ(PagedKvManager::InPrompt(*a.sequence, Prompt(1, 20, 60, 4, 3)), 80);
  EXPECT_EQ(PagedKvManager::InPrompt(*a.sequence, Prompt(2, 20, 60, 4)), 20);
}

// Random life against a model of what each page holds: whatever a sequence is told is kept must be
// its own symbols, pages of running sequences are never given away, and in the end all are free.
TEST(PagedKvManager, NeverGivesAPageAwayNorLosesOne) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % n); };
    constexpr int kPages = 24, kRows = 4;
    PagedKvManager planner({kPages, kRows});
    std::vector<std::vector<KvSymbol>> memory(kPages, std::vector<KvSymbol>(kRows, ~KvSymbol{0}));
    struct Running {
      PagedKvManager::Sequence* sequence;
      Symbols symbols;  // of the rows that are written
      int prompt, max_rows;
      uint64_t image;
    };
    std::vector<Running> running;
    std::map<uint64_t, uint64_t> numbers;  // image -> its number of now
    uint64_t next_number = 1;
    for (int step = 0; step < 1500; ++step) {
      const absl::Time now = At(step);
      const int action = below(10);
      if (action < 3 && running.size() < 5) {
        const uint64_t which = below(4);
        if (numbers[which] == 0) numbers[which] = next_number++;
        const uint64_t image = numbers[which];
        const Symbols prompt =
            Prompt(image, below(2) * 6, 1 + below(2) * 9, 1 + below(9), below(3));
        const int max_rows = static_cast<int>(prompt.size()) + 1 + below(12);
        auto entry = planner.Admit(prompt, max_rows, image, below(5) > 0, now);
        if (!entry) continue;
        if (entry->copy) {
          for (int i = 0; i < entry->copy->rows; ++i) {
            memory[entry->copy->to][i] = memory[entry->copy->from][i];
          }
        }
        Running r{entry->sequence, prompt, static_cast<int>(prompt.size()), max_rows, image};
        ASSERT_LT(entry->kept_rows, r.prompt);
        const auto pages = planner.Pages(r.sequence, entry->kept_rows);
        for (int i = 0; i < entry->kept_rows; ++i) {
          ASSERT_EQ(memory[pages[i / kRows]][i % kRows], prompt[i]) << seed << " " << step;
        }
        const auto all = planner.Pages(r.sequence, r.prompt);
        for (int i = entry->kept_rows; i < r.prompt; ++i)
          memory[all[i / kRows]][i % kRows] = prompt[i];
        planner.Publish(r.sequence, r.prompt);
        running.push_back(r);
      } else if (action < 7 && !running.empty()) {
        Running& r = running[below(static_cast<int>(running.size()))];
        if (static_cast<int>(r.symbols.size()) == r.max_rows) continue;
        const KvSymbol said = TextSymbol(50 + below(2));
        r.symbols.push_back(said);
        const int rows = static_cast<int>(r.symbols.size());
        const auto pages = planner.Pages(r.sequence, rows);
        memory[pages.back()][(rows - 1) % kRows] = said;
        planner.Append(r.sequence, {said});
        if (below(3) == 0) planner.Publish(r.sequence, rows);
      } else if (action < 9 && !running.empty()) {
        const int i = below(static_cast<int>(running.size()));
        planner.Release(running[i].sequence, now);
        running.erase(running.begin() + i);
      } else if (action == 9) {
        const uint64_t which = below(4);
        if (below(4) == 0) planner.SetPinned(numbers[which], below(2) == 0);
        if (below(6) == 0) planner.Forget(std::exchange(numbers[which], 0));
      }
      std::set<int32_t> writable;
      for (const Running& r : running) {
        const int rows = static_cast<int>(r.symbols.size());
        const auto pages = planner.Pages(r.sequence, rows);
        for (int i = 0; i < rows; ++i) {
          ASSERT_EQ(memory[pages[i / kRows]][i % kRows], r.symbols[i]) << seed << " " << step;
        }
        if (rows % kRows != 0) {
          ASSERT_TRUE(writable.insert(pages.back()).second);
        }
      }
      const auto counts = planner.counts();
      ASSERT_GE(counts.free + counts.kept, counts.promised);
      ASSERT_GE(counts.used, 0);
    }
    for (const Running& r : running) planner.Release(r.sequence, At(5000));
    for (const auto& [which, number] : numbers) planner.Forget(number);
    // What is left was published before any image's row.
    EXPECT_EQ(planner.counts().used, 0);
    EXPECT_EQ(planner.counts().promised, 0);
    EXPECT_EQ(planner.counts().free + planner.counts().kept, kPages);
  }
}

}  // namespace
}  // namespace chord::llm_worker
