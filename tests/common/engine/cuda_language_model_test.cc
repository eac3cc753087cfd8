// The model on Chord's CUDA kernels against the CPU backend in float32, on tiny models.
#include "common/engine/cuda_language_model.h"

#include <gtest/gtest.h>

#include <limits>

#include "common/engine/device.h"
#include "common/engine/language_model.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using model::DType;

constexpr int kLength = 150, kImageRows = 12;

class CudaLanguageModelTest : public testing::TestWithParam<std::tuple<DType, KvType>> {
 protected:
  void SetUp() override {
    const auto device = ParseDevice("cuda");
    if (!device.ok()) GTEST_SKIP() << "this test was not run: " << device.status().message();
    model::ModelConfig config = TinyConfig();
    config.text.intermediate_size = 72;  // the kernels take multiples of eight
    reference = Load(config, {}, DType::kFloat32, KvType::kModel, Attention::kAuto);
    model =
        Load(config, *device, std::get<0>(GetParam()), std::get<1>(GetParam()), Attention::kFlash);
    for (int i = 0; i < kLength; ++i) {
      ids.push_back((i * 37 + 5) % model->vocab_size());
      rows.push_back(i >= 10 && i < 10 + kImageRows ? i - 10 : -1);
    }
    for (int axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < kLength; ++i) positions.push_back(rows[i] < 0 ? i : 10 + axis);
    }
  }

  static std::unique_ptr<LanguageModel> Load(const model::ModelConfig& config, const Device& device,
                                             DType dtype, KvType kv, Attention attention) {
    LanguageModel::Options options;
    options.device = device, options.dtype = dtype, options.kv_type = kv,
    options.attention = attention;
    options.kv_tokens = 4 * 160, options.max_sequence_tokens = 160;
    auto loaded = LanguageModel::Load(TinyCheckpoint(config, DType::kBFloat16), config, options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return *std::move(loaded);
  }

  std::unique_ptr<EmbeddingBuffer> Image(LanguageModel& m) const {
    auto buffer = *m.CreateEmbeddings(kImageRows, DType::kFloat32);
    const int64_t count = int64_t{kImageRows} * TinyConfig().text.hidden_size;
    EXPECT_TRUE(buffer->Write(0, Encode(DType::kFloat32, RandomFloats(count, 5))).ok());
    return buffer;
  }

  LanguageModel::Chunk Part(int begin, int end, const EmbeddingBuffer* image,
                            std::vector<int32_t>* storage) const {
    storage->clear();
    for (int axis = 0; axis < 3; ++axis) {
      storage->insert(storage->end(), positions.begin() + axis * kLength + begin,
                      positions.begin() + axis * kLength + end);
    }
    LanguageModel::Chunk chunk;
    chunk.pages = pages, chunk.start = begin;
    chunk.ids = absl::MakeConstSpan(ids).subspan(begin, end - begin);
    chunk.positions = *storage;
    chunk.image_rows = absl::MakeConstSpan(rows).subspan(begin, end - begin);
    chunk.embeddings = image, chunk.logits = end - begin;
    return chunk;
  }

  std::vector<float> Run(LanguageModel& m, std::vector<int> ends) const {
    const auto image = Image(m);
    std::vector<float> all, logits;
    std::vector<int32_t> storage;
    int begin = 0;
    ends.push_back(kLength);
    for (int end : ends) {
      const auto chunk = Part(begin, end, image.get(), &storage);
      EXPECT_TRUE(m.Step({&chunk, 1}, &logits).ok());
      all.insert(all.end(), logits.begin(), logits.end());
      begin = end;
    }
    return all;
  }
  double Tolerance() const {
    if (std::get<1>(GetParam()) == KvType::kInt8) return 5e-2;
    return std::get<0>(GetParam()) == DType::kBFloat16 ? 3e-2 : 4e-3;
  }

  std::unique_ptr<LanguageModel> reference, model;
  std::vector<int32_t> ids, rows, positions;
  const std::vector<int32_t> pages = {7, 3, 9, 0, 12, 5, 20, 31, 2, 1};
};

TEST_P(CudaLanguageModelTest, EveryFormOfStepGivesTheReferencesLogits) {
  const auto want = Run(*reference, {});
  EXPECT_LT(Distance(Run(*model, {}), want), Tolerance());
  EXPECT_LT(Distance(Run(*model, {70, 71, 75, 83, 84, 120}), want), Tolerance());
}

TEST_P(CudaLanguageModelTest, ChoosesAsTheHostDoes) {
  const auto image = Image(*model);
  std::vector<int32_t> storage;
  const auto chunk = Part(0, kLength, image.get(), &storage);
  std::vector<float> logits;
  ASSERT_TRUE(model->Step({&chunk, 1}, &logits).ok());
  const std::vector<uint64_t> allowed = {0x123456789abcdefull, 0x5555}, all = {~0ull, ~0ull};
  const IdSet sets[] = {allowed, all};
  const std::vector<int32_t> penalized = {3, 50, 51, 52, 100, 7};
  std::vector<SampleSpec> specs(kLength);
  for (int i = 0; i < kLength; ++i) {
    if (i % 2 == 1) specs[i].allowed = allowed;
    if (i % 3 == 1) specs[i].penalized = penalized, specs[i].repetition_penalty = 1.5f;
    if (i % 5 == 1) specs[i].mass_sets = sets;
  }
  std::vector<SampledToken> tokens;
  ASSERT_TRUE(model->StepAndSample({&chunk, 1}, specs, &tokens).ok());
  ASSERT_EQ(tokens.size(), specs.size());
  const int vocab = model->vocab_size();
  for (int i = 0; i < kLength; ++i) {
    const SampledToken want =
        SampleToken(absl::MakeConstSpan(logits).subspan(int64_t{i} * vocab, vocab), specs[i]);
    EXPECT_EQ(tokens[i].id, want.id) << i;
    EXPECT_EQ(tokens[i].finite, want.finite);
    EXPECT_NEAR(tokens[i].log_probability, want.log_probability, 1e-5);
    ASSERT_EQ(tokens[i].log_mass.size(), want.log_mass.size());
    for (size_t m = 0; m < want.log_mass.size(); ++m)
      EXPECT_NEAR(tokens[i].log_mass[m], want.log_mass[m], 1e-5);
  }
}

TEST_P(CudaLanguageModelTest, RefusesAWrongStepAndGoesOn) {
  std::vector<int32_t> storage;
  std::vector<float> logits;
  auto chunk = Part(0, 20, nullptr, &storage);  // image rows without an image
  EXPECT_FALSE(model->Step({&chunk, 1}, &logits).ok());
  const auto image = Image(*model);
  chunk = Part(0, 20, image.get(), &storage);
  chunk.pages = chunk.pages.subspan(0, 1);
  EXPECT_FALSE(model->Step({&chunk, 1}, &logits).ok());
  EXPECT_FALSE(model->CopyPage(0, model->kv_pages(), 3).ok());
  chunk = Part(0, 20, image.get(), &storage);
  EXPECT_TRUE(model->Step({&chunk, 1}, &logits).ok());
}

TEST_P(CudaLanguageModelTest, RefusesEmbeddingsThatAreNotFinite) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const auto width = static_cast<int64_t>(TinyConfig().text.hidden_size);
    auto buffer = *model->CreateEmbeddings(2, dtype);
    std::vector<float> values = RandomFloats(2 * width, 3);
    EXPECT_TRUE(buffer->Write(0, Encode(dtype, values)).ok());
    EXPECT_FALSE(buffer->Write(2 * width * model::SizeOf(dtype), Encode(dtype, {1})).ok());
    buffer = *model->CreateEmbeddings(2, dtype);
    values[5] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FALSE(buffer->Write(0, Encode(dtype, values)).ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaLanguageModelTest,
                         testing::Values(std::tuple{DType::kBFloat16, KvType::kModel},
                                         std::tuple{DType::kFloat16, KvType::kModel},
                                         std::tuple{DType::kBFloat16, KvType::kInt8}),
                         [](const auto& made) {
                           return std::string(std::get<0>(made.param) == DType::kBFloat16
                                                  ? "Bf16"
                                                  : "Fp16") +
                                  (std::get<1>(made.param) == KvType::kInt8 ? "Int8Kv" : "");
                         });

}  // namespace
}  // namespace chord::engine
