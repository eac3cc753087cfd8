// Random walks through the masks: whatever is chosen among what is allowed, the answer is whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/grounding/answer_parser.h"
#include "services/llm_worker/grammar/box_automaton.h"
#include "services/llm_worker/grammar/box_grammar.h"
#include "tests/services/llm_worker/grammar/vocabularies.h"

namespace chord::grammar {
namespace {

struct TestVocabulary {
  const model::Tokenizer* tokenizer;
  int size;
  std::vector<int32_t> eos;
  std::shared_ptr<const BoxGrammar> grammar;

  TestVocabulary(const model::Tokenizer& t, int n, const std::vector<int32_t>& end)
      : tokenizer(&t), size(n), eos(end), grammar(*BoxGrammar::Compile(t, n, end)) {}
};

std::vector<int32_t> Ids(absl::Span<const uint64_t> mask) {
  std::vector<int32_t> ids;
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      ids.push_back(static_cast<int32_t>(word * 64) + __builtin_ctzll(bits));
    }
  }
  return ids;
}

void ExpectWhole(const std::string& text, const BoxRequest& prompt) {
  const grounding::ParsedAnswer parsed = grounding::ParseAnswer(text);
  EXPECT_FALSE(parsed.truncated) << text;
  if (text.find('{') == std::string::npos) {
    EXPECT_TRUE(parsed.explicit_empty) << text;
  } else {
    EXPECT_FALSE(parsed.objects.empty()) << text;
  }
  for (const auto& o : parsed.objects) {
    EXPECT_TRUE(0 <= o.box.x1 && o.box.x1 < o.box.x2 && o.box.x2 <= prompt.width) << text;
    EXPECT_TRUE(0 <= o.box.y1 && o.box.y1 < o.box.y2 && o.box.y2 <= prompt.height) << text;
    EXPECT_LE(o.label.size(), 256u) << text;
  }
}

// One answer by random choices. The first bytes are given, so that it begins the form. What may be
// jumped to or drafted is followed now and then, as a decode loop does.
void Walk(const TestVocabulary& v, std::mt19937& random, const std::string& begin) {
  const BoxRequest prompt{static_cast<int>(1 + random() % 1200),
                          static_cast<int>(1 + random() % 1200), "find all red apples"};
  BoxCursor cursor(v.grammar.get(), prompt);
  std::string text;
  const auto accept = [&](int32_t id) {
    absl::StrAppend(&text, v.tokenizer->TokenBytes(id));
    cursor.Accept(id);
    ASSERT_TRUE(cursor.inside()) << text;
  };
  for (const int32_t id : v.tokenizer->EncodeText(begin)) {
    absl::StrAppend(&text, v.tokenizer->TokenBytes(id));
    cursor.Accept(id);
  }
  ASSERT_TRUE(cursor.inside()) << begin;
  const auto steps = static_cast<int>(random() % 120);
  for (int step = 0; step < 4000; ++step) {
    const std::vector<int32_t> ids = Ids(cursor.Sets()->allowed);
    ASSERT_FALSE(ids.empty()) << text;
    for (const auto& some : {cursor.JumpForward(), cursor.Draft()}) {
      BoxCursor ahead = cursor;
      for (const int32_t id : some) {
        ASSERT_TRUE(Contains(ahead.Sets()->allowed, id))
            << text << " then " << v.tokenizer->TokenBytes(id);
        ahead.Accept(id);
      }
      ASSERT_TRUE(ahead.inside());
    }
    if (const auto closing = cursor.CloseTruncated(); closing && !cursor.complete()) {
      ASSERT_LE(closing->keep_bytes, text.size());
      ExpectWhole(text.substr(0, closing->keep_bytes) + closing->text, prompt);
    }
    int32_t id = ids[random() % ids.size()];
    if (step > steps) {  // towards the end: quotes and brackets first
      size_t best = 0;
      for (size_t i = 0; i < ids.size(); ++i) {
        const absl::string_view bytes = v.tokenizer->TokenBytes(ids[i]);
        const auto rank = [&] {
          if (bytes == "]" || v.tokenizer->IsAdded(ids[i])) return 4;
          return bytes == "}" || bytes == "\"" ? 3 : bytes == "`" || bytes == "," ? 2 : 1;
        }();
        if (static_cast<size_t>(rank) > best) {
          best = static_cast<size_t>(rank);
          id = ids[i];
        }
      }
    }
    if (std::find(v.eos.begin(), v.eos.end(), id) != v.eos.end()) {
      EXPECT_TRUE(cursor.may_end());
      ExpectWhole(text, prompt);
      return;
    }
    ASSERT_FALSE(v.tokenizer->IsAdded(id));
    ASSERT_NO_FATAL_FAILURE(accept(id));
  }
  FAIL() << "no end: " << text;
}

void WalkMany(const TestVocabulary& v, int walks, uint32_t seed) {
  std::mt19937 random(seed);
  for (int i = 0; i < walks; ++i) {
    const char* begins[] = {
        "[", "[{\"", "```json\n[", "```\n[\n", "{\"", " [", "[{\"bbox_2d\": [1, 2, "};
    ASSERT_NO_FATAL_FAILURE(Walk(v, random, begins[random() % std::size(begins)])) << "walk " << i;
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(BoxWalkTest, AnyAnswerOfNanoIsReadWhole) {
  WalkMany(TestVocabulary(Nano(), kNanoVocabulary, NanoEos()), 150, 1);
}

TEST(BoxWalkTest, AnyAnswerOfAVocabularyOfMergedTokensIsReadWhole) {
  WalkMany(TestVocabulary(Merged(), kMergedVocabulary, NanoEos()), 150, 2);
}

TEST(BoxWalkTest, AnyAnswerOfQwenIsReadWhole) {
  if (Qwen() == nullptr) GTEST_SKIP() << "no Qwen tokenizer";
  WalkMany(TestVocabulary(*Qwen(), kQwenVocabulary, QwenEos()), 6, 3);
}

// The mask is exactly the set of tokens whose bytes the automaton takes one by one.
TEST(BoxWalkTest, MasksAreWhatTheBytesSay) {
  const TestVocabulary v(Merged(), kMergedVocabulary, NanoEos());
  std::mt19937 random(4);
  for (int walk = 0; walk < 40; ++walk) {
    BoxCursor cursor(v.grammar.get(), {448, 99, "the cat"});
    BoxState state;
    state.side[0] = 448;
    state.side[1] = 99;
    const auto accept = [&](int32_t id) {
      for (const char c : v.tokenizer->TokenBytes(id)) {
        ASSERT_TRUE(state.Step(static_cast<uint8_t>(c)));
      }
      if (state.phase == Phase::kLabel && state.label_bytes >= kMaxLabelBytes) {
        state.label_full = true;
      }
      cursor.Accept(id);
    };
    for (const int32_t id : v.tokenizer->EncodeText(walk % 2 == 0 ? "[" : "```json\n[")) accept(id);
    for (int step = 0; step < 60; ++step) {
      std::vector<int32_t> expected;
      for (int32_t id = 0; id < v.size; ++id) {
        const absl::string_view bytes = v.tokenizer->TokenBytes(id);
        bool taken = !bytes.empty() && !v.tokenizer->IsAdded(id);
        BoxState s = state;
        for (const char c : bytes) taken = taken && s.Step(static_cast<uint8_t>(c));
        if (taken || (state.may_end() && (id == v.eos[0] || id == v.eos[1])))
          expected.push_back(id);
      }
      ASSERT_EQ(Ids(cursor.Sets()->allowed), expected);
      const int32_t id = expected[random() % expected.size()];
      if (v.tokenizer->IsAdded(id)) break;
      ASSERT_NO_FATAL_FAILURE(accept(id));
    }
  }
}

}  // namespace
}  // namespace chord::grammar
