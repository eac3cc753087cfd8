#include "services/cli/plot/annotate.h"

#include <algorithm>
#include <opencv2/imgproc.hpp>

#include "services/cli/plot/text_renderer.h"

namespace chord::plot {
namespace {

const cv::Vec3b kGreen(0, 255, 0);
const cv::Vec3b kOrange(255, 160, 0);
const cv::Vec3b kGray(230, 230, 230);
constexpr size_t kMaxLabelBytes = 256;

void Fill(cv::Mat& canvas, int x1, int y1, int x2, int y2, const cv::Vec3b& colour) {
  const cv::Rect area = cv::Rect(x1, y1, x2 - x1, y2 - y1) & cv::Rect({}, canvas.size());
  if (!area.empty()) canvas(area).setTo(colour);
}

void Outline(cv::Mat& canvas, const image::Box& box, int line, const cv::Vec3b& colour) {
  const int out = line / 2;
  const int in = line - out;
  Fill(canvas, box.x1 - out, box.y1 - out, box.x2 + out, box.y1 + in, colour);
  Fill(canvas, box.x1 - out, box.y2 - in, box.x2 + out, box.y2 + out, colour);
  Fill(canvas, box.x1 - out, box.y1 - out, box.x1 + in, box.y2 + out, colour);
  Fill(canvas, box.x2 - in, box.y1 - out, box.x2 + out, box.y2 + out, colour);
}

// Darkens the canvas where the text covers it.
void Draw(cv::Mat& canvas, const TextBitmap& text, int left, int top) {
  for (int row = 0; row < text.height; ++row) {
    const int y = top + row;
    if (y < 0 || y >= canvas.rows) continue;
    for (int column = 0; column < text.width; ++column) {
      const int x = left + column;
      if (x < 0 || x >= canvas.cols) continue;
      const int keep = 255 - text.coverage[static_cast<size_t>(row) * text.width + column];
      cv::Vec3b& pixel = canvas.at<cv::Vec3b>(y, x);
      for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(pixel[c] * keep / 255);
    }
  }
}

int TextHeight(int line) { return std::max(12, line * 6); }

// Black on a bar on top of the box, inside it where there is no room above.
void Label(cv::Mat& canvas, const image::Box& box, const TextBitmap& text, int line,
           const cv::Vec3b& colour) {
  const int height = text.height + line;
  const int top = box.y1 - height >= 0 ? box.y1 - height : box.y1;
  const int left = std::clamp(box.x1, 0, std::max(0, canvas.cols - text.width - line));
  Fill(canvas, left, top, left + text.width + 2 * line, top + height, colour);
  Draw(canvas, text, left + line, top + line / 2);
}

void Note(cv::Mat& canvas, const TextBitmap& text, int line) {
  const int top = canvas.rows - text.height - 2 * line;
  Fill(canvas, 0, top, canvas.cols, canvas.rows, kGray);
  Draw(canvas, text, 2 * line, top + line);
}

// Far-away corners would overflow the arithmetic; what they cut off is not visible.
image::Box Clamped(const image::Box& box, int margin, int width, int height) {
  return {std::clamp(box.x1, -margin, width + margin), std::clamp(box.y1, -margin, height + margin),
          std::clamp(box.x2, -margin, width + margin),
          std::clamp(box.y2, -margin, height + margin)};
}

void DrawAll(cv::Mat& canvas, absl::Span<const AnnotatedBox> boxes, const std::string& note) {
  const int line = std::max(2, std::max(canvas.cols, canvas.rows) / 300);
  TextRenderer renderer;
  for (const AnnotatedBox& item : boxes) {
    const image::Box box = Clamped(item.box, line, canvas.cols, canvas.rows);
    const cv::Vec3b& colour = item.needs_review ? kOrange : kGreen;
    Outline(canvas, box, line, colour);
    const TextBitmap label =
        renderer.Render(item.label.substr(0, kMaxLabelBytes), TextHeight(line), canvas.cols);
    if (label.width > 0) Label(canvas, box, label, line, colour);
  }
  const TextBitmap text = renderer.Render(note, TextHeight(line), canvas.cols);
  if (text.width > 0) Note(canvas, text, line);
}

}  // namespace

image::RgbImage Annotate(const image::RgbImage& image, absl::Span<const AnnotatedBox> boxes,
                         const std::string& note) {
  image::RgbImage out = image;
  if (out.width < 1 || out.height < 1) return out;
  try {
    cv::Mat canvas(out.height, out.width, CV_8UC3, out.rgb.data());
    DrawAll(canvas, boxes, note);
  } catch (const cv::Exception&) {
    // The drawing is an aid: what is drawn so far is returned.
  }
  return out;
}

}  // namespace chord::plot
