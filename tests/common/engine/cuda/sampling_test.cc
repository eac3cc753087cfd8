#include <gtest/gtest.h>

#include <algorithm>

#include "tests/common/engine/cuda/device_memory.h"

namespace chord::cuda {
namespace {

class SamplingTest : public CudaTest {};

struct Want {
  int id = -1;
  double log_probability = 0;
  std::vector<double> log_mass;
};

bool Has(const std::vector<uint64_t>& set, int id) { return (set[id / 64] >> (id % 64)) & 1; }

// The rule of engine::SampleToken, by plain loops.
Want Reference(const std::vector<float>& logits, const std::vector<uint64_t>* allowed,
               const std::vector<int32_t>& penalized, float penalty,
               const std::vector<std::vector<uint64_t>>& sets) {
  Want want;
  float best = 0;
  double top = -INFINITY, all = 0;
  for (int id = 0; id < static_cast<int>(logits.size()); ++id) {
    top = std::max(top, double{logits[id]});
    if (allowed != nullptr && !Has(*allowed, id)) continue;
    float z = logits[id];
    if (std::count(penalized.begin(), penalized.end(), id) > 0)
      z = z < 0 ? z * penalty : z / penalty;
    if (want.id < 0 || z > best) want.id = id, best = z;
  }
  for (float z : logits) all += std::exp(z - top);
  for (const auto& set : sets) {
    double mass = 0;
    for (int id = 0; id < static_cast<int>(logits.size()); ++id) {
      if (Has(set, id)) mass += std::exp(logits[id] - top);
    }
    want.log_mass.push_back(std::log(mass / all));
  }
  if (want.id >= 0) want.log_probability = logits[want.id] - top - std::log(all);
  return want;
}

std::vector<uint64_t> RandomSet(int words, int seed, int sparse) {
  std::mt19937_64 random(seed);
  std::vector<uint64_t> set(words);
  for (uint64_t& word : set) {
    word = random();
    for (int i = 0; i < sparse; ++i) word &= random();
  }
  return set;
}

class Batch {
 public:
  Batch(Dtype dtype, int vocab) : dtype(dtype), vocab(vocab), stride((vocab + 7) / 8 * 8) {}
  std::vector<SampleResult> Run() {
    std::vector<float> padded;
    for (const auto& row : logits) {
      padded.insert(padded.end(), row.begin(), row.end());
      padded.resize((padded.size() + stride - 1) / stride * stride, NAN);
    }
    std::vector<uint64_t> flat;
    for (const auto& set : sets) flat.insert(flat.end(), set.begin(), set.end());
    const auto device_logits = UploadAs(padded, dtype);
    const auto device_sets = Upload(flat);
    const auto device_penalized = Upload(penalized);
    const auto device_rows = Upload(rows);
    const int count = static_cast<int>(rows.size());
    const DeviceArray<char> partial(SamplePartialBytes(count));
    const DeviceArray<SampleResult> results(count);
    SampleBuffers b = {};
    b.logits = device_logits.get(), b.stride = stride, b.vocab = vocab, b.sets = device_sets.get();
    b.words = (vocab + 63) / 64, b.penalized = device_penalized.get(), b.rows = device_rows.get();
    b.partial = partial.get(), b.results = results.get();
    Sample(dtype, b, count, {});
    return Download(results);
  }
  const Dtype dtype;
  const int vocab, stride;
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<uint64_t>> sets;
  std::vector<int32_t> penalized;
  std::vector<SampleRow> rows;
};

TEST_F(SamplingTest, FollowsTheRule) {
  for (const Dtype dtype : kDtypes) {
    for (const int vocab : {1, 63, 101, 4096, 151936}) {
      Batch batch(dtype, vocab);
      const int words = (vocab + 63) / 64;
      for (int i = 0; i < 3; ++i) batch.logits.push_back(Random(vocab, 10 + i, dtype, 3));
      batch.sets = {RandomSet(words, 1, 0), RandomSet(words, 2, 4), RandomSet(words, 3, 1)};
      for (int i = 0; i < 200; ++i) batch.penalized.push_back((i * 7919) % vocab);
      // The likeliest id, so that the penalty matters.
      batch.penalized.push_back(
          static_cast<int>(std::max_element(batch.logits[1].begin(), batch.logits[1].end()) -
                           batch.logits[1].begin()));
      const std::vector<int32_t> few(batch.penalized.begin() + 190, batch.penalized.end());
      batch.rows = {{2, -1, 0, 0, 1.f, 0, {}},
                    {1, 0, 190, 11, 1.3f, 2, {1, 2}},
                    {0, 1, 0, 201, 1.f, 1, {0}},
                    {1, -1, 190, 11, 1.3f, 0, {}}};
      const auto got = batch.Run();
      const Want want[] = {
          Reference(batch.logits[2], nullptr, {}, 1, {}),
          Reference(batch.logits[1], &batch.sets[0], few, 1.3f, {batch.sets[1], batch.sets[2]}),
          Reference(batch.logits[0], &batch.sets[1], {}, 1, {batch.sets[0]}),
          Reference(batch.logits[1], nullptr, few, 1.3f, {})};
      for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(got[i].id, want[i].id) << vocab << " " << i;
        EXPECT_TRUE(got[i].finite);
        if (want[i].id < 0) continue;
        EXPECT_NEAR(got[i].log_probability, want[i].log_probability, 1e-5);
        for (size_t m = 0; m < want[i].log_mass.size(); ++m) {
          if (std::isinf(want[i].log_mass[m])) {
            EXPECT_EQ(got[i].log_mass[m], want[i].log_mass[m]);
          } else {
            EXPECT_NEAR(got[i].log_mass[m], want[i].log_mass[m], 1e-5);
          }
        }
      }
    }
  }
}

TEST_F(SamplingTest, TheLowestIdWinsAmongEquals) {
  Batch batch(Dtype::kBFloat16, 151936);
  batch.logits.assign(1, std::vector<float>(batch.vocab, -2.f));
  for (const int id : {151935, 77777, 40001, 40000}) batch.logits[0][id] = 5;
  batch.sets = {std::vector<uint64_t>((batch.vocab + 63) / 64, ~uint64_t{0})};
  batch.sets[0][40000 / 64] &= ~(uint64_t{3} << (40000 % 64));
  batch.rows = {{0, -1, 0, 0, 1.f, 0, {}}, {0, 0, 0, 0, 1.f, 0, {}}};
  const auto got = batch.Run();
  EXPECT_EQ(got[0].id, 40000);
  EXPECT_EQ(got[1].id, 77777);
}

TEST_F(SamplingTest, TellsOfNonFiniteLogitsAndEmptySets) {
  Batch batch(Dtype::kFloat16, 1000);
  for (int i = 0; i < 3; ++i) batch.logits.push_back(Random(1000, i, Dtype::kFloat16));
  batch.logits[1][999] = NAN;
  batch.logits[2][0] = -INFINITY;
  batch.sets = {std::vector<uint64_t>(16, 0)};
  batch.rows = {{0, 0, 0, 0, 1.f, 0, {}}, {1, -1, 0, 0, 1.f, 0, {}}, {2, -1, 0, 0, 1.f, 0, {}}};
  const auto got = batch.Run();
  EXPECT_EQ(got[0].id, -1);
  EXPECT_TRUE(got[0].finite);
  EXPECT_FALSE(got[1].finite);
  EXPECT_FALSE(got[2].finite);
}

}  // namespace
}  // namespace chord::cuda
