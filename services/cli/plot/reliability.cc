#include "services/cli/plot/reliability.h"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "absl/strings/str_format.h"

namespace chord::plot {
namespace {

constexpr int kSide = 480, kLeft = 56, kTop = 40, kRight = 464, kBottom = 420;
constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
// The image is RGB.
const cv::Scalar kWhite(255, 255, 255), kInk(40, 40, 40), kGrid(228, 228, 228), kBar(200, 216, 238),
    kCurve(28, 92, 180), kIdeal(150, 150, 150);

double Unit(double v) { return std::isfinite(v) ? std::clamp(v, 0.0, 1.0) : 0.0; }

cv::Point At(double x, double y) {
  return {kLeft + static_cast<int>(std::lround(Unit(x) * (kRight - kLeft))),
          kBottom - static_cast<int>(std::lround(Unit(y) * (kBottom - kTop)))};
}

void Write(cv::Mat& canvas, const std::string& text, cv::Point at, double scale = 0.4) {
  cv::putText(canvas, text, at, kFont, scale, kInk, 1, cv::LINE_AA);
}

}  // namespace

image::RgbImage DrawReliability(absl::Span<const ReliabilityBin> bins, const std::string& title) {
  image::RgbImage out{kSide, kSide, std::vector<uint8_t>(size_t{3} * kSide * kSide, 255)};
  try {
    cv::Mat canvas(kSide, kSide, CV_8UC3, out.rgb.data());
    int64_t samples = 0;
    for (const ReliabilityBin& bin : bins) samples += std::max<int64_t>(bin.count, 0);
    for (size_t i = 0; i < bins.size() && samples > 0; ++i) {
      const double n = static_cast<double>(bins.size());
      const double share = static_cast<double>(std::max<int64_t>(bins[i].count, 0)) / samples;
      if (share > 0) {
        cv::rectangle(canvas, At(i / n, share) + cv::Point(2, 0),
                      At((i + 1) / n, 0) - cv::Point(2, 0), kBar, cv::FILLED);
      }
    }
    for (int i = 0; i <= 5; ++i) {
      const double v = i / 5.0;
      cv::line(canvas, At(v, 0), At(v, 1), kGrid);
      cv::line(canvas, At(0, v), At(1, v), kGrid);
      const std::string text = absl::StrFormat("%.1f", v);
      Write(canvas, text, At(v, 0) + cv::Point(-10, 18));
      Write(canvas, text, At(0, v) + cv::Point(-30, 4));
    }
    cv::line(canvas, At(0, 0), At(1, 1), kIdeal, 1, cv::LINE_AA);
    cv::rectangle(canvas, At(0, 0), At(1, 1), kInk);
    const ReliabilityBin* last = nullptr;
    for (const ReliabilityBin& bin : bins) {
      if (bin.count <= 0) continue;
      const cv::Point here = At(bin.confidence, bin.right);
      if (last != nullptr) {
        cv::line(canvas, At(last->confidence, last->right), here, kCurve, 2, cv::LINE_AA);
      }
      cv::circle(canvas, here, 4, kCurve, cv::FILLED, cv::LINE_AA);
      last = &bin;
    }
    Write(canvas, title, {kLeft, 18}, 0.45);
    Write(canvas, "confidence (bars: share of the answers)", {kLeft + 76, kBottom + 42});
    Write(canvas, "share right", {4, kTop - 10}, 0.35);
  } catch (const cv::Exception&) {
    // As in annotate.cc: what stands so far is returned.
  }
  return out;
}

}  // namespace chord::plot
