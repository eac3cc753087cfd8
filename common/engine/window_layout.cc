#include "common/engine/window_layout.h"

#include <algorithm>

namespace chord::engine {

WindowLayout PlanWindows(absl::Span<const image::Grid> grids, int merge_size, int window_cells) {
  const int64_t patches_per_cell = int64_t{merge_size} * merge_size;
  WindowLayout layout;
  int64_t offset = 0;  // merged cells of the images before
  for (const image::Grid& grid : grids) {
    const int rows = grid.h / merge_size;
    const int cols = grid.w / merge_size;
    for (int top = 0; top < rows; top += window_cells) {
      for (int left = 0; left < cols; left += window_cells) {
        const int bottom = std::min(top + window_cells, rows);
        const int right = std::min(left + window_cells, cols);
        layout.windows.push_back({static_cast<int64_t>(layout.index.size()) * patches_per_cell,
                                  int64_t{bottom - top} * (right - left) * patches_per_cell});
        for (int y = top; y < bottom; ++y) {
          for (int x = left; x < right; ++x) {
            layout.index.push_back(static_cast<int32_t>(offset + int64_t{y} * cols + x));
          }
        }
      }
    }
    layout.images.push_back({offset * patches_per_cell, grid.patches()});
    offset += int64_t{rows} * cols;
  }
  layout.patches_per_cell = patches_per_cell;
  return layout;
}

void GroupBySize(WindowLayout* layout) {
  std::vector<Segment>& windows = layout->windows;
  const int64_t cell = layout->patches_per_cell;
  const std::vector<int32_t> before = layout->index;
  auto first = windows.begin();
  for (const Segment& image : layout->images) {
    const int64_t end = image.begin + image.length;
    const auto last = std::find_if(first, windows.end(),
                                   [end](const Segment& window) { return window.begin >= end; });
    std::stable_sort(first, last,
                     [](const Segment& a, const Segment& b) { return a.length > b.length; });
    int64_t begin = image.begin;
    for (; first != last; ++first) {
      std::copy_n(before.begin() + first->begin / cell, first->length / cell,
                  layout->index.begin() + begin / cell);
      first->begin = begin;
      begin += first->length;
    }
  }
}

}  // namespace chord::engine
