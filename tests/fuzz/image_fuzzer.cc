// From hostile bytes to patches: sniff, probe, EXIF, every codec, the frame. What is accepted must
// keep its promises; what is refused must be refused by the catalogue.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/errors.h"
#include "common/image/exif.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/image/preprocess.h"

namespace {

void Require(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chord::image;  // NOLINT
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const int orientation = ExifOrientation(bytes);
  Require(orientation >= 1 && orientation <= 8);

  DecodeOptions options{.limits = {.max_pixels = 300'000}};
  options.alpha_on_white = size % 2 == 0;
  const auto header = Probe(bytes, options.limits);
  if (!header.ok()) Require(chord::IsCatalogued(header.status()));
  const auto image = Decode(bytes, options);
  if (!image.ok()) {
    Require(chord::IsCatalogued(image.status()));
    return 0;
  }
  Require(header.ok() && image->width == header->upright_width() &&
          image->height == header->upright_height() &&
          image->rgb.size() == size_t{3} * image->width * image->height);

  const PatchGeometry geometry{.max_pixels = 28 * 28 * 64};
  const auto plan = PlanFrame(*header, geometry);
  Require(plan.ok() && VerifyFrame(*plan, geometry).ok());
  std::vector<float> patches(static_cast<size_t>(plan->grid.patches()) * 1176);
  const ResizeMode mode = size % 3 == 0 ? ResizeMode::kPillow : ResizeMode::kTorch;
  Require(Patchify(Resize(*image, plan->resized, mode), geometry, {}, mode, absl::MakeSpan(patches))
              .ok());
  return 0;
}
