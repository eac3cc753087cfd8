#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs size_t and FILE from above.
#include <jpeglib.h>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "common/image/image.h"

namespace chord::image {
namespace {

constexpr int kQuality = 92;

// libjpeg leaves by longjmp, which skips destructors: everything it touches lives in here.
struct Session {
  jpeg_error_mgr errors{};
  jpeg_compress_struct info{};
  std::jmp_buf jump;
  unsigned char* buffer = nullptr;
  unsigned long size = 0;

  Session() = default;
  Session(const Session&) = delete;
  ~Session() {
    jpeg_destroy_compress(&info);
    std::free(buffer);
  }
};

[[noreturn]] void OnError(j_common_ptr info) {
  std::longjmp(static_cast<Session*>(info->client_data)->jump, 1);
}
void OnMessage(j_common_ptr) {}

bool Write(Session& s, const RgbImage& image) {
  s.info.err = jpeg_std_error(&s.errors);
  s.errors.error_exit = OnError;
  s.errors.output_message = OnMessage;
  s.info.client_data = &s;
  if (setjmp(s.jump) != 0) return false;
  jpeg_create_compress(&s.info);
  s.info.client_data = &s;  // jpeg_create_compress keeps it, by its documentation
  jpeg_mem_dest(&s.info, &s.buffer, &s.size);
  s.info.image_width = static_cast<JDIMENSION>(image.width);
  s.info.image_height = static_cast<JDIMENSION>(image.height);
  s.info.input_components = 3;
  s.info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&s.info);
  jpeg_set_quality(&s.info, kQuality, TRUE);
  jpeg_start_compress(&s.info, TRUE);
  const size_t stride = size_t{3} * image.width;
  while (s.info.next_scanline < s.info.image_height) {
    auto* row = const_cast<JSAMPLE*>(image.rgb.data() + s.info.next_scanline * stride);
    jpeg_write_scanlines(&s.info, &row, 1);
  }
  jpeg_finish_compress(&s.info);
  return true;
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> EncodeJpeg(const RgbImage& image) {
  if (image.width < 1 || image.height < 1 || image.width > JPEG_MAX_DIMENSION ||
      image.height > JPEG_MAX_DIMENSION ||
      image.rgb.size() != size_t{3} * image.width * image.height) {
    return absl::InvalidArgumentError("the image has no size that JPEG can hold");
  }
  Session session;
  if (!Write(session, image)) return absl::InternalError("the image cannot be encoded as JPEG");
  return std::vector<uint8_t>(session.buffer, session.buffer + session.size);
}

}  // namespace chord::image
