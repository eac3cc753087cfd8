#include <png.h>

#include <csetjmp>

#include "absl/status/status.h"
#include "common/image/image.h"

namespace chord::image {
namespace {

// As in png.cc: nothing between setjmp and the library owns memory.
struct Session {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::vector<uint8_t> out;
  bool out_of_memory = false;

  Session() = default;
  Session(const Session&) = delete;
  ~Session() { png_destroy_write_struct(&png, &info); }
};

[[noreturn]] void OnError(png_structp png, png_const_charp) { png_longjmp(png, 1); }
void OnWarning(png_structp, png_const_charp) {}

bool Append(std::vector<uint8_t>& out, const uint8_t* data, size_t count) {
  try {
    out.insert(out.end(), data, data + count);
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void WriteBytes(png_structp png, png_bytep data, size_t count) {
  auto& s = *static_cast<Session*>(png_get_io_ptr(png));
  if (Append(s.out, data, count)) return;
  s.out_of_memory = true;
  png_error(png, "memory");
}

bool Write(Session& s, const RgbImage& image) {
  s.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, OnError, OnWarning);
  if (s.png == nullptr) return false;
  if (setjmp(png_jmpbuf(s.png)) != 0) return false;
  s.info = png_create_info_struct(s.png);
  if (s.info == nullptr) return false;
  png_set_write_fn(s.png, &s, WriteBytes, nullptr);
  png_set_IHDR(s.png, s.info, image.width, image.height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  // Up and Paeth cost most of the filter search and little is lost without it on photographs;
  // level 3 is where zlib stops being fast.
  png_set_filter(s.png, PNG_FILTER_TYPE_BASE, PNG_FILTER_SUB);
  png_set_compression_level(s.png, 3);
  png_write_info(s.png, s.info);
  const size_t stride = size_t{3} * image.width;
  for (int y = 0; y < image.height; ++y) {
    png_write_row(s.png, image.rgb.data() + y * stride);
  }
  png_write_end(s.png, s.info);
  return true;
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> EncodePng(const RgbImage& image) {
  if (image.width <= 0 || image.height <= 0 ||
      image.rgb.size() != size_t{3} * image.width * image.height) {
    return absl::InternalError("EncodePng: the image's sides and bytes disagree");
  }
  Session s;
  if (!Write(s, image)) {
    return s.out_of_memory ? absl::ResourceExhaustedError("EncodePng: no memory")
                           : absl::InternalError("EncodePng: libpng failed");
  }
  return std::move(s.out);
}

}  // namespace chord::image
