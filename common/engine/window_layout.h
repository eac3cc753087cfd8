// Which patches of the ViT attend to which (spec §3.3). Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/engine/backend.h"
#include "common/image/frame_plan.h"

namespace chord::engine {

struct WindowLayout {
  // Merged cells in window order: cell k of the tower is raster cell index[k] of the batch.
  std::vector<int32_t> index;
  std::vector<Segment> windows;  // in patches, in window order, none empty
  std::vector<Segment> images;   // in patches: full attention, one per image
  int64_t patches_per_cell = 4;
};

// Grid sides must be multiples of `merge_size`; `window_cells` >= 1 merged cells a side
// (window_size / patch_size / merge_size).
WindowLayout PlanWindows(absl::Span<const image::Grid> grids, int merge_size, int window_cells);

// Reorders the windows of each image by falling size, so that equal ones are neighbours and can go
// through attention as one batch. Results do not depend on the order; index follows it.
void GroupBySize(WindowLayout* layout);

}  // namespace chord::engine
