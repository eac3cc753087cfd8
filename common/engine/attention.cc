#include "common/engine/attention.h"

#include <ATen/Context.h>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::engine {

absl::StatusOr<Attention> ParseAttention(absl::string_view text) {
  if (text.empty() || text == "auto") return Attention::kAuto;
  if (text == "flash") return Attention::kFlash;
  if (text == "efficient") return Attention::kEfficient;
  if (text == "eager") return Attention::kEager;
  return errors::ConfigInvalid(
      absl::StrCat("attention \"", text, "\": must be auto, flash, efficient or eager"));
}

void SelectTorchAttention(const Device& device, Attention attention) {
  if (device.kind != Device::Kind::kCuda) return;
  at::Context& context = at::globalContext();
  context.setSDPUseFlash(attention == Attention::kAuto);
  context.setSDPUseMemEfficient(attention != Attention::kEager);
  context.setSDPUseMath(true);  // what the others do not take
}

}  // namespace chord::engine
