// Runs chord::image on files for comparisons with other stacks. One command per line on stdin, one
// answer per line on stdout ("ok WIDTH HEIGHT" or "error REASON"); results go to files, raw.
//
//   decode IN OUT exif|stored white|drop                     RGB bytes
//   resize IN OUT torch|pillow WIDTH HEIGHT                  RGB bytes
//   plan - - - WIDTH HEIGHT MIN MAX PATCH MERGE              answers the resized size
//   pixels IN OUT torch|pillow MIN MAX PATCH MERGE TEMPORAL  float32 patches; answers the grid
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/image/preprocess.h"

namespace chord::image {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename T>
void WriteFile(const std::string& path, const std::vector<T>& values) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(T)));
}

absl::StatusOr<Size> Run(const std::string& line) {
  std::istringstream words(line);
  std::string command, in, out, first;
  words >> command >> in >> out >> first;
  if (command == "plan") {
    Size size;
    PatchGeometry geometry;
    words >> size.width >> size.height >> geometry.min_pixels >> geometry.max_pixels >>
        geometry.patch_size >> geometry.merge_size;
    return SmartResize(size, geometry);
  }
  const std::string bytes = ReadFile(in);
  DecodeOptions options{.limits = Limits::ForTools()};
  if (command == "decode") {
    std::string alpha;
    words >> alpha;
    options.apply_exif = first == "exif";
    options.alpha_on_white = alpha == "white";
    CHORD_ASSIGN_OR_RETURN(const RgbImage image, Decode(bytes, options));
    WriteFile(out, image.rgb);
    return Size{image.width, image.height};
  }
  const ResizeMode mode = first == "pillow" ? ResizeMode::kPillow : ResizeMode::kTorch;
  if (command == "resize") {
    Size size;
    words >> size.width >> size.height;
    CHORD_ASSIGN_OR_RETURN(const RgbImage image, Decode(bytes, options));
    WriteFile(out, Resize(image, size, mode).rgb);
    return size;
  }
  if (command == "pixels") {
    PatchGeometry geometry;
    words >> geometry.min_pixels >> geometry.max_pixels >> geometry.patch_size >>
        geometry.merge_size >> geometry.temporal_patch_size;
    CHORD_ASSIGN_OR_RETURN(const Header header, Probe(bytes, options.limits));
    CHORD_ASSIGN_OR_RETURN(const FramePlan plan, PlanFrame(header, geometry));
    CHORD_ASSIGN_OR_RETURN(const RgbImage image, Decode(bytes, options));
    std::vector<float> patches(size_t{3} * geometry.temporal_patch_size * plan.resized.width *
                               plan.resized.height);
    CHORD_RETURN_IF_ERROR(
        Patchify(Resize(image, plan.resized, mode), geometry, {}, mode, absl::MakeSpan(patches)));
    WriteFile(out, patches);
    return Size{plan.grid.w, plan.grid.h};
  }
  return absl::InvalidArgumentError("unknown command");
}

}  // namespace
}  // namespace chord::image

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto size = chord::image::Run(line);
    if (size.ok()) {
      std::cout << "ok " << size->width << " " << size->height << std::endl;
    } else {
      std::cout << "error " << chord::ErrorReason(size.status()) << std::endl;
    }
  }
}
