#include "common/engine/packed/pack_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/engine/half.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using model::DType;
using Kind = WeightFormat::Kind;

struct Source {
  std::vector<std::byte> bytes;
  model::TensorView view;
};

Source MakeSource(DType dtype, const std::vector<float>& values, int64_t outputs, int64_t inputs) {
  Source source;
  // One byte off: tensors of a file need not be aligned.
  source.bytes.resize(1);
  if (dtype == DType::kFloat16) {
    for (float value : values) {
      const uint16_t half = FloatToHalf(value);
      const auto* at = reinterpret_cast<const std::byte*>(&half);
      source.bytes.insert(source.bytes.end(), at, at + 2);
    }
  } else {
    const auto encoded = Encode(dtype, values);
    source.bytes.insert(source.bytes.end(), encoded.begin(), encoded.end());
  }
  source.view = {dtype,
                 {outputs, inputs},
                 source.bytes.data() + 1,
                 static_cast<int64_t>(source.bytes.size()) - 1};
  return source;
}

std::vector<float> Dequantized(const PackedMatrix& matrix) {
  std::vector<float> out(matrix.outputs() * matrix.inputs());
  for (int64_t j = 0; j < matrix.outputs(); ++j) {
    matrix.Dequantize(j, &out[j * matrix.inputs()]);
  }
  return out;
}

TEST(Half, ConvertsEveryValueThereAndBack) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const float value = HalfToFloat(static_cast<uint16_t>(half));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      ASSERT_EQ(FloatToHalf(value), half) << value;
    }
  }
}

TEST(Half, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(FloatToHalf(1 + 0x1p-11f), 0x3C00);             // a tie, down to even
  EXPECT_EQ(FloatToHalf(1 + 3 * 0x1p-11f), 0x3C02);         // a tie, up to even
  EXPECT_EQ(FloatToHalf(1 + 0x1p-11f + 0x1p-20f), 0x3C01);  // above a tie
  EXPECT_EQ(FloatToHalf(65519.99f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520), 0x7C00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);  // a tie between zero and the least subnormal
  EXPECT_EQ(FloatToHalf(0x1.8p-25f), 1);
  EXPECT_EQ(FloatToHalf(-0x1.FF8p-15f), 0x83FF);
  EXPECT_EQ(FloatToHalf(-0x1.FFCp-15f), 0x8400);  // a tie, up to the least normal number
}

class PackWeightsTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, PackWeightsTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16),
                         [](const auto& made) {
                           return std::string(model::DTypeName(made.param));
                         });

TEST_P(PackWeightsTest, Int8IsWithinHalfAStepOfEveryWeight) {
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{1, 1}, {65, 70}, {130, 257}}) {
    const std::vector<float> w = RandomFloats(outputs * inputs, 7, 0.1f);
    const Source source = MakeSource(GetParam(), w, outputs, inputs);
    const auto packed = PackWeights(source.view, outputs, inputs, {Kind::kInt8});
    ASSERT_TRUE(packed.ok()) << packed.status();
    const std::vector<float> out = Dequantized(**packed);
    for (int64_t i = 0; i < outputs * inputs; ++i) {
      const float step = (*packed)->view().output_scales[i / inputs];
      ASSERT_NEAR(out[i], w[i], 0.501f * step + 1e-4f * std::fabs(w[i])) << i;
    }
  }
}

TEST_P(PackWeightsTest, Int4IsWithinAStepOfEveryWeightOfItsGroup) {
  for (const int group : {32, 64, 128}) {
    for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{3, 1}, {65, 70}, {66, 257}}) {
      const std::vector<float> w = RandomFloats(outputs * inputs, 7, 0.1f);
      const Source source = MakeSource(GetParam(), w, outputs, inputs);
      const auto packed = PackWeights(source.view, outputs, inputs, {Kind::kInt4, group});
      ASSERT_TRUE(packed.ok()) << packed.status();
      EXPECT_EQ((*packed)->header().group, group);
      const std::vector<float> out = Dequantized(**packed);
      EXPECT_LT(Distance(out, w), 0.13);
      for (int64_t j = 0; j < outputs; ++j) {
        for (int64_t first = 0; first < inputs; first += group) {
          const int64_t end = std::min<int64_t>(inputs, first + group);
          float top = 0;
          for (int64_t i = first; i < end; ++i) top = std::max(top, std::fabs(w[j * inputs + i]));
          for (int64_t i = first; i < end; ++i) {
            // What a scale cuts off beyond 7 steps: at most 1.9 of 8.9.
            ASSERT_NEAR(out[j * inputs + i], w[j * inputs + i], 0.22f * top) << j << "," << i;
          }
        }
      }
    }
  }
}

TEST(PackWeights, KeepsRowsOfZerosAndRowsOfAllSizes) {
  // Exact whatever the size of the row: a single value is the largest of its group.
  constexpr int64_t kInputs = 96;
  const float sizes[] = {0, 1e-20f, 3e-5f, 1, 1e10f, 1e30f};
  std::vector<float> w(std::size(sizes) * kInputs, 0.0f);
  for (size_t j = 0; j < std::size(sizes); ++j) w[j * kInputs + 40] = sizes[j];
  const Source source = MakeSource(DType::kFloat32, w, std::size(sizes), kInputs);
  for (const WeightFormat& format : {WeightFormat{Kind::kInt8}, WeightFormat{Kind::kInt4, 32}}) {
    const auto packed = PackWeights(source.view, std::size(sizes), kInputs, format);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const std::vector<float> out = Dequantized(**packed);
    for (size_t i = 0; i < w.size(); ++i) {
      if (w[i] == 0) {
        EXPECT_EQ(out[i], 0) << i;
      } else {
        EXPECT_NEAR(out[i] / w[i], 1, 1e-3) << w[i] << " as " << format.ToString();
      }
    }
  }
}

TEST(PackWeights, TakesWeightsTooSmallForAScaleAsZero) {
  const std::vector<float> w(40, 1e-40f);
  const Source source = MakeSource(DType::kFloat32, w, 1, 40);
  for (const Kind kind : {Kind::kInt8, Kind::kInt4}) {
    const auto packed = PackWeights(source.view, 1, 40, {kind, 32});
    ASSERT_TRUE(packed.ok());
    EXPECT_EQ(Dequantized(**packed), std::vector<float>(40, 0.0f));
  }
}

TEST(PackWeights, RefusesWeightsThatAreNotFinite) {
  for (const float wild :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (const size_t at : {size_t{0}, size_t{70 * 130 - 1}}) {
      std::vector<float> w = RandomFloats(70 * 130, 1);
      w[at] = wild;
      const Source source = MakeSource(DType::kFloat32, w, 70, 130);
      for (const Kind kind : {Kind::kInt8, Kind::kInt4}) {
        const auto packed = PackWeights(source.view, 70, 130, {kind, 64});
        EXPECT_EQ(ErrorReason(packed.status()), "CHECKPOINT_INVALID");
      }
    }
  }
}

TEST(PackedMatrix, IsTheSameAfterAWayThroughAFile) {
  const std::vector<float> w = RandomFloats(70 * 130, 1);
  const Source source = MakeSource(DType::kBFloat16, w, 70, 130);
  const auto packed = *PackWeights(source.view, 70, 130, {Kind::kInt4, 32});
  const auto blob = packed->blob();
  std::shared_ptr<void> copy(std::aligned_alloc(64, (blob.size() + 63) / 64 * 64), std::free);
  std::memcpy(copy.get(), blob.data(), blob.size());
  const absl::Span<const std::byte> bytes(static_cast<const std::byte*>(copy.get()), blob.size());
  const auto adopted = PackedMatrix::Adopt(bytes, copy);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(Dequantized(**adopted), Dequantized(*packed));

  EXPECT_FALSE(PackedMatrix::Adopt(bytes.subspan(0, 20), copy).ok());
  EXPECT_FALSE(PackedMatrix::Adopt(bytes.subspan(0, bytes.size() - 1), copy).ok());
  EXPECT_FALSE(PackedMatrix::Adopt(bytes.subspan(1), copy).ok());
  // Each field of the header alone.
  for (size_t at = 0; at < offsetof(PackedHeader, reserved); ++at) {
    auto* byte = static_cast<std::byte*>(copy.get()) + at;
    const std::byte before = *byte;
    const bool unused = at >= offsetof(PackedHeader, unused) && at < offsetof(PackedHeader, source);
    *byte = before ^ std::byte{0x80};
    EXPECT_EQ(PackedMatrix::Adopt(bytes, copy).ok(), unused) << at;
    *byte = before;
  }
  EXPECT_TRUE(PackedMatrix::Adopt(bytes, copy).ok());
}

TEST(PackedMatrix, RefusesAnOrderThatIsNoPermutation) {
  PackedHeader header;
  header.outputs = 1;
  header.inputs = 5;
  header.group = 32;
  header.has_order = 1;
  const auto matrix = PackedMatrix::Allocate(header);
  const auto adopt = [&](std::vector<int32_t> order) {
    std::copy(order.begin(), order.end(), matrix->order());
    return PackedMatrix::Adopt(matrix->blob(), matrix).ok();
  };
  EXPECT_TRUE(adopt({4, 0, 2, 1, 3}));
  EXPECT_FALSE(adopt({4, 0, 2, 1, 1}));
  EXPECT_FALSE(adopt({4, 0, 2, 1, 5}));
  EXPECT_FALSE(adopt({-1, 0, 2, 1, 3}));
}

TEST(WeightFormat, ReadsNames) {
  EXPECT_EQ(ParseWeightFormat("int8")->ToString(), "int8");
  EXPECT_EQ(*ParseWeightFormat("int4"), (WeightFormat{Kind::kInt4, kDefaultInt4Group}));
  for (const char* name : {"int4-32", "int4-64", "int4-128"}) {
    EXPECT_EQ(ParseWeightFormat(name)->ToString(), name);
  }
  for (const char* name : {"", "int", "int3", "int4-16", "int4-", "int8-32", "INT8"}) {
    EXPECT_EQ(ErrorReason(ParseWeightFormat(name).status()), "CONFIG_INVALID") << name;
  }
}

}  // namespace
}  // namespace chord::engine
