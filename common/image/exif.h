// The one EXIF field Chord reads.
#pragma once

#include "absl/strings/string_view.h"

namespace chord::image {

// Orientation 1..8 of a TIFF block (with or without the "Exif\0\0" prefix), from its first
// directory. 1 when it is missing, out of range, of a strange type, or when anything is malformed.
// Bounds-checked; never fails.
int ExifOrientation(absl::string_view tiff);

}  // namespace chord::image
