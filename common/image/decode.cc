#include <new>

#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/image/codec.h"
#include "common/image/image.h"
#include "common/image/upright.h"

namespace chord::image {
namespace {

absl::StatusOr<RgbImage> DecodeStored(absl::string_view bytes, const Header& header,
                                      const DecodeOptions& options, const CancelToken& cancel) {
  switch (header.format) {
    case Format::kJpeg:
      return internal::DecodeJpeg(bytes, header, cancel);
    case Format::kPng:
      return internal::DecodePng(bytes, header, options.alpha_on_white, cancel);
    case Format::kWebp:
      return internal::DecodeWebp(bytes, header, options.alpha_on_white, cancel);
  }
  return errors::ImageFormatUnknown();
}

}  // namespace

absl::StatusOr<RgbImage> Decode(absl::string_view bytes, const DecodeOptions& options,
                                const CancelToken& cancel) {
  CHORD_RETURN_IF_ERROR(cancel.Check());
  CHORD_ASSIGN_OR_RETURN(const Header header, Probe(bytes, options.limits));
  try {
    CHORD_ASSIGN_OR_RETURN(RgbImage image, DecodeStored(bytes, header, options, cancel));
    if (options.apply_exif) image = Upright(std::move(image), header.orientation);
    return image;
  } catch (const std::bad_alloc&) {
    return errors::Overloaded(absl::Seconds(1));
  }
}

}  // namespace chord::image
