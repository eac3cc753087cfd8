#include "services/cli/plot/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <opencv2/imgproc.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace chord::plot {
namespace {

constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
constexpr double kTitleScale = 0.55, kTextScale = 0.42;
constexpr int kLeft = 70, kRight = 20, kTop = 52, kBottom = 48;  // px around the plot
constexpr size_t kMaxCharts = 16;
constexpr size_t kMaxLetters = 120;

const cv::Scalar kWhite(255, 255, 255), kBlack(20, 20, 20), kGrey(110, 110, 110),
    kFaint(225, 225, 225);
// Told apart also by people who see red and green alike (Okabe and Ito).
const cv::Scalar kColours[] = {{0, 114, 178}, {213, 94, 0},   {0, 158, 115},  {204, 121, 167},
                               {230, 159, 0}, {86, 180, 233}, {120, 120, 120}};

std::string Printable(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, kMaxLetters)) {
    out.push_back(absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : '?');
  }
  return out;
}

std::string TickText(double value) {
  return absl::StrFormat("%g", std::abs(value) < 1e-12 ? 0 : value);
}

struct Axis {
  double low = 0, high = 1;
  bool log = false;
  double from = 0, to = 1;  // px
  double Px(double value) const {
    const double share = log ? (std::log(value) - std::log(low)) / (std::log(high) - std::log(low))
                             : (value - low) / (high - low);
    return from + share * (to - from);
  }
};

bool Drawable(const std::pair<double, double>& point, bool log_x) {
  return std::isfinite(point.first) && std::isfinite(point.second) && (!log_x || point.first > 0);
}

// Powers of ten, with 2 and 5 between them when there are few.
std::vector<double> LogTicks(double low, double high) {
  std::vector<double> out;
  const double decades = std::log10(high / low);
  for (int power = static_cast<int>(std::floor(std::log10(low)));
       std::pow(10, power) <= high * 1.0001 && out.size() < 100; ++power) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor > 1 && decades > 3) continue;
      const double value = factor * std::pow(10, power);
      if (value >= low * 0.9999 && value <= high * 1.0001) out.push_back(value);
    }
  }
  return out;
}

void Fit(const Chart& chart, Axis& x, Axis& y) {
  double x_low = std::numeric_limits<double>::infinity(), x_high = -x_low, y_high = 0;
  const auto take = [&](double value) {
    if (!std::isfinite(value) || (chart.log_x && value <= 0)) return;
    x_low = std::min(x_low, value);
    x_high = std::max(x_high, value);
  };
  for (const ChartSeries& series : chart.series) {
    for (const auto& point : series.points) {
      if (!Drawable(point, chart.log_x)) continue;
      take(point.first);
      y_high = std::max(y_high, point.second);
    }
  }
  for (const auto& [value, word] : chart.x_marks) take(value);
  if (x_low > x_high) {
    x_low = chart.log_x ? 0.1 : 0;
    x_high = 1;
  }
  x.log = chart.log_x;
  if (chart.log_x) {
    x.low = x_low / 1.05;
    x.high = x_high * 1.05;
  } else {
    x.low = x_low > 0 && x_low < 0.3 * x_high ? 0 : x_low;
    x.high = x_high > x.low ? x_high : x.low + 1;
  }
  y.low = 0;
  y.high = chart.y_max > 0 ? chart.y_max : (y_high > 0 ? y_high * 1.08 : 1);
}

void Text(cv::Mat& canvas, const std::string& text, int x, int y, double scale,
          const cv::Scalar& colour) {
  cv::putText(canvas, Printable(text), {x, y}, kFont, scale, colour, 1, cv::LINE_AA);
}

int WidthOf(const std::string& text, double scale) {
  int below = 0;
  return cv::getTextSize(Printable(text), kFont, scale, 1, &below).width;
}

// Written upwards, its middle at `middle_y`.
void TextUpwards(cv::Mat& canvas, const std::string& text, int x, int middle_y) {
  const int width = WidthOf(text, kTextScale);
  if (width < 1) return;
  cv::Mat line(18, width + 2, CV_8UC3, kWhite);
  Text(line, text, 1, 13, kTextScale, kGrey);
  cv::Mat turned;
  cv::rotate(line, turned, cv::ROTATE_90_COUNTERCLOCKWISE);
  const cv::Rect all({}, canvas.size());
  const cv::Rect where(x, middle_y - turned.rows / 2, turned.cols, turned.rows);
  if ((where & all) == where) turned.copyTo(canvas(where));
}

// OpenCV draws no dashes. `phase` runs on along the whole curve.
void Segment(cv::Mat& canvas, cv::Point2d a, cv::Point2d b, const cv::Scalar& colour, int thickness,
             bool dashed, double& phase) {
  constexpr double kDash = 7, kGap = 5;
  const double length = std::hypot(b.x - a.x, b.y - a.y);
  if (!dashed) {
    cv::line(canvas, a, b, colour, thickness, cv::LINE_AA);
    return;
  }
  for (double at = 0; at < length;) {
    const bool ink = phase < kDash;
    const double end = std::min(length, at + (ink ? kDash : kDash + kGap) - phase);
    if (ink) {
      cv::line(canvas, a + (b - a) * (at / length), a + (b - a) * (end / length), colour, thickness,
               cv::LINE_AA);
    }
    phase += end - at;
    if (phase >= kDash + kGap - 1e-9) phase = 0;
    at = end;
  }
}

// One chart on its canvas, layer by layer.
class Drawing {
 public:
  Drawing(const Chart& chart, cv::Mat canvas) : chart_(chart), canvas_(std::move(canvas)) {
    canvas_.setTo(kWhite);
    Fit(chart_, x_, y_);
    x_.from = kLeft;
    x_.to = canvas_.cols - kRight;
    y_.from = canvas_.rows - kBottom;
    y_.to = kTop;
  }

  void Draw() {
    DrawYGrid();
    DrawXGrid();
    DrawMarks();
    DrawSeries();
    DrawFrame();
  }

 private:
  int left() const { return static_cast<int>(x_.from); }
  int right() const { return static_cast<int>(x_.to); }
  int top() const { return static_cast<int>(y_.to); }
  int bottom() const { return static_cast<int>(y_.from); }
  static int Round(double px) { return static_cast<int>(std::lround(px)); }

  void DrawYGrid() {
    for (const double value : Ticks(y_.low, y_.high, std::max(2, (bottom() - top()) / 45))) {
      if (value > y_.high * 1.0001) continue;
      const int at = Round(y_.Px(value));
      cv::line(canvas_, {left(), at}, {right(), at}, kFaint);
      const std::string text = TickText(value);
      Text(canvas_, text, left() - 6 - WidthOf(text, kTextScale), at + 4, kTextScale, kGrey);
    }
  }

  void DrawXGrid() {
    int free_from = 0;  // where the last label of the axis ended
    for (const double value : x_.log
                                  ? LogTicks(x_.low, x_.high)
                                  : Ticks(x_.low, x_.high, std::max(2, (right() - left()) / 90))) {
      if (value < x_.low * 0.9999 || value > x_.high * 1.0001) continue;
      const int at = Round(x_.Px(value));
      cv::line(canvas_, {at, top()}, {at, bottom()}, kFaint);
      const std::string text = TickText(value);
      const int width = WidthOf(text, kTextScale);
      if (at - width / 2 < free_from) continue;
      Text(canvas_, text, at - width / 2, bottom() + 16, kTextScale, kGrey);
      free_from = at + width / 2 + 6;
    }
  }

  void DrawMarks() {
    for (const auto& [value, word] : chart_.x_marks) {
      if (!std::isfinite(value) || (x_.log && value <= 0)) continue;
      const int at = Round(x_.Px(value));
      double phase = 0;
      Segment(canvas_, cv::Point2d(at, bottom()), cv::Point2d(at, top()), kBlack, 1, true, phase);
      const int width = WidthOf(word, kTextScale);
      Text(canvas_, word, at + 4 + width > right() ? at - 4 - width : at + 4, top() + 12,
           kTextScale, kBlack);
    }
  }

  void DrawSeries() {
    int legend = left();
    for (size_t i = 0; i < chart_.series.size(); ++i) {
      const ChartSeries& series = chart_.series[i];
      const cv::Scalar& colour = kColours[i % std::size(kColours)];
      DrawCurve(series, colour);
      double phase = 0;
      Segment(canvas_, cv::Point2d(legend, top() - 10), cv::Point2d(legend + 22, top() - 10),
              colour, 2, series.dashed, phase);
      Text(canvas_, series.name, legend + 27, top() - 6, kTextScale, kBlack);
      legend += 27 + WidthOf(series.name, kTextScale) + 18;
    }
  }

  void DrawCurve(const ChartSeries& series, const cv::Scalar& colour) {
    double phase = 0;
    bool has_last = false;
    cv::Point2d last;
    for (const auto& point : series.points) {
      if (!Drawable(point, x_.log)) {
        has_last = false;
        continue;
      }
      const cv::Point2d here(x_.Px(point.first), y_.Px(std::clamp(point.second, y_.low, y_.high)));
      if (has_last) Segment(canvas_, last, here, colour, 2, series.dashed, phase);
      if (series.markers) cv::circle(canvas_, here, 3, colour, cv::FILLED, cv::LINE_AA);
      last = here;
      has_last = true;
    }
  }

  void DrawFrame() {
    cv::line(canvas_, {left(), bottom()}, {right(), bottom()}, kGrey);
    cv::line(canvas_, {left(), top()}, {left(), bottom()}, kGrey);
    Text(canvas_, chart_.title, left(), 24, kTitleScale, kBlack);
    Text(canvas_, chart_.x_label, (left() + right() - WidthOf(chart_.x_label, kTextScale)) / 2,
         bottom() + 36, kTextScale, kGrey);
    TextUpwards(canvas_, chart_.y_label, 6, (top() + bottom()) / 2);
  }

  const Chart& chart_;
  cv::Mat canvas_;  // shares its pixels with the caller's
  Axis x_, y_;
};

}  // namespace

std::vector<double> Ticks(double low, double high, int count) {
  std::vector<double> out;
  if (!(high > low) || count < 1 || !std::isfinite(low) || !std::isfinite(high)) return out;
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power * 1.0001) {
      step = factor * power;
      break;
    }
  }
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    out.push_back(i * step);
    if (out.size() > 1000) break;
  }
  return out;
}

image::RgbImage DrawCharts(absl::Span<const Chart> charts, int width, int height) {
  image::RgbImage out;
  const size_t count = std::min(charts.size(), kMaxCharts);
  width = std::clamp(width, 200, 4000);
  height = std::clamp(height, 200, 4000);
  out.width = width;
  out.height = height * static_cast<int>(std::max<size_t>(1, count));
  out.rgb.assign(static_cast<size_t>(out.width) * static_cast<size_t>(out.height) * 3, 255);
  try {
    cv::Mat canvas(out.height, out.width, CV_8UC3, out.rgb.data());
    for (size_t i = 0; i < count; ++i) {
      Drawing(charts[i], canvas(cv::Rect(0, static_cast<int>(i) * height, width, height))).Draw();
    }
  } catch (const cv::Exception&) {
    // What stands so far is returned.
  }
  return out;
}

}  // namespace chord::plot
