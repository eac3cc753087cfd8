#include "services/cli/plot/annotate.h"

#include <algorithm>
#include <opencv2/imgproc.hpp>

#include "absl/strings/ascii.h"

namespace chord::plot {
namespace {

const cv::Scalar kGreen(0, 255, 0);
const cv::Scalar kBlack(0, 0, 0);
constexpr size_t kMaxLabelLetters = 64;

void Fill(cv::Mat& canvas, int x1, int y1, int x2, int y2, const cv::Scalar& colour) {
  const cv::Rect area = cv::Rect(x1, y1, x2 - x1, y2 - y1) & cv::Rect({}, canvas.size());
  if (!area.empty()) canvas(area).setTo(colour);
}

void Outline(cv::Mat& canvas, const image::Box& box, int line) {
  const int out = line / 2;
  const int in = line - out;
  Fill(canvas, box.x1 - out, box.y1 - out, box.x2 + out, box.y1 + in, kGreen);
  Fill(canvas, box.x1 - out, box.y2 - in, box.x2 + out, box.y2 + out, kGreen);
  Fill(canvas, box.x1 - out, box.y1 - out, box.x1 + in, box.y2 + out, kGreen);
  Fill(canvas, box.x2 - in, box.y1 - out, box.x2 + out, box.y2 + out, kGreen);
}

// Black on a green bar on top of the box, inside it where there is no room above.
void Label(cv::Mat& canvas, const image::Box& box, const std::string& text, int line) {
  constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
  const double scale = std::max(0.4, line * 0.2);
  const int stroke = std::max(1, line / 3);
  int below = 0;
  const cv::Size size = cv::getTextSize(text, kFont, scale, stroke, &below);
  const int height = size.height + below + 2 * line;
  const int top = box.y1 - height >= 0 ? box.y1 - height : box.y1;
  const int left = std::clamp(box.x1, 0, std::max(0, canvas.cols - size.width - line));
  Fill(canvas, left, top, left + size.width + line, top + height, kGreen);
  cv::putText(canvas, text, cv::Point(left + line / 2, top + line + size.height), kFont, scale,
              kBlack, stroke, cv::LINE_AA);
}

}  // namespace

image::RgbImage Annotate(const image::RgbImage& image, absl::Span<const AnnotatedBox> boxes) {
  image::RgbImage out = image;
  if (out.width < 1 || out.height < 1) return out;
  try {
    cv::Mat canvas(out.height, out.width, CV_8UC3, out.rgb.data());
    const int line = std::max(2, std::max(out.width, out.height) / 300);
    for (const AnnotatedBox& item : boxes) {
      // Far-away corners would overflow the drawing's arithmetic; what they cut off is not visible.
      const image::Box box = {std::clamp(item.box.x1, -line, out.width + line),
                              std::clamp(item.box.y1, -line, out.height + line),
                              std::clamp(item.box.x2, -line, out.width + line),
                              std::clamp(item.box.y2, -line, out.height + line)};
      Outline(canvas, box, line);
      const bool drawable = !item.label.empty() &&
                            std::all_of(item.label.begin(), item.label.end(),
                                        [](unsigned char c) { return absl::ascii_isprint(c); });
      if (drawable) Label(canvas, box, item.label.substr(0, kMaxLabelLetters), line);
    }
  } catch (const cv::Exception&) {
    // Drawing is a courtesy: what stands so far is returned.
  }
  return out;
}

}  // namespace chord::plot
