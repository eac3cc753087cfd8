#include "common/engine/packed/packed_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/engine/half.h"
#include "common/engine/packed/quantized_input.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

std::vector<const PackedKernels*> Available() {
  std::vector<const PackedKernels*> kernels = {&packed_portable::kKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    kernels.push_back(&packed_avx2::kKernels);
  }
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) {
    kernels.push_back(&packed_vnni::kKernels);
  }
#endif
  return kernels;
}

struct Shape {
  int64_t outputs, inputs;
  int bits, group;
  bool scales, zeros;
};

// A matrix of random integers over their whole range.
std::shared_ptr<PackedMatrix> RandomMatrix(const Shape& shape, int seed) {
  PackedHeader header;
  header.outputs = shape.outputs;
  header.inputs = shape.inputs;
  header.bits = shape.bits;
  header.group = shape.group;
  header.has_group_scales = shape.scales;
  header.has_zeros = shape.zeros;
  EXPECT_TRUE(CheckPackedHeader(header).ok());
  const auto matrix = PackedMatrix::Allocate(header);
  std::mt19937 random(seed);
  const auto any = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  for (int64_t j = 0; j < header.blocks() * kPackedBlock; ++j) {
    matrix->output_scales()[j] = 0.01f * static_cast<float>(1 + any(100));
  }
  const int64_t per_group = header.blocks() * header.groups() * kPackedBlock;
  for (int64_t i = 0; shape.scales && i < per_group; ++i) {
    matrix->group_scales()[i] = FloatToHalf(0.02f * static_cast<float>(any(100) - 50));
  }
  for (int64_t i = 0; shape.zeros && i < per_group; ++i) {
    matrix->zeros()[i] = static_cast<uint8_t>(any(shape.bits == 4 ? 17 : 256));
  }
  std::vector<uint8_t> u(kPackedBlock * header.steps() * kPackedStep);
  for (int64_t block = 0; block < header.blocks(); ++block) {
    for (uint8_t& value : u) value = static_cast<uint8_t>(any(1 << shape.bits));
    matrix->StoreBlock(block, u.data());
  }
  return matrix;
}

struct Activations {
  int64_t stride, groups;
  std::vector<int8_t> values;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  QuantizedRows rows() const { return {values.data(), stride, scales.data(), sums.data(), groups}; }
};

Activations Quantized(const PackedKernels& kernels, const PackedHeader& shape,
                      const std::vector<float>& x, int64_t rows) {
  Activations out{shape.steps() * kPackedStep, shape.groups(), {}, {}, {}};
  out.values.assign(rows * out.stride, 0);
  out.scales.resize(rows * out.groups);
  out.sums.resize(rows * out.groups);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.quantize(&x[r * shape.inputs], shape.inputs, shape.group, &out.values[r * out.stride],
                     &out.scales[r * out.groups], &out.sums[r * out.groups]);
  }
  return out;
}

std::vector<float> Products(const PackedKernels& kernels, const PackedMatrix& w,
                            const Activations& x, int64_t first, int64_t rows) {
  std::vector<float> out(rows * w.outputs(), -1);
  for (int64_t block = 0; block < w.header().blocks(); ++block) {
    kernels.products(w.view(), block, x.rows(), first, rows, out.data() + block * kPackedBlock,
                     w.outputs());
  }
  return out;
}

class PackedKernelsTest : public testing::TestWithParam<const PackedKernels*> {
 protected:
  const PackedKernels& k = *GetParam();
};
INSTANTIATE_TEST_SUITE_P(Sets, PackedKernelsTest, testing::ValuesIn(Available()),
                         [](const auto& made) {
                           std::string name = made.param->instruction_set;
                           std::erase(name, '-');
                           return name;
                         });

const Shape kShapes[] = {
    {64, 128, 8, 128, false, false},   {1, 1, 8, 128, false, false},
    {101, 70, 8, 128, false, false},   {70, 300, 8, 128, false, false},
    {65, 1'030, 8, 512, false, false}, {130, 257, 4, 32, true, false},
    {63, 200, 4, 64, true, false},     {129, 131, 4, 128, true, true},
    {17, 33, 4, 32, true, true},       {80, 260, 8, 128, true, true},
    {33, 96, 8, 32, true, false},      {200, 515, 4, 128, true, true},
};

TEST_P(PackedKernelsTest, MultipliesWhatTheIntegersAndScalesStandFor) {
  int seed = 0;
  for (const Shape& shape : kShapes) {
    const auto w = RandomMatrix(shape, ++seed);
    constexpr int64_t kRows = 8;
    const std::vector<float> x = RandomFloats(kRows * shape.inputs, seed);
    const Activations q = Quantized(k, w->header(), x, kRows);
    const std::vector<float> out = Products(k, *w, q, 0, kRows);
    std::vector<float> row(shape.inputs);
    for (int64_t j = 0; j < shape.outputs; ++j) {
      w->Dequantize(j, row.data());
      for (int64_t r = 0; r < kRows; ++r) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < shape.inputs; ++i) {
          const double value = double{q.scales[r * q.groups + i / shape.group]} *
                               q.values[r * q.stride + i] * row[i];
          sum += value;
          size += std::fabs(value);
        }
        ASSERT_NEAR(out[r * shape.outputs + j], sum, 2e-6 * size + 1e-12)
            << shape.outputs << "x" << shape.inputs << " bits " << shape.bits << " row " << r
            << " output " << j;
      }
    }
  }
}

TEST_P(PackedKernelsTest, GivesARowTheSameBitsAloneAndAmongOthers) {
  int seed = 40;
  for (const Shape& shape : kShapes) {
    const auto w = RandomMatrix(shape, ++seed);
    constexpr int64_t kRows = 17;
    const Activations q =
        Quantized(k, w->header(), RandomFloats(kRows * shape.inputs, seed), kRows);
    const std::vector<float> all = Products(k, *w, q, 0, kRows);
    for (int64_t rows = 1; rows <= 7; ++rows) {
      for (int64_t first = 0; first + rows <= kRows; first += 3) {
        const std::vector<float> part = Products(k, *w, q, first, rows);
        ASSERT_EQ(0, std::memcmp(part.data(), &all[first * shape.outputs], part.size() * 4))
            << rows << " rows from " << first;
      }
    }
  }
}

// So that packed weights, and answers of them, do not depend on the machine that made them.
TEST_P(PackedKernelsTest, EqualsThePortableKernelsToTheBit) {
  const PackedKernels& portable = packed_portable::kKernels;
  int seed = 80;
  for (const Shape& shape : kShapes) {
    const auto w = RandomMatrix(shape, ++seed);
    const std::vector<float> x = RandomFloats(3 * shape.inputs, seed);
    const Activations mine = Quantized(k, w->header(), x, 3);
    const Activations other = Quantized(portable, w->header(), x, 3);
    EXPECT_EQ(mine.values, other.values);
    EXPECT_EQ(mine.scales, other.scales);
    EXPECT_EQ(mine.sums, other.sums);
    EXPECT_EQ(Products(k, *w, mine, 0, 3), Products(portable, *w, other, 0, 3));
  }
  for (int round = 0; round < 50; ++round) {
    const std::vector<float> w = RandomFloats(64, round, 0.02f);
    const float largest = k.largest(w.data(), 64);
    EXPECT_EQ(largest, portable.largest(w.data(), 64));
    const float scale = k.fit_int4(w.data(), 64, largest);
    EXPECT_EQ(scale, portable.fit_int4(w.data(), 64, largest));
    std::vector<uint8_t> mine(64), other(64);
    k.round_weights(w.data(), 64, 1 / scale, 8, mine.data());
    portable.round_weights(w.data(), 64, 1 / scale, 8, other.data());
    EXPECT_EQ(mine, other);
  }
}

TEST_P(PackedKernelsTest, HoldsTheLargestSumsOfAGroup) {
  // 512 inputs of the largest integers: the sum is just below 2^24.
  PackedHeader header;
  header.outputs = 64;
  header.inputs = kMaxPackedGroup;
  header.group = kMaxPackedGroup;
  header.has_zeros = 1;
  const auto w = PackedMatrix::Allocate(header);
  std::fill_n(w->output_scales(), 64, 1.0f);
  std::fill_n(w->zeros(), 64, uint8_t{0});
  w->StoreBlock(0, std::vector<uint8_t>(64 * kMaxPackedGroup, 255).data());
  for (const float sign : {1.0f, -1.0f}) {
    const std::vector<float> x(kMaxPackedGroup, sign * 127);
    const Activations q = Quantized(k, header, x, 1);
    EXPECT_EQ(Products(k, *w, q, 0, 1),
              std::vector<float>(64, sign * 255 * 127 * static_cast<float>(kMaxPackedGroup)));
  }
}

TEST_P(PackedKernelsTest, QuantisesGroupsOnTheirOwn) {
  std::vector<float> x = RandomFloats(300, 1);
  for (int i = 0; i < 128; ++i) x[i] *= 1e6f;  // an outlier's group does not coarsen others
  for (int i = 256; i < 300; ++i) x[i] = 0;    // nothing
  std::vector<int8_t> q(300);
  float scales[3];
  int32_t sums[3];
  k.quantize(x.data(), 300, 128, q.data(), scales, sums);
  EXPECT_EQ(scales[2], 0);
  EXPECT_EQ(sums[2], 0);
  for (int i = 0; i < 256; ++i) {
    EXPECT_NEAR(q[i] * scales[i / 128], x[i], scales[i / 128] * 0.5001f) << i;
  }
  int sum = 0;
  for (int i = 128; i < 256; ++i) sum += q[i];
  EXPECT_EQ(sums[1], sum);
}

TEST_P(PackedKernelsTest, MakesAGroupThatIsNotFiniteNan) {
  for (const float wild :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x = RandomFloats(70, 2);
    x[66] = wild;
    std::vector<int8_t> q(70);
    float scales[2];
    int32_t sums[2];
    k.quantize(x.data(), 70, 64, q.data(), scales, sums);
    EXPECT_TRUE(std::isfinite(scales[0]));
    EXPECT_TRUE(std::isnan(scales[1]));
  }
}

TEST_P(PackedKernelsTest, TakesExtremeActivations) {
  for (const float size : {3.4e38f, 1e-29f, 1e-37f, 1e-45f}) {
    const std::vector<float> x(40, size);
    std::vector<int8_t> q(40);
    float scale;
    int32_t sum;
    k.quantize(x.data(), 40, 64, q.data(), &scale, &sum);
    if (size >= 1e-29f) {
      EXPECT_NEAR(q[0] * scale / size, 1, 1e-6) << size;
      EXPECT_EQ(sum, 40 * 127);
    } else {
      EXPECT_EQ(scale, 0);
    }
  }
}

TEST_P(PackedKernelsTest, FindsTheLargestWithItsSign) {
  std::vector<float> w = RandomFloats(48, 3);
  w[17] = -9;
  EXPECT_EQ(k.largest(w.data(), 48), -9);
  w[40] = 10;
  EXPECT_EQ(k.largest(w.data(), 48), 10);
  w[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(k.largest(w.data(), 48)));
}

TEST_P(PackedKernelsTest, FitsAScaleNoWorseThanTheLargestValueGives) {
  for (int seed = 0; seed < 20; ++seed) {
    const std::vector<float> w = RandomFloats(64, seed, 0.05f);
    const float largest = k.largest(w.data(), 64);
    const auto error = [&](float scale) {
      std::vector<uint8_t> u(64);
      k.round_weights(w.data(), 64, 1 / scale, 8, u.data());
      double sum = 0;
      for (int i = 0; i < 64; ++i) {
        const double off = double{scale} * (u[i] - 8) - w[i];
        sum += off * off;
      }
      return sum;
    };
    EXPECT_LE(error(k.fit_int4(w.data(), 64, largest)), error(largest / -8) * 1.0001);
  }
  const std::vector<float> zeros(64, 0.0f);
  EXPECT_EQ(k.fit_int4(zeros.data(), 64, 0), 0);
}

TEST(QuantizedInput, PutsInputsInTheOrderOfTheWeights) {
  PackedHeader header;
  header.outputs = 3;
  header.inputs = 70;
  header.group = 32;
  header.has_order = 1;
  const auto w = PackedMatrix::Allocate(header);
  for (int i = 0; i < 70; ++i) w->order()[i] = (i * 37 + 5) % 70;
  const std::vector<float> x = RandomFloats(70, 1);
  QuantizedInput input;
  input.Reset(*w, 1, 1);
  input.SetRow(0, x.data(), 0);
  const QuantizedRows rows = input.rows();
  for (int i = 0; i < 70; ++i) {
    EXPECT_NEAR(rows.values[i] * rows.scales[i / 32], x[w->order()[i]],
                rows.scales[i / 32] * 0.51f);
  }
  EXPECT_EQ(rows.values[70], 0);
  EXPECT_EQ(rows.values[71], 0);
  EXPECT_EQ(rows.stride, 72);

  const auto same = PackedMatrix::Allocate(header), other = PackedMatrix::Allocate(header);
  std::memcpy(same->order(), w->order(), 70 * 4);
  for (int i = 0; i < 70; ++i) other->order()[i] = i;
  EXPECT_TRUE(QuantizedInput::Serves(*w, *same));
  EXPECT_FALSE(QuantizedInput::Serves(*w, *other));
}

}  // namespace
}  // namespace chord::engine
