#include "common/engine/tower_plan.h"

#include <algorithm>

#include "common/engine/window_layout.h"

namespace chord::engine {
namespace {

std::vector<cuda::TowerSegment> Narrow(absl::Span<const Segment> segments) {
  std::vector<cuda::TowerSegment> out;
  out.reserve(segments.size());
  for (const Segment& segment : segments) {
    out.push_back({static_cast<int32_t>(segment.begin), static_cast<int32_t>(segment.length)});
  }
  return out;
}

}  // namespace

TowerPlanArrays PlanTower(absl::Span<const image::Grid> grids, const model::VisionConfig& config) {
  const int merge = config.spatial_merge_size, cell_patches = merge * merge;
  const int patch = config.patch_size;
  const WindowLayout layout = PlanWindows(grids, merge, config.window_size / patch / merge);
  TowerPlanArrays plan;
  plan.windows = Narrow(layout.windows);
  plan.images = Narrow(layout.images);
  plan.target = layout.index;

  // Cells in the order of the input first: image by image, row by row.
  struct Cell {
    int32_t top, left;      // in patches
    int32_t pixel, stride;  // of its first patch
  };
  std::vector<Cell> cells;
  cells.reserve(layout.index.size());
  int32_t base = 0;
  for (const image::Grid& grid : grids) {
    plan.side = std::max({plan.side, grid.h, grid.w});
    const int32_t stride = 3 * patch * grid.w;
    for (int top = 0; top < grid.h; top += merge) {
      for (int left = 0; left < grid.w; left += merge) {
        cells.push_back({top, left, base + top * patch * stride + left * patch * 3, stride});
      }
    }
    base += stride * patch * grid.h;
  }
  for (const int32_t index : layout.index) {
    const Cell& cell = cells[index];
    for (int i = 0; i < cell_patches; ++i) {
      const int y = i / merge, x = i % merge;
      plan.source.push_back(index * cell_patches + i);
      plan.pixel.push_back(cell.pixel + y * patch * cell.stride + x * patch * 3);
      plan.stride.push_back(cell.stride);
      plan.positions.push_back(static_cast<int16_t>(cell.top + y));
      plan.positions.push_back(static_cast<int16_t>(cell.left + x));
    }
  }
  return plan;
}

}  // namespace chord::engine
