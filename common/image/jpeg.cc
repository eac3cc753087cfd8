// JPEG by libjpeg-turbo with its defaults (accurate integer DCT, fancy upsampling), which is what
// Pillow uses: RGB and gray come out bit for bit the same.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
// jpeglib.h needs size_t and FILE from above.
#include <jpeglib.h>
// jerror.h needs jpeglib.h.
#include <jerror.h>

#include "absl/strings/match.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/image/codec.h"
#include "common/image/exif.h"

namespace chord::image::internal {
namespace {

absl::Status Corrupt() { return errors::ImageCorrupt("JPEG"); }
absl::Status TooManyScans() { return errors::ImageCodingUnsupported("JPEG with too many scans"); }

enum Marker : uint8_t {
  kTem = 0x01,
  kSof0 = 0xc0,
  kDht = 0xc4,
  kJpg = 0xc8,
  kDac = 0xcc,
  kSof15 = 0xcf,
  kRst0 = 0xd0,
  kSoi = 0xd8,
  kEoi = 0xd9,
  kSos = 0xda,
  kApp0 = 0xe0,
  kApp1 = 0xe1,
  kApp15 = 0xef,
  kJpegLs = 0xf7,
  kCom = 0xfe,
};

bool IsFrame(uint8_t m) {
  return (m >= kSof0 && m <= kSof15 && m != kDht && m != kJpg && m != kDac) || m == kJpegLs;
}

// Baseline, extended and progressive Huffman frames of 8 bits, with channels we know the meaning
// of. Everything else is decided here, not by what the library at hand was built with.
absl::Status CheckCoding(uint8_t marker, int bits, int channels) {
  switch (marker - kSof0) {
    case 0:
    case 1:
    case 2:
      break;
    case 9:
    case 10:
      return errors::ImageCodingUnsupported("JPEG with arithmetic coding");
    case 3:
    case 11:
    case kJpegLs - kSof0:
      return errors::ImageCodingUnsupported("lossless JPEG");
    default:
      return errors::ImageCodingUnsupported("hierarchical JPEG");
  }
  if (bits != 8) return errors::ImageCodingUnsupported("JPEG of more than 8 bits a channel");
  if (channels != 1 && channels != 3 && channels != 4) {
    return errors::ImageCodingUnsupported("JPEG with an unknown number of channels");
  }
  return absl::OkStatus();
}

// libjpeg leaves by longjmp, which skips destructors: the functions between setjmp and the library
// own nothing, and everything they touch lives in here.
struct Session {
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  jpeg_decompress_struct info{};
  std::jmp_buf jump;
  const CancelToken* cancel = nullptr;
  bool cancelled = false;
  bool too_many_scans = false;

  Session() = default;
  Session(const Session&) = delete;
  ~Session() { jpeg_destroy_decompress(&info); }
};

Session& SessionOf(j_common_ptr info) { return *static_cast<Session*>(info->client_data); }

[[noreturn]] void OnError(j_common_ptr info) { std::longjmp(SessionOf(info).jump, 1); }

// Warnings (level −1) say that the file is cut or damaged and that the rest is made up, but for a
// few that real cameras and editors earn with sound images.
void OnMessage(j_common_ptr info, int level) {
  if (level >= 0) return;
  switch (info->err->msg_code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_BOGUS_ICC:
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_NOT_SEQUENTIAL:
      return;
    default:
      OnError(info);
  }
}
void OnOutput(j_common_ptr) {}

void OnProgress(j_common_ptr info) {
  Session& s = SessionOf(info);
  s.too_many_scans = s.info.input_scan_number > limits::kMaxJpegScans;
  s.cancelled = s.cancel->cancelled();
  if (s.too_many_scans || s.cancelled) OnError(info);
}

bool ReadHeader(Session& s, absl::string_view bytes) {
  s.info.err = jpeg_std_error(&s.errors);
  s.info.client_data = &s;
  s.errors.error_exit = OnError;
  s.errors.emit_message = OnMessage;
  s.errors.output_message = OnOutput;
  if (setjmp(s.jump) != 0) return false;
  jpeg_create_decompress(&s.info);
  s.info.client_data = &s;
  s.progress.progress_monitor = OnProgress;
  s.info.progress = &s.progress;
  jpeg_mem_src(&s.info, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&s.info, TRUE);
  return true;
}

bool Start(Session& s) {
  if (setjmp(s.jump) != 0) return false;
  jpeg_start_decompress(&s.info);
  return true;
}

// Inks, stored inverted as Adobe's programs do whether or not they leave their marker (Pillow,
// OpenCV and browsers read all four-channel files so): 255 is no ink. Pillow's conversion.
void CmykRow(const uint8_t* cmyk, int width, uint8_t* rgb) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const uint32_t light = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      const uint32_t t = (255 - cmyk[c]) * light + 128;
      rgb[c] = static_cast<uint8_t>(light - (((t >> 8) + t) >> 8));
    }
  }
}

// Rows [s.info.output_scanline, end). `inks` is null when the library delivers RGB itself.
bool ReadRows(Session& s, int end, uint8_t* rgb, uint8_t* inks) {
  if (setjmp(s.jump) != 0) return false;
  const size_t stride = size_t{3} * s.info.output_width;
  while (static_cast<int>(s.info.output_scanline) < end) {
    uint8_t* to = rgb + s.info.output_scanline * stride;
    uint8_t* row = inks != nullptr ? inks : to;
    if (jpeg_read_scanlines(&s.info, &row, 1) != 1) return false;
    if (inks != nullptr) CmykRow(inks, static_cast<int>(s.info.output_width), to);
  }
  return true;
}

// Reads on to the end marker, so that a file cut behind its last row is noticed too.
bool Finish(Session& s) {
  if (setjmp(s.jump) != 0) return false;
  return jpeg_finish_decompress(&s.info) == TRUE;
}

absl::Status Failure(const Session& s) {
  if (s.cancelled) return s.cancel->Check();
  if (s.too_many_scans) return TooManyScans();
  return Corrupt();
}

}  // namespace

absl::StatusOr<Header> ProbeJpeg(absl::string_view bytes, const Limits& limits) {
  Header header{.format = Format::kJpeg};
  int64_t metadata = 0;
  bool has_frame = false;
  bool has_exif = false;
  size_t at = 2;
  while (true) {
    // As libjpeg: junk before a marker is skipped, and 0xff may be repeated as filling.
    at = bytes.find('\xff', at);
    if (at != absl::string_view::npos) at = bytes.find_first_not_of('\xff', at);
    if (at == absl::string_view::npos) return Corrupt();
    const auto marker = static_cast<uint8_t>(bytes[at++]);
    if (marker == 0 || marker == kTem || (marker >= kRst0 && marker < kSoi)) continue;
    if (marker == kSoi || marker == kEoi) return Corrupt();
    if (bytes.size() - at < 2) return Corrupt();
    const size_t length = Be16(&bytes[at]);
    if (length < 2 || length > bytes.size() - at) return Corrupt();
    const absl::string_view body = bytes.substr(at + 2, length - 2);
    at += length;

    if (marker == kSos) {
      if (!has_frame) return Corrupt();
      return header;
    }
    if (IsFrame(marker)) {
      if (has_frame || body.size() < 6) return Corrupt();
      has_frame = true;
      header.height = static_cast<int>(Be16(&body[1]));
      header.width = static_cast<int>(Be16(&body[3]));
      CHORD_RETURN_IF_ERROR(CheckSize(header.width, header.height, limits));
      CHORD_RETURN_IF_ERROR(
          CheckCoding(marker, static_cast<uint8_t>(body[0]), static_cast<uint8_t>(body[5])));
    } else if ((marker >= kApp0 && marker <= kApp15) || marker == kCom) {
      metadata += static_cast<int64_t>(body.size());
      CHORD_RETURN_IF_ERROR(CheckMetadata(metadata, limits));
      constexpr absl::string_view kExif("Exif\0\0", 6);
      if (marker == kApp1 && !has_exif && absl::StartsWith(body, kExif) && body != kExif) {
        has_exif = true;
        header.orientation = ExifOrientation(body);
      }
    }
  }
}

absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes, const Header& header,
                                    const CancelToken& cancel) {
  Session s;
  s.cancel = &cancel;
  if (!ReadHeader(s, bytes)) return Failure(s);
  if (static_cast<int64_t>(s.info.image_width) != header.width ||
      static_cast<int64_t>(s.info.image_height) != header.height) {
    return Corrupt();
  }
  const bool inks = s.info.num_components == 4;
  s.info.out_color_space = inks ? JCS_CMYK : JCS_RGB;
  // Coefficients of a progressive image (2 B each) plus the library's own buffers.
  s.info.mem->max_memory_to_use = static_cast<long>(int64_t{2} * s.info.num_components *
                                                        (header.width + 64) * (header.height + 64) +
                                                    (int64_t{64} << 20));
  if (!Start(s)) return Failure(s);

  RgbImage image{header.width, header.height, {}};
  image.rgb.resize(size_t{3} * header.width * header.height);
  std::vector<uint8_t> row(inks ? size_t{4} * header.width : 0);
  for (int y = 0; y < header.height; y += kRowsPerCancelCheck) {
    const int end = std::min(y + kRowsPerCancelCheck, header.height);
    if (!ReadRows(s, end, image.rgb.data(), inks ? row.data() : nullptr)) return Failure(s);
  }
  if (!Finish(s)) return Failure(s);
  return image;
}

}  // namespace chord::image::internal
