#include "common/image/frame_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::image {
namespace {

// Geometry comes from a checkpoint's files or from a peer, so it is not trusted to be sane.
absl::Status CheckGeometry(const PatchGeometry& g) {
  constexpr int kMaxPatch = 1024;
  const auto sane = [](int v) { return v >= 1 && v <= kMaxPatch; };
  if (!sane(g.patch_size) || !sane(g.merge_size) || !sane(g.temporal_patch_size) ||
      g.min_pixels < 1 || g.max_pixels < g.min_pixels) {
    return errors::ConfigInvalid(
        "The model's image settings are invalid: patch_size, merge_size and temporal_patch_size "
        "must be from 1 to 1024 and 1 <= min_pixels <= max_pixels.");
  }
  return absl::OkStatus();
}

// Rounds to even under the default rounding mode, as Python's round() does.
double RoundHalfEven(double v) { return std::nearbyint(v); }

}  // namespace

absl::StatusOr<Size> SmartResize(Size size, const PatchGeometry& geometry) {
  CHORD_RETURN_IF_ERROR(CheckGeometry(geometry));
  if (size.width < 1 || size.height < 1) return errors::ImageZeroSide();
  const int64_t width = size.width;
  const int64_t height = size.height;
  if (std::max(width, height) > std::min(width, height) * limits::kMaxAspectRatio) {
    return errors::ImageAspectRatio(width, height);
  }
  const double f = geometry.factor();
  const auto w = static_cast<double>(width);
  const auto h = static_cast<double>(height);
  const auto area = static_cast<double>(width * height);
  const auto min_pixels = static_cast<double>(geometry.min_pixels);
  const auto max_pixels = static_cast<double>(geometry.max_pixels);
  double out_h = RoundHalfEven(h / f) * f;
  double out_w = RoundHalfEven(w / f) * f;
  // The order of the divisions decides about the last bit; see the spec.
  if (out_h * out_w > max_pixels) {
    const double beta = std::sqrt(area / max_pixels);
    out_h = std::max(f, std::floor(h / beta / f) * f);
    out_w = std::max(f, std::floor(w / beta / f) * f);
  } else if (out_h * out_w < min_pixels) {
    const double beta = std::sqrt(min_pixels / area);
    out_h = std::ceil(h * beta / f) * f;
    out_w = std::ceil(w * beta / f) * f;
  }
  constexpr double kMax = std::numeric_limits<int>::max();
  if (out_h > kMax || out_w > kMax) {
    return errors::ConfigInvalid("The model's min_pixels is too large.");
  }
  return Size{static_cast<int>(out_w), static_cast<int>(out_h)};
}

absl::StatusOr<FramePlan> PlanFrame(const Header& header, const PatchGeometry& geometry,
                                    int64_t max_tokens) {
  FramePlan plan;
  plan.stored = {header.width, header.height};
  plan.orientation = header.orientation >= 1 && header.orientation <= 8 ? header.orientation : 1;
  plan.upright = plan.orientation >= 5 ? Size{header.height, header.width} : plan.stored;
  CHORD_ASSIGN_OR_RETURN(plan.resized, SmartResize(plan.upright, geometry));
  plan.grid = {plan.resized.height / geometry.patch_size, plan.resized.width / geometry.patch_size};
  plan.tokens = plan.grid.tokens(geometry.merge_size);
  if (plan.tokens > max_tokens) {
    return errors::ImagePixelLimit(header.width, header.height,
                                   max_tokens * geometry.factor() * geometry.factor());
  }
  return plan;
}

absl::Status VerifyFrame(const FramePlan& plan, const PatchGeometry& geometry) {
  // Limits of the requests this came from are not known here; the ceilings are.
  Header header;
  header.width = plan.stored.width;
  header.height = plan.stored.height;
  header.orientation = plan.orientation;
  if (plan.stored.width > limits::kMaxImageSide || plan.stored.height > limits::kMaxImageSide) {
    return errors::FrameMismatch();
  }
  const absl::StatusOr<FramePlan> derived = PlanFrame(header, geometry);
  if (!derived.ok() || *derived != plan) return errors::FrameMismatch();
  return absl::OkStatus();
}

std::optional<Box> ToUpright(const BoxF& resized_px, const FramePlan& plan) {
  if (plan.resized.width < 1 || plan.resized.height < 1) return std::nullopt;
  // One axis: scaled, ordered, clamped, rounded, at least one pixel.
  const auto map = [](double a, double b, int from, int to, int& lo, int& hi) {
    if (!std::isfinite(a) || !std::isfinite(b) || a == b || to < 1) return false;
    const double scale = static_cast<double>(to) / from;
    const double first = std::max(std::min(a, b) * scale, 0.0);
    const double last = std::min(std::max(a, b) * scale, static_cast<double>(to));
    if (!(first < last)) return false;
    lo = static_cast<int>(std::lround(first));
    hi = static_cast<int>(std::lround(last));
    if (lo == hi) {
      lo = std::min(static_cast<int>(std::floor((first + last) / 2)), to - 1);
      hi = lo + 1;
    }
    return true;
  };
  Box box;
  if (!map(resized_px.x1, resized_px.x2, plan.resized.width, plan.upright.width, box.x1, box.x2) ||
      !map(resized_px.y1, resized_px.y2, plan.resized.height, plan.upright.height, box.y1,
           box.y2)) {
    return std::nullopt;
  }
  return box;
}

}  // namespace chord::image
