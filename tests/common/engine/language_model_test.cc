#include "common/engine/language_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <tuple>

#include "common/base/errors.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using model::DType;
using Chunk = LanguageModel::Chunk;

constexpr int kVocab = 101;
constexpr int kWidth = 48;

// Pages of three sequences of 64 tokens.
const std::vector<int32_t> kFirst = {0, 1, 2, 3}, kSecond = {4, 5, 6, 7}, kThird = {8, 9, 10, 11};

// A prompt with an image of 3 x 4 cells at index 10, positions by spec §4.2.
struct Prompt {
  std::vector<int32_t> ids, positions, image_rows;
  int64_t size() const { return static_cast<int64_t>(ids.size()); }

  // The part [begin, end), as a chunk over `storage`.
  Chunk Part(int64_t begin, int64_t end, std::vector<int32_t>* storage) const {
    storage->clear();
    for (int axis = 0; axis < 3; ++axis) {
      const auto row = positions.begin() + axis * size();
      storage->insert(storage->end(), row + begin, row + end);
    }
    Chunk chunk;
    chunk.start = static_cast<int>(begin);
    chunk.ids = absl::MakeConstSpan(ids).subspan(begin, end - begin);
    chunk.positions = *storage;
    chunk.image_rows = absl::MakeConstSpan(image_rows).subspan(begin, end - begin);
    return chunk;
  }
};

Prompt MakePrompt(int length = 40, int seed = 3) {
  Prompt prompt;
  std::vector<int32_t> axes[3];
  int position = 0;
  for (int i = 0; i < length; ++i) {
    prompt.ids.push_back((i * 37 + seed * 11) % kVocab);
    const int cell = i - 10;
    const bool image = cell >= 0 && cell < 12;
    prompt.image_rows.push_back(image ? cell : -1);
    if (!image) {
      if (cell == 12) position += 4;
      for (auto& axis : axes) axis.push_back(position);
      ++position;
    } else {
      axes[0].push_back(position);
      axes[1].push_back(position + cell / 4);
      axes[2].push_back(position + cell % 4);
    }
  }
  for (const auto& axis : axes) {
    prompt.positions.insert(prompt.positions.end(), axis.begin(), axis.end());
  }
  return prompt;
}

class LanguageModelTest : public testing::TestWithParam<DType> {
 protected:
  LanguageModelTest() { model = Load(GetParam(), DType::kBFloat16); }

  static std::unique_ptr<LanguageModel> Load(DType dtype, DType stored,
                                             model::ModelConfig config = TinyConfig()) {
    LanguageModel::Options options;
    options.dtype = dtype;
    options.kv_tokens = 3 * 64;
    options.max_sequence_tokens = 64;
    auto loaded = LanguageModel::Load(TinyCheckpoint(config, stored), config, options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }

  std::unique_ptr<EmbeddingBuffer> RgbImage(LanguageModel& m, int seed = 5) {
    auto buffer = *m.CreateEmbeddings(12, DType::kFloat32);
    const auto bytes = Encode(DType::kFloat32, RandomFloats(12 * kWidth, seed));
    EXPECT_TRUE(buffer->Write(0, bytes).ok());
    return buffer;
  }

  // All logits of a prompt, in parts that end at `ends`, in the given pages.
  std::vector<float> Prefill(LanguageModel& m, const Prompt& prompt, const EmbeddingBuffer* image,
                             std::vector<int64_t> ends,
                             const std::vector<int32_t>& pages = kFirst) {
    std::vector<float> all, logits;
    std::vector<int32_t> storage;
    int64_t begin = 0;
    ends.push_back(prompt.size());
    for (int64_t end : ends) {
      Chunk chunk = prompt.Part(begin, end, &storage);
      chunk.pages = pages;
      chunk.embeddings = image;
      chunk.logits = static_cast<int>(end - begin);
      EXPECT_TRUE(m.Step({&chunk, 1}, &logits).ok());
      all.insert(all.end(), logits.begin(), logits.end());
      begin = end;
    }
    EXPECT_EQ(all.size(), prompt.size() * kVocab);
    return all;
  }

  std::unique_ptr<LanguageModel> model;
};

TEST_P(LanguageModelTest, PrefillEqualsTokenByToken) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt();
  const std::vector<float> whole = Prefill(*model, prompt, image.get(), {});
  std::vector<int64_t> ends;
  for (int64_t i = 1; i < prompt.size(); ++i) ends.push_back(i);
  EXPECT_EQ(Prefill(*model, prompt, image.get(), ends), whole);
}

TEST_P(LanguageModelTest, PrefillInChunksMayCutAnImage) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt();
  const std::vector<float> whole = Prefill(*model, prompt, image.get(), {});
  EXPECT_EQ(Prefill(*model, prompt, image.get(), {15}), whole);
  EXPECT_EQ(Prefill(*model, prompt, image.get(), {3, 11, 14, 29}), whole);
}

TEST_P(LanguageModelTest, SequencesAreIndependent) {
  const auto image = RgbImage(*model), other = RgbImage(*model, 6);
  const Prompt prompt = MakePrompt(), second = MakePrompt(33, 8);
  const std::vector<float> alone = Prefill(*model, prompt, image.get(), {}, kFirst);
  Prefill(*model, second, other.get(), {}, kSecond);
  EXPECT_EQ(Prefill(*model, prompt, image.get(), {}, kThird), alone);
}

TEST_P(LanguageModelTest, SequencesOfOneStepNeverSeeEachOther) {
  const auto image = RgbImage(*model), other = RgbImage(*model, 6);
  const Prompt prompt = MakePrompt(), second = MakePrompt(33, 8);
  const std::vector<float> first_alone = Prefill(*model, prompt, image.get(), {}, kFirst);
  const std::vector<float> second_alone = Prefill(*model, second, other.get(), {}, kSecond);

  // The first goes on with its last token while a third prefills, and the second takes its last
  // three.
  std::vector<float> logits;
  std::vector<int32_t> storage[3];
  Chunk chunks[3] = {prompt.Part(39, 40, &storage[0]), prompt.Part(0, 40, &storage[1]),
                     second.Part(30, 33, &storage[2])};
  chunks[0].pages = kFirst, chunks[1].pages = kThird, chunks[2].pages = kSecond;
  chunks[0].embeddings = chunks[1].embeddings = image.get();
  chunks[2].embeddings = other.get();
  chunks[1].logits = 40;
  ASSERT_TRUE(model->Step(chunks, &logits).ok());
  ASSERT_EQ(logits.size(), (1 + 40 + 1) * kVocab);
  const auto row = [](const std::vector<float>& from, int64_t begin, int64_t rows) {
    return std::vector<float>(from.begin() + begin * kVocab,
                              from.begin() + (begin + rows) * kVocab);
  };
  EXPECT_EQ(row(logits, 0, 1), row(first_alone, 39, 1));
  EXPECT_EQ(row(logits, 1, 40), first_alone);
  EXPECT_EQ(row(logits, 41, 1), row(second_alone, 32, 1));
}

TEST_P(LanguageModelTest, GivesOnlyTheAskedRows) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt();
  const std::vector<float> all = Prefill(*model, prompt, image.get(), {});
  std::vector<float> logits;
  std::vector<int32_t> storage;
  Chunk chunk = prompt.Part(0, 39, &storage);
  chunk.embeddings = image.get();
  chunk.pages = kFirst;
  chunk.logits = 0;
  ASSERT_TRUE(model->Step({&chunk, 1}, &logits).ok());
  EXPECT_TRUE(logits.empty());
  chunk = prompt.Part(39, 40, &storage);  // needs the rows that gave no logits
  chunk.pages = kFirst;
  ASSERT_TRUE(model->Step({&chunk, 1}, &logits).ok());
  const std::vector<float> last(all.end() - kVocab, all.end());
  EXPECT_EQ(logits, last);
  chunk = prompt.Part(0, 40, &storage);
  chunk.pages = kFirst;
  chunk.embeddings = image.get();
  ASSERT_TRUE(model->Step({&chunk, 1}, &logits).ok());
  EXPECT_EQ(logits, last);
  EXPECT_TRUE(model->Step({}, &logits).ok());
  EXPECT_TRUE(logits.empty());
}

TEST_P(LanguageModelTest, PositionsAndEmbeddingsMatter) {
  const auto image = RgbImage(*model), other = RgbImage(*model, 6);
  const Prompt prompt = MakePrompt();
  const std::vector<float> logits = Prefill(*model, prompt, image.get(), {});
  EXPECT_GT(Distance(Prefill(*model, prompt, other.get(), {}), logits), 0.05);
  for (int axis = 0; axis < 3; ++axis) {
    Prompt moved = prompt;
    for (int i = 10; i < 22; ++i) moved.positions[axis * 40 + i] += 7;
    EXPECT_GT(Distance(Prefill(*model, moved, image.get(), {}), logits), 0.01) << axis;
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, LanguageModelTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16), [](const auto& made) {
                           return made.param == DType::kFloat32 ? "Fp32" : "Bf16";
                         });

// --- the same bits whatever comes with a token
// ----------------------------------------------------

// Large enough for everything that could be cut differently: several pieces of an inner dimension,
// of the keys, of the rows.
model::ModelConfig WideConfig() {
  model::ModelConfig config = TinyConfig();
  config.text.hidden_size = 80;
  config.text.num_hidden_layers = 2;
  config.text.num_attention_heads = 6;
  config.text.num_key_value_heads = 2;
  config.text.head_dim = 20;
  config.text.mrope_section = {2, 4, 4};
  config.text.intermediate_size = 1'100;
  return config;
}

struct Numbers {
  const char* name;
  DType dtype;
  KvType kv_type;
  WeightFormat weights = {};
};

class BatchInvarianceTest : public testing::TestWithParam<Numbers> {
 protected:
  static constexpr int kLength = 600;
  static constexpr int kPages = (kLength + kKvPageTokens - 1) / kKvPageTokens;

  BatchInvarianceTest() {
    LanguageModel::Options options;
    options.dtype = GetParam().dtype;
    options.kv_type = GetParam().kv_type;
    options.weights = GetParam().weights;
    options.kv_tokens = 17 * kPages * kKvPageTokens;
    options.max_sequence_tokens = 1'000;
    auto loaded =
        LanguageModel::Load(TinyCheckpoint(WideConfig(), DType::kBFloat16), WideConfig(), options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    model = *std::move(loaded);
    buffer = *model->CreateEmbeddings(12, DType::kFloat32);
    EXPECT_TRUE(buffer->Write(0, Encode(DType::kFloat32, RandomFloats(12 * 80, 5))).ok());
    for (int sequence = 0; sequence < 17; ++sequence) {
      for (int page = 0; page < kPages; ++page) pages[sequence].push_back(page * 17 + sequence);
    }
  }

  Chunk Part(const Prompt& prompt, int64_t begin, int64_t end, int sequence,
             std::vector<int32_t>* storage) {
    Chunk chunk = prompt.Part(begin, end, storage);
    chunk.pages = pages[sequence];
    chunk.embeddings = buffer.get();
    chunk.logits = static_cast<int>(end - begin);
    return chunk;
  }

  // All logits, from steps that end at `ends`.
  std::vector<float> Prefill(const Prompt& prompt, std::vector<int64_t> ends, int sequence = 0) {
    std::vector<float> all, logits;
    std::vector<int32_t> storage;
    int64_t begin = 0;
    ends.push_back(prompt.size());
    for (int64_t end : ends) {
      const Chunk chunk = Part(prompt, begin, end, sequence, &storage);
      EXPECT_TRUE(model->Step({&chunk, 1}, &logits).ok());
      all.insert(all.end(), logits.begin(), logits.end());
      begin = end;
    }
    return all;
  }

  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<EmbeddingBuffer> buffer;
  std::vector<int32_t> pages[17];
};
INSTANTIATE_TEST_SUITE_P(
    DTypes, BatchInvarianceTest,
    testing::Values(
        Numbers{"Fp32", DType::kFloat32, KvType::kModel},
        Numbers{"Fp32Int8Kv", DType::kFloat32, KvType::kInt8},
        Numbers{"Bf16", DType::kBFloat16, KvType::kModel},
        Numbers{"Bf16Int8Kv", DType::kBFloat16, KvType::kInt8},
        Numbers{"Int8", DType::kFloat32, KvType::kModel, {WeightFormat::Kind::kInt8}},
        Numbers{"Int4", DType::kFloat32, KvType::kInt8, {WeightFormat::Kind::kInt4, 32}},
        Numbers{"Int4InBf16", DType::kBFloat16, KvType::kModel, {WeightFormat::Kind::kInt4, 64}}),
    [](const auto& made) { return std::string(made.param.name); });

TEST_P(BatchInvarianceTest, AnySplitOfAPromptGivesTheSameLogits) {
  const Prompt prompt = MakePrompt(kLength);
  const std::vector<float> whole = Prefill(prompt, {});
  std::vector<int64_t> one_by_one;
  for (int64_t i = 1; i < kLength; ++i) one_by_one.push_back(i);
  EXPECT_EQ(Prefill(prompt, one_by_one), whole);
  std::mt19937 random(1);
  for (int round = 0; round < 6; ++round) {
    std::vector<int64_t> ends;
    // Short steps, as of draft tokens, and long ones, as of a prefill.
    const int longest = round % 2 == 0 ? 9 : 300;
    for (int64_t end = 0; end < kLength;) {
      end += 1 + static_cast<int64_t>(random() % longest);
      if (end < kLength) ends.push_back(end);
    }
    EXPECT_EQ(Prefill(prompt, ends), whole) << round;
  }
}

TEST_P(BatchInvarianceTest, AnyNumberOfAskedRowsGivesTheSameLogits) {
  const Prompt prompt = MakePrompt(kLength);
  const std::vector<float> whole = Prefill(prompt, {});
  std::vector<int32_t> storage;
  std::vector<float> logits;
  for (int asked : {0, 1, 2, 3, 5, 8, 9, 17, 65, 300, 599, 600}) {
    Chunk chunk = Part(prompt, 0, kLength, 1, &storage);
    chunk.logits = asked;
    ASSERT_TRUE(model->Step({&chunk, 1}, &logits).ok());
    EXPECT_EQ(logits, std::vector<float>(whole.end() - asked * kVocab, whole.end())) << asked;
  }
}

TEST_P(BatchInvarianceTest, AnyCompanyGivesTheSameLogits) {
  // 17 sequences at different places take steps of different lengths together until all are done;
  // each must answer as it does alone.
  std::vector<Prompt> prompts;
  std::vector<std::vector<float>> alone(17), together(17);
  for (int i = 0; i < 17; ++i) {
    prompts.push_back(MakePrompt(30 + 35 * i, i));
    alone[i] = Prefill(prompts[i], {}, i);
  }
  std::mt19937 random(2);
  std::vector<int64_t> done(17, 0);
  std::vector<int32_t> storage[17];
  std::vector<float> logits;
  while (true) {
    std::vector<Chunk> chunks;
    std::vector<int> who;
    for (int i = 0; i < 17; ++i) {
      const int64_t left = prompts[i].size() - done[i];
      if (left == 0 || random() % 4 == 0) continue;
      const int64_t n = std::min<int64_t>(left, random() % 3 == 0 ? 1 + random() % 200 : 1 + i % 4);
      chunks.push_back(Part(prompts[i], done[i], done[i] + n, i, &storage[i]));
      who.push_back(i);
      done[i] += n;
    }
    if (chunks.empty() && std::equal(done.begin(), done.end(), prompts.begin(),
                                     [](int64_t d, const Prompt& p) { return d == p.size(); })) {
      break;
    }
    ASSERT_TRUE(model->Step(chunks, &logits).ok());
    auto row = logits.begin();
    for (size_t c = 0; c < chunks.size(); ++c) {
      const auto end = row + static_cast<int64_t>(chunks[c].ids.size()) * kVocab;
      together[who[c]].insert(together[who[c]].end(), row, end);
      row = end;
    }
  }
  for (int i = 0; i < 17; ++i) EXPECT_EQ(together[i], alone[i]) << i;
}

class LanguageModelFp32Test : public LanguageModelTest {};
INSTANTIATE_TEST_SUITE_P(Fp32, LanguageModelFp32Test, testing::Values(DType::kFloat32));

TEST_P(LanguageModelFp32Test, ComputesTheSameFromBf16AndFloat32Files) {
  const auto from_fp32 = Load(DType::kFloat32, DType::kFloat32);
  const Prompt prompt = MakePrompt();
  const auto a = RgbImage(*model), b = RgbImage(*from_fp32);
  EXPECT_LT(
      Distance(Prefill(*model, prompt, a.get(), {}), Prefill(*from_fp32, prompt, b.get(), {})),
      1e-6);
}

// How far the logits may be from those of the stored weights. Much in this random model, whose
// every layer turns a small difference into a larger one.
TEST_P(LanguageModelFp32Test, AnswersCloseToItselfFromPackedWeights) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt();
  const std::vector<float> exact = Prefill(*model, prompt, image.get(), {});
  const struct {
    const char* format;
    double limit;
  } kFormats[] = {{"int8", 0.1}, {"int4-32", 0.7}, {"int4-128", 0.7}};
  for (const auto& [format, limit] : kFormats) {
    LanguageModel::Options options;
    options.weights = *ParseWeightFormat(format);
    options.kv_tokens = 3 * 64;
    options.max_sequence_tokens = 64;
    auto packed =
        LanguageModel::Load(TinyCheckpoint(TinyConfig(), DType::kBFloat16), TinyConfig(), options);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_GT((*packed)->packed_bytes(), 0);
    const auto packed_image = RgbImage(**packed);
    const std::vector<float> logits = Prefill(**packed, prompt, packed_image.get(), {});
    EXPECT_LT(Distance(logits, exact), limit) << format;
    EXPECT_NE(logits, exact) << format;
  }
  EXPECT_EQ(model->packed_bytes(), 0);
}

TEST_P(LanguageModelFp32Test, TiesTheHeadWhenToldTo) {
  model::ModelConfig config = TinyConfig();
  config.text.tie_word_embeddings = true;
  const auto tied = Load(DType::kFloat32, DType::kBFloat16, config);
  const Prompt prompt = MakePrompt();
  const auto a = RgbImage(*model), b = RgbImage(*tied);
  EXPECT_GT(Distance(Prefill(*tied, prompt, b.get(), {}), Prefill(*model, prompt, a.get(), {})),
            0.5);
}

TEST_P(LanguageModelFp32Test, UsesTheHeadThatATiedCheckpointStoresAllTheSame) {
  model::ModelConfig config = TinyConfig();
  const auto checkpoint = TinyCheckpoint(config, DType::kBFloat16);
  config.text.tie_word_embeddings = true;
  LanguageModel::Options options;
  options.dtype = DType::kFloat32;
  options.kv_tokens = options.max_sequence_tokens = 64;
  const auto tied = LanguageModel::Load(checkpoint, config, options);
  ASSERT_TRUE(tied.ok()) << tied.status();
  const Prompt prompt = MakePrompt();
  const auto a = RgbImage(*model), b = RgbImage(**tied);
  EXPECT_EQ(Prefill(**tied, prompt, b.get(), {}), Prefill(*model, prompt, a.get(), {}));
}

TEST_P(LanguageModelFp32Test, RefusesWeightsThatAreNoFloats) {
  const model::ModelConfig config = TinyConfig();
  LanguageModel::Options options;
  const auto checkpoint = TinyCheckpoint(config, DType::kInt64);
  EXPECT_EQ(ErrorReason(LanguageModel::Load(checkpoint, config, options).status()),
            "CHECKPOINT_INVALID");
}

TEST_P(LanguageModelFp32Test, RefusesStepsThatDoNotFitAndStaysUsable) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt();
  const std::vector<float> whole = Prefill(*model, prompt, image.get(), {});
  std::vector<int32_t> storage;
  const Chunk good = [&] {
    Chunk chunk = prompt.Part(0, 40, &storage);
    chunk.pages = kFirst;
    chunk.embeddings = image.get();
    return chunk;
  }();
  std::vector<float> logits;
  const auto refuses = [&](const std::function<void(Chunk*)>& spoil) {
    Chunk chunk = good;
    spoil(&chunk);
    return !model->Step({&chunk, 1}, &logits).ok();
  };
  EXPECT_TRUE(refuses([](Chunk* c) { c->pages.remove_suffix(2); }));  // 40 tokens are 3 pages
  EXPECT_TRUE(refuses([](Chunk* c) { c->logits = -1; }));
  EXPECT_TRUE(refuses([](Chunk* c) { c->logits = 41; }));
  EXPECT_TRUE(refuses([](Chunk* c) { c->start = -1; }));
  EXPECT_TRUE(refuses([](Chunk* c) { c->start = 25; }));  // 25 + 40 > 64
  EXPECT_TRUE(refuses([](Chunk* c) { c->ids = {}; }));
  EXPECT_TRUE(refuses([](Chunk* c) { c->positions.remove_suffix(1); }));
  EXPECT_TRUE(refuses([](Chunk* c) { c->image_rows.remove_suffix(1); }));
  EXPECT_TRUE(refuses([](Chunk* c) { c->embeddings = nullptr; }));
  std::vector<int32_t> ids = prompt.ids, positions = prompt.positions, rows = prompt.image_rows;
  const auto with = [&](std::vector<int32_t>& values, int at, int32_t value) {
    const int32_t old = values[at];
    values[at] = value;
    const bool refused = refuses([&](Chunk* c) {
      c->ids = ids;
      c->positions = positions;
      c->image_rows = rows;
    });
    values[at] = old;
    return refused;
  };
  EXPECT_TRUE(with(ids, 0, kVocab));
  EXPECT_TRUE(with(ids, 0, -1));
  EXPECT_TRUE(with(positions, 119, 64));
  EXPECT_TRUE(with(positions, 0, -1));
  EXPECT_TRUE(with(rows, 0, 12));
  EXPECT_TRUE(with(rows, 0, -2));
  std::vector<int32_t> pages = kFirst;
  for (const int32_t bad : {-1, 12, INT32_MAX, INT32_MIN}) {
    pages[2] = bad;
    EXPECT_TRUE(refuses([&](Chunk* c) { c->pages = pages; })) << bad;
  }
  pages = {0, 1, 2, -1};  // beyond the last row it is never read
  EXPECT_FALSE(refuses([&](Chunk* c) { c->pages = pages; }));
  EXPECT_EQ(Prefill(*model, prompt, image.get(), {}), whole);
}

TEST_P(LanguageModelFp32Test, LetsNoTwoChunksOfAStepMeetInAWrittenPage) {
  const Prompt prompt = MakePrompt(), second = MakePrompt(33, 8);
  const auto image = RgbImage(*model);
  Prefill(*model, prompt, image.get(), {}, kFirst);
  Prefill(*model, second, image.get(), {}, kSecond);
  std::vector<float> logits;
  std::vector<int32_t> storage[2];
  // The first sequence goes on at row 36, in its third page; the second at row 32, its third too.
  const auto step = [&](const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
    Chunk chunks[2] = {prompt.Part(36, 40, &storage[0]), second.Part(32, 33, &storage[1])};
    chunks[0].pages = a, chunks[1].pages = b;
    return model->Step(chunks, &logits);
  };
  EXPECT_TRUE(step({0, 1, 2}, {4, 5, 6}).ok());
  EXPECT_TRUE(step({0, 1, 2}, {0, 1, 6}).ok());                      // shared and read by both
  EXPECT_TRUE(absl::IsInvalidArgument(step({0, 1, 2}, {4, 5, 2})));  // both write
  EXPECT_TRUE(
      absl::IsInvalidArgument(step({0, 1, 2}, {4, 2, 6})));  // one reads what the other writes
  EXPECT_TRUE(absl::IsInvalidArgument(step({0, 6, 2}, {4, 5, 6})));
  EXPECT_TRUE(absl::IsInvalidArgument(step({0, 2, 2}, {4, 5, 6})));  // and so within one chunk
  EXPECT_TRUE(step({0, 0, 2}, {4, 5, 6}).ok());                      // senseless but harmless
}

TEST_P(LanguageModelTest, AnswersTheSameFromScatteredPages) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt(60);
  for (const std::vector<int64_t>& ends :
       std::vector<std::vector<int64_t>>{{}, {15, 16, 50}, {33}}) {
    const std::vector<float> in_order = Prefill(*model, prompt, image.get(), ends, {0, 1, 2, 3});
    EXPECT_EQ(Prefill(*model, prompt, image.get(), ends, {11, 3, 7, 2}), in_order);
  }
}

TEST_P(LanguageModelTest, SharesThePagesOfACommonPrefix) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt(45), other = [&] {
    Prompt p = prompt;  // differs from row 32 on, where a page begins
    for (int i = 32; i < 45; ++i) p.ids[i] = (p.ids[i] + 50) % kVocab;
    return p;
  }();
  std::vector<float> logits;
  std::vector<int32_t> storage[2];
  const auto rest = [&](const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
    Chunk chunks[2] = {prompt.Part(32, 45, &storage[0]), other.Part(32, 45, &storage[1])};
    chunks[0].pages = a, chunks[1].pages = b;
    chunks[0].logits = chunks[1].logits = 13;
    EXPECT_TRUE(model->Step(chunks, &logits).ok());
    return logits;
  };
  Prefill(*model, prompt, image.get(), {32}, {0, 1, 2});
  Prefill(*model, other, image.get(), {32}, {3, 4, 5});
  const std::vector<float> apart = rest({0, 1, 2}, {3, 4, 5});
  EXPECT_EQ(rest({0, 1, 6}, {0, 1, 7}), apart);
}

TEST_P(LanguageModelTest, GoesTwoWaysFromACopiedPage) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt(45), other = [&] {
    Prompt p = prompt;  // differs from row 39 on, in the midst of a page
    for (int i = 39; i < 45; ++i) p.ids[i] = (p.ids[i] + 50) % kVocab;
    return p;
  }();
  const std::vector<float> first = Prefill(*model, prompt, image.get(), {39}, {0, 1, 2});
  const std::vector<float> second = Prefill(*model, other, image.get(), {39}, {3, 4, 5});
  const auto tail = [](const std::vector<float>& all) {
    return std::vector<float>(all.begin() + 39 * kVocab, all.end());
  };
  ASSERT_TRUE(model->CopyPage(2, 9, 7).ok());
  std::vector<float> logits;
  std::vector<int32_t> storage[2];
  Chunk chunks[2] = {other.Part(39, 45, &storage[0]), prompt.Part(39, 45, &storage[1])};
  const std::vector<int32_t> copy = {0, 1, 9}, original = {0, 1, 2};
  chunks[0].pages = copy, chunks[1].pages = original;
  chunks[0].logits = chunks[1].logits = 6;
  ASSERT_TRUE(model->Step(chunks, &logits).ok());
  std::vector<float> expected = tail(second);
  const std::vector<float> also = tail(first);
  expected.insert(expected.end(), also.begin(), also.end());
  EXPECT_EQ(logits, expected);
}

TEST_P(LanguageModelFp32Test, CopiesOnlyPagesThatExist) {
  EXPECT_TRUE(model->CopyPage(0, 11, 16).ok());
  EXPECT_TRUE(model->CopyPage(3, 3, 16).ok());
  EXPECT_TRUE(model->CopyPage(0, 1, 0).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(model->CopyPage(0, 12, 16)));
  EXPECT_TRUE(absl::IsInvalidArgument(model->CopyPage(-1, 0, 16)));
  EXPECT_TRUE(absl::IsInvalidArgument(model->CopyPage(12, 0, 16)));
  EXPECT_TRUE(absl::IsInvalidArgument(model->CopyPage(0, 1, 17)));
  EXPECT_TRUE(absl::IsInvalidArgument(model->CopyPage(0, 1, -1)));
}

TEST_P(LanguageModelTest, GivesTheLastRowsAsSeparateStepsDo) {
  const auto image = RgbImage(*model);
  const Prompt prompt = MakePrompt();
  const std::vector<float> all = Prefill(*model, prompt, image.get(), {36, 37, 38, 39});
  std::vector<int32_t> storage;
  std::vector<float> logits;
  for (const int rows : {1, 3, 4, 9, 40}) {
    Chunk chunk = prompt.Part(0, 40, &storage);
    chunk.pages = kSecond;
    chunk.embeddings = image.get();
    chunk.logits = rows;
    ASSERT_TRUE(model->Step({&chunk, 1}, &logits).ok());
    EXPECT_EQ(logits, std::vector<float>(all.end() - rows * kVocab, all.end())) << rows;
  }
}

TEST_P(LanguageModelFp32Test, AccountsForItsPages) {
  EXPECT_EQ(model->kv_pages(), 12);
  EXPECT_EQ(model->kv_bytes(), 2 * 3 * (3 * 64) * (2 * 8) * 4);
  EXPECT_EQ(model->vocab_size(), kVocab);
  const auto pages = [](int tokens, KvType type) {
    LanguageModel::Options options;
    options.kv_tokens = tokens;
    options.kv_type = type;
    const model::ModelConfig config = TinyConfig();
    const auto loaded =
        *LanguageModel::Load(TinyCheckpoint(config, DType::kFloat32), config, options);
    return std::make_pair(loaded->kv_pages(), loaded->kv_bytes());
  };
  EXPECT_EQ(pages(1, KvType::kModel), std::make_pair(1, int64_t{2 * 3 * 16 * 16 * 4}));
  EXPECT_EQ(pages(16, KvType::kModel).first, 1);
  EXPECT_EQ(pages(17, KvType::kModel), std::make_pair(2, int64_t{2 * 3 * 32 * 16 * 4}));
  // A byte a value, and a float for each of two heads.
  EXPECT_EQ(pages(17, KvType::kInt8), std::make_pair(2, int64_t{2 * 3 * 32 * (16 + 2 * 4)}));
}

TEST_P(LanguageModelTest, AnswersCloseToItselfFromInt8Pages) {
  LanguageModel::Options options;
  options.dtype = GetParam();
  options.kv_type = KvType::kInt8;
  options.kv_tokens = 3 * 64;
  options.max_sequence_tokens = 64;
  const auto small =
      *LanguageModel::Load(TinyCheckpoint(TinyConfig(), DType::kBFloat16), TinyConfig(), options);
  const Prompt prompt = MakePrompt();
  const auto a = RgbImage(*model), b = RgbImage(*small);
  const std::vector<float> exact = Prefill(*model, prompt, a.get(), {20});
  const std::vector<float> rounded = Prefill(*small, prompt, b.get(), {20});
  EXPECT_LT(Distance(rounded, exact), 0.03);
  EXPECT_GT(Distance(rounded, exact), 1e-4);
  // Copied pages carry their scales: rows 32 .. 38 come from the copy.
  ASSERT_TRUE(small->CopyPage(2, 9, 7).ok());
  std::vector<int32_t> storage;
  std::vector<float> logits[2];
  const std::vector<int32_t> pages[2] = {{0, 1, 2}, {0, 1, 9}};
  for (int i = 0; i < 2; ++i) {
    Chunk chunk = prompt.Part(39, 40, &storage);
    chunk.pages = pages[i];
    ASSERT_TRUE(small->Step({&chunk, 1}, &logits[i]).ok());
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST_P(LanguageModelFp32Test, RefusesImpossibleConfigurations) {
  const auto load =
      [](const std::function<void(model::ModelConfig*, LanguageModel::Options*)>& spoil) {
        model::ModelConfig config = TinyConfig();
        LanguageModel::Options options;
        options.max_sequence_tokens = 16;
        const auto checkpoint = TinyCheckpoint(config, DType::kBFloat16);
        spoil(&config, &options);
        return ErrorReason(LanguageModel::Load(checkpoint, config, options).status());
      };
  EXPECT_EQ(load([](auto* c, auto*) { c->text.mrope_section = {1, 1, 1}; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* c, auto*) { c->text.num_key_value_heads = 4; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* c, auto*) { c->text.vocab_size = 100; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* c, auto*) { c->text.num_hidden_layers = 4; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto*, auto* o) { o->kv_tokens = 0; }), "CONFIG_INVALID");
  EXPECT_EQ(load([](auto*, auto* o) { o->kv_tokens = INT32_MAX; }), "CONFIG_INVALID");
  EXPECT_EQ(load([](auto*, auto* o) { o->max_sequence_tokens = 0; }), "CONFIG_INVALID");
  EXPECT_EQ(load([](auto*, auto* o) { o->max_sequence_tokens = 1 << 30; }), "CONFIG_INVALID");
}

// --- embeddings
// -----------------------------------------------------------------------------------

TEST_P(LanguageModelTest, TakesEmbeddingsInPiecesAndAnyDType) {
  const Prompt prompt = MakePrompt();
  const auto whole = RgbImage(*model);
  const std::vector<float> expected = Prefill(*model, prompt, whole.get(), {});
  for (DType source : {DType::kFloat32, DType::kBFloat16}) {
    const auto bytes = Encode(source, RandomFloats(12 * kWidth, 5));
    auto buffer = *model->CreateEmbeddings(12, source);
    EXPECT_EQ(buffer->rows(), 12);
    // The last piece first, cut within a row.
    const size_t cut = 100 * model::SizeOf(source);
    ASSERT_TRUE(buffer->Write(cut, absl::MakeConstSpan(bytes).subspan(cut)).ok());
    ASSERT_TRUE(buffer->Write(0, absl::MakeConstSpan(bytes).subspan(0, cut)).ok());
    EXPECT_EQ(Prefill(*model, prompt, buffer.get(), {}), expected);
  }
}

// Who keeps images counts their rows; what a buffer held besides would be on no account.
TEST_P(LanguageModelTest, KeptEmbeddingsTakeTheirRowsAndLittleMore) {
  constexpr int kImages = 200, kRows = 64;
  const auto bytes = Encode(DType::kFloat32, RandomFloats(kRows * kWidth, 5));
  std::vector<std::unique_ptr<EmbeddingBuffer>> kept(kImages);
  const size_t before = mallinfo2().uordblks;  // 0 under a sanitizer, and then so is the rest
  for (auto& buffer : kept) {
    buffer = *model->CreateEmbeddings(kRows, DType::kFloat32);
    ASSERT_TRUE(buffer->Write(0, bytes).ok());
  }
  const size_t each = (mallinfo2().uordblks - before) / kImages;
  EXPECT_LE(each, bytes.size() + 1024);  // fp32 is the widest they are kept in
}

TEST_P(LanguageModelTest, RefusesEmbeddingsThatAreNotFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    auto buffer = *model->CreateEmbeddings(12, DType::kFloat32);
    std::vector<float> values(12 * kWidth, 1);
    values[77] = bad;
    EXPECT_EQ(ErrorReason(buffer->Write(0, Encode(DType::kFloat32, values))),
              "EMBEDDING_NOT_FINITE");
    values[77] = 1;  // too late: the buffer is lost
    EXPECT_FALSE(buffer->Write(0, Encode(DType::kFloat32, values)).ok());
    const Prompt prompt = MakePrompt();
    std::vector<int32_t> storage;
    Chunk chunk = prompt.Part(0, 40, &storage);
    chunk.pages = kFirst;
    chunk.embeddings = buffer.get();
    std::vector<float> logits;
    EXPECT_EQ(ErrorReason(model->Step({&chunk, 1}, &logits)), "EMBEDDING_NOT_FINITE");
  }
}

TEST_P(LanguageModelTest, RefusesEmbeddingsThatDoNotFit) {
  const std::vector<std::byte> bytes(12 * kWidth * 2 + 2);
  const auto write = [&](int64_t offset, size_t size) {
    auto buffer = *model->CreateEmbeddings(12, DType::kBFloat16);
    return buffer->Write(offset, absl::MakeConstSpan(bytes).subspan(0, size));
  };
  const size_t total = 12 * kWidth * 2;
  EXPECT_TRUE(write(0, total).ok());
  EXPECT_TRUE(write(total, 0).ok());
  for (const auto& [offset, size] : std::vector<std::pair<int64_t, size_t>>{{0, total + 2},
                                                                            {2, total},
                                                                            {-2, 4},
                                                                            {1, 2},
                                                                            {0, 3},
                                                                            {INT64_MAX - 1, 4},
                                                                            {INT64_MIN, 2}}) {
    EXPECT_EQ(ErrorReason(write(offset, size)), "EMBEDDING_MISMATCH") << offset << " " << size;
  }
  EXPECT_EQ(ErrorReason(model->CreateEmbeddings(65, DType::kBFloat16).status()),
            "CONTEXT_TOO_LONG");
  EXPECT_FALSE(model->CreateEmbeddings(-1, DType::kBFloat16).ok());
  EXPECT_EQ(ErrorReason(model->CreateEmbeddings(1, DType::kInt64).status()), "EMBEDDING_MISMATCH");
}

}  // namespace
}  // namespace chord::engine
