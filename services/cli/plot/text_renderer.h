// Text in a font of the system, in any script that an installed font covers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace chord::plot {

// Coverage of each pixel, 0 – 255, row major.
struct TextBitmap {
  int width = 0;
  int height = 0;
  int baseline = 0;  // rows from the top
  std::vector<uint8_t> coverage;
};

// Finds fonts through fontconfig and renders with FreeType. Not thread-safe.
class TextRenderer {
 public:
  TextRenderer();
  ~TextRenderer();

  // One line. Characters that no installed font covers are left out; empty when none is left, when
  // there is no font at all, or when the text would be wider than `max_width` pixels in its first
  // character. Longer text is cut. `pixel_height` 4 – 512.
  TextBitmap Render(absl::string_view utf8, int pixel_height, int max_width);

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace chord::plot
