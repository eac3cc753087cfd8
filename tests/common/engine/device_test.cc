#include "common/engine/device.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/errors.h"

extern "C" void sgemm_();

namespace chord::engine {
namespace {

using model::DType;

TEST(Device, ReadsNames) {
  EXPECT_EQ(ParseDevice("cpu")->ToString(), "cpu");
  EXPECT_EQ((Device{Device::Kind::kCuda, 3}).ToString(), "cuda:3");
  for (const char* text : {"", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0"}) {
    EXPECT_EQ(ErrorReason(ParseDevice(text).status()), "CONFIG_INVALID") << text;
  }
}

TEST(Device, SaysWhyCudaCannotBeUsed) {
  const absl::StatusOr<Device> device = ParseDevice("cuda");
  if (device.ok()) {
    EXPECT_EQ(device->ToString(), "cuda:0");
    EXPECT_EQ(ErrorReason(ParseDevice("cuda:999").status()), "DEVICE_UNAVAILABLE");
  } else {
    EXPECT_EQ(ErrorReason(device.status()), "DEVICE_UNAVAILABLE");
    EXPECT_EQ(ParseDevice("auto")->ToString(), "cpu");
  }
}

TEST(Device, ChoosesDTypes) {
  const Device cpu;
  EXPECT_EQ(*ParseDType("fp32", cpu, "bfloat16"), DType::kFloat32);
  EXPECT_EQ(*ParseDType("bf16", cpu, "float32"), DType::kBFloat16);
  EXPECT_EQ(*ParseDType("auto", cpu, "float32"), DType::kFloat32);
  EXPECT_EQ(*ParseDType("auto", cpu, "float16"), DType::kFloat32);
  EXPECT_EQ(*ParseDType("auto", cpu, "bfloat16"), DType::kFloat32);  // its weights stay bf16
  EXPECT_EQ(ErrorReason(ParseDType("fp16", cpu, "").status()), "CONFIG_INVALID");
  EXPECT_EQ(ErrorReason(ParseDType("int3", cpu, "").status()), "CONFIG_INVALID");
}

TEST(Device, ChoosesPackedWeightsOnTheCpuAlone) {
  const Device cpu, cuda{Device::Kind::kCuda, 0};
  EXPECT_EQ(ParsePrecision("fp32", cpu, "")->weights, WeightFormat{});
  EXPECT_EQ(ParsePrecision("bf16", cpu, "")->name, "BF16");
  const auto packed = ParsePrecision("int4-64", cpu, "bfloat16");
  ASSERT_TRUE(packed.ok());
  EXPECT_EQ(packed->compute, DType::kFloat32);
  EXPECT_EQ(packed->weights, (WeightFormat{WeightFormat::Kind::kInt4, 64}));
  EXPECT_EQ(packed->name, "int4-64");
  EXPECT_EQ(ErrorReason(ParsePrecision("int8", cuda, "").status()), "CONFIG_INVALID");
  EXPECT_EQ(ErrorReason(ParsePrecision("int5", cpu, "").status()), "CONFIG_INVALID");
}

TEST(Device, MultipliesWithLibtorchsBlas) {
  // With the reference BLAS of another library in front every product is 30 times slower.
  Dl_info info;
  ASSERT_NE(dladdr(reinterpret_cast<const void*>(&sgemm_), &info), 0);
  EXPECT_THAT(info.dli_fname, testing::HasSubstr("libtorch_cpu"));
  EXPECT_EQ(dlsym(RTLD_DEFAULT, "sgemm_"), reinterpret_cast<const void*>(&sgemm_));
  EXPECT_TRUE(InitEngine(3).ok());
  EXPECT_EQ(ErrorReason(InitEngine(-1)), "CONFIG_INVALID");
}

}  // namespace
}  // namespace chord::engine
