// Plain line charts as images, for the summary that our own tools print. Deterministic: the same
// data gives the same pixels.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/image/image.h"

namespace chord::plot {

struct ChartSeries {
  std::string name;                               // for the legend; printable ASCII
  std::vector<std::pair<double, double>> points;  // x, y; in order of x. Not finite: left out.
  bool dashed = false;
  bool markers = false;  // a dot on each point
};

struct Chart {
  std::string title, x_label, y_label;  // printable ASCII
  std::vector<ChartSeries> series;  // colours come by their order; from the eighth on they repeat
  std::vector<std::pair<double, std::string>> x_marks;  // vertical lines with a word
  bool log_x = false;                                   // points with x <= 0 are left out
  double y_max = 0;  // upper end of the y axis, which begins at 0; <= 0: fits the points
};

// Charts one under the other, `width` × `height` px each; sides outside 200..4000 px are clamped
// and at most 16 charts are drawn.
image::RgbImage DrawCharts(absl::Span<const Chart> charts, int width, int height);

// About `count` round values (1, 2 or 5 times a power of ten) that cover [low, high]; for axes.
std::vector<double> Ticks(double low, double high, int count);

}  // namespace chord::plot
