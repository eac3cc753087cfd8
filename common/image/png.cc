// PNG by libpng, which delivers the rows as stored (unfiltered, packed, each Adam7 pass by itself);
// depth, palette, transparency and interlacing are resolved here, row by row, straight into the
// image. So even an interlaced 16-bit RGBA file takes 3 bytes a pixel and two rows.
//
// Rules: gray of 1, 2, 4 bits is scaled to 0..255; 16 bits become floor(v / 257), colour and alpha
// alike, before alpha is composed; colour keys are compared at full depth; gAMA, sRGB, iCCP and
// cHRM are ignored, as Pillow does.
#include <png.h>
#include <zlib.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <limits>

#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/image/codec.h"
#include "common/image/exif.h"

namespace chord::image::internal {
namespace {

constexpr size_t kSignatureBytes = 8;
constexpr size_t kChunkOverhead = 12;  // length, type, CRC
constexpr size_t kHeaderBytes = 13;
// What may follow the data of the last row. libpng inflates all of it only to throw it away, and a
// MiB of that becomes a GiB.
constexpr int64_t kMaxTailBytes = 64 << 10;

absl::Status Corrupt() { return errors::ImageCorrupt("PNG"); }

// libpng leaves by longjmp, which skips destructors: the functions between setjmp and the library
// own nothing, and everything they touch lives in here.
struct Session {
  png_structp png = nullptr;
  png_infop info = nullptr;
  absl::string_view bytes;
  size_t at = 0;
  int64_t left = std::numeric_limits<int64_t>::max();  // bytes that may still be read
  const CancelToken& cancel;

  explicit Session(const CancelToken& token) : cancel(token) {}
  Session(const Session&) = delete;
  ~Session() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void OnError(png_structp png, png_const_charp) { png_longjmp(png, 1); }
void OnWarning(png_structp, png_const_charp) {}

void ReadBytes(png_structp png, png_bytep to, size_t count) {
  auto& s = *static_cast<Session*>(png_get_io_ptr(png));
  if (count > s.bytes.size() - s.at) png_error(png, "cut");
  s.left -= static_cast<int64_t>(count);
  if (s.left < 0) png_error(png, "too much");
  // Few bytes can become many rows, or none at all.
  if (s.cancel.cancelled()) png_error(png, "cancelled");
  std::memcpy(to, s.bytes.data() + s.at, count);
  s.at += count;
}

bool ReadHeader(Session& s) {
  s.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, OnError, OnWarning);
  if (s.png == nullptr) return false;
  if (setjmp(png_jmpbuf(s.png)) != 0) return false;
  s.info = png_create_info_struct(s.png);
  if (s.info == nullptr) return false;
  png_set_user_limits(s.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // the probe looked at the size
  png_set_chunk_malloc_max(s.png, limits::kDefaultImageMetadataBytes);
  png_set_crc_action(s.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  // Of all chunks only IHDR, PLTE, tRNS, IDAT and IEND are parsed; nothing else is ever inflated.
  png_set_keep_unknown_chunks(s.png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_read_fn(s.png, &s, ReadBytes);
  png_read_info(s.png, s.info);
  return true;
}

bool StartRows(Session& s) {
  if (setjmp(png_jmpbuf(s.png)) != 0) return false;
  png_start_read_image(s.png);
  return true;
}

bool ReadRow(Session& s, png_bytep row) {
  if (setjmp(png_jmpbuf(s.png)) != 0) return false;
  png_read_row(s.png, row, nullptr);
  return true;
}

bool Finish(Session& s) {
  if (setjmp(png_jmpbuf(s.png)) != 0) return false;
  png_read_end(s.png, nullptr);
  return true;
}

uint32_t From16(const uint8_t* p) { return (uint32_t{p[0]} << 8 | p[1]) / 257; }

// One row of stored samples to RGB.
class RowConverter {
 public:
  RowConverter(png_structp png, png_infop info, bool alpha_on_white)
      : type_(png_get_color_type(png, info)),
        depth_(png_get_bit_depth(png, info)),
        on_white_(alpha_on_white) {
    png_bytep alphas = nullptr;
    int alpha_count = 0;
    png_color_16p key = nullptr;
    const bool transparent = png_get_tRNS(png, info, &alphas, &alpha_count, &key) != 0 && on_white_;
    if (type_ == PNG_COLOR_TYPE_PALETTE) {
      png_colorp palette = nullptr;
      int count = 0;
      png_get_PLTE(png, info, &palette, &count);
      for (int i = 0; i < count; ++i) {
        const uint32_t a = transparent && alphas != nullptr && i < alpha_count ? alphas[i] : 255;
        table_[i][0] = OnWhite(palette[i].red, a);
        table_[i][1] = OnWhite(palette[i].green, a);
        table_[i][2] = OnWhite(palette[i].blue, a);
      }
      return;
    }
    has_key_ = transparent && key != nullptr;
    if (type_ == PNG_COLOR_TYPE_GRAY && depth_ <= 8) {
      const int top = (1 << depth_) - 1;
      for (int v = 0; v <= top; ++v) std::memset(table_[v], v * (255 / top), 3);
      if (has_key_) std::memset(table_[key->gray & top], 255, 3);
    } else if (has_key_) {
      const uint32_t channels[3] = {key->red, key->green, key->blue};
      for (int c = 0; c < 3; ++c) {
        const uint32_t v = type_ == PNG_COLOR_TYPE_GRAY ? key->gray : channels[c];
        if (depth_ == 16) key_[2 * c] = static_cast<uint8_t>(v >> 8);
        key_[depth_ == 16 ? 2 * c + 1 : c] = static_cast<uint8_t>(v);
      }
    }
  }

  void Convert(const uint8_t* in, int width, uint8_t* rgb) const {
    const bool wide = depth_ == 16;
    switch (type_) {
      case PNG_COLOR_TYPE_GRAY:
        return wide ? Samples<true, 1, false>(in, width, rgb) : Table(in, width, rgb);
      case PNG_COLOR_TYPE_PALETTE:
        return Table(in, width, rgb);
      case PNG_COLOR_TYPE_GRAY_ALPHA:
        return wide ? Samples<true, 1, true>(in, width, rgb)
                    : Samples<false, 1, true>(in, width, rgb);
      case PNG_COLOR_TYPE_RGB:
        return wide ? Samples<true, 3, false>(in, width, rgb)
                    : Samples<false, 3, false>(in, width, rgb);
      default:
        return wide ? Samples<true, 3, true>(in, width, rgb)
                    : Samples<false, 3, true>(in, width, rgb);
    }
  }

 private:
  // Palette indices and gray of at most 8 bits, most significant bits first. An index beyond the
  // palette is opaque black, as Pillow and browsers have it.
  void Table(const uint8_t* in, int width, uint8_t* rgb) const {
    const uint32_t mask = (1u << depth_) - 1;
    uint32_t bits = 0;
    int left = 0;
    for (int x = 0; x < width; ++x, rgb += 3) {
      if (left == 0) {
        bits = *in++;
        left = 8;
      }
      left -= depth_;
      std::memcpy(rgb, table_[bits >> left & mask], 3);
    }
  }

  template <bool kWide, int kColours, bool kAlpha>
  void Samples(const uint8_t* in, int width, uint8_t* rgb) const {
    constexpr int kBytes = kWide ? 2 : 1;
    constexpr int kStep = kBytes * (kColours + (kAlpha ? 1 : 0));
    const auto at = [&](int i) { return kWide ? From16(in + 2 * i) : in[i]; };
    for (int x = 0; x < width; ++x, in += kStep, rgb += 3) {
      uint32_t a = 255;
      if constexpr (kAlpha) {
        if (on_white_) a = at(kColours);
      } else if (has_key_ && std::memcmp(in, key_, kStep) == 0) {
        a = 0;
      }
      for (int c = 0; c < 3; ++c) rgb[c] = OnWhite(at(kColours == 1 ? 0 : c), a);
    }
  }

  int type_;
  int depth_;
  bool on_white_;
  bool has_key_ = false;
  uint8_t key_[6] = {};         // the transparent colour, as stored
  uint8_t table_[256][3] = {};  // for Table()
};

// Where the rows and pixels of one pass lie. A plain file is one pass over everything.
struct Pass {
  int x0, y0, dx, dy;
};
constexpr Pass kWhole[] = {{0, 0, 1, 1}};
constexpr Pass kAdam7[] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                           {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};

}  // namespace

absl::StatusOr<Header> ProbePng(absl::string_view bytes, const Limits& limits) {
  Header header{.format = Format::kPng};
  int64_t metadata = 0;
  bool has_exif = false;
  bool has_pixels = false;
  for (size_t at = kSignatureBytes;;) {
    if (bytes.size() - at < kChunkOverhead) return Corrupt();
    const size_t length = Be32(&bytes[at]);
    const absl::string_view type = bytes.substr(at + 4, 4);
    if (at == kSignatureBytes) {
      // The header decides about a bomb before anything behind it is looked at.
      if (type != "IHDR" || length != kHeaderBytes ||
          bytes.size() - at < kChunkOverhead + kHeaderBytes) {
        return Corrupt();
      }
      const auto* checked = reinterpret_cast<const Bytef*>(type.data());
      if (crc32(0, checked, 4 + kHeaderBytes) != Be32(&bytes[at + 8 + kHeaderBytes])) {
        return Corrupt();
      }
      CHORD_RETURN_IF_ERROR(CheckSize(Be32(&bytes[at + 8]), Be32(&bytes[at + 12]), limits));
      header.width = static_cast<int>(Be32(&bytes[at + 8]));
      header.height = static_cast<int>(Be32(&bytes[at + 12]));
    }
    if (type == "acTL") return errors::ImageAnimated("PNG");
    if (length > bytes.size() - at - kChunkOverhead) return Corrupt();
    if (type == "IEND") break;
    if (type == "IDAT") {
      has_pixels = true;
    } else if (type != "IHDR" && type != "PLTE" && type != "tRNS") {
      metadata += static_cast<int64_t>(length);
      CHORD_RETURN_IF_ERROR(CheckMetadata(metadata, limits));
      if (type == "eXIf" && !has_exif) {
        has_exif = true;
        header.orientation = ExifOrientation(bytes.substr(at + 8, length));
      }
    }
    at += kChunkOverhead + length;
  }
  if (!has_pixels) return Corrupt();
  return header;
}

absl::StatusOr<RgbImage> DecodePng(absl::string_view bytes, const Header& header,
                                   bool alpha_on_white, const CancelToken& cancel) {
  Session s(cancel);
  s.bytes = bytes;
  const auto failed = [&cancel]() -> absl::Status {
    CHORD_RETURN_IF_ERROR(cancel.Check());
    return Corrupt();
  };
  if (!ReadHeader(s)) return failed();
  if (static_cast<int64_t>(png_get_image_width(s.png, s.info)) != header.width ||
      static_cast<int64_t>(png_get_image_height(s.png, s.info)) != header.height) {
    return Corrupt();
  }
  const RowConverter converter(s.png, s.info, alpha_on_white);
  const bool interlaced = png_get_interlace_type(s.png, s.info) == PNG_INTERLACE_ADAM7;
  if (!StartRows(s)) return failed();

  std::vector<uint8_t> stored(png_get_rowbytes(s.png, s.info));
  std::vector<uint8_t> sparse(interlaced ? size_t{3} * header.width : 0);
  RgbImage image{header.width, header.height, {}};
  image.rgb.resize(size_t{3} * header.width * header.height);
  const auto passes = interlaced ? absl::MakeConstSpan(kAdam7) : absl::MakeConstSpan(kWhole);
  int64_t left = 0;  // rows
  for (const Pass& pass : passes) {
    if (pass.x0 >= header.width || pass.y0 >= header.height) continue;
    left += (header.height - pass.y0 + pass.dy - 1) / pass.dy;
  }
  for (const Pass& pass : passes) {
    if (pass.x0 >= header.width) continue;
    const int width = (header.width - pass.x0 + pass.dx - 1) / pass.dx;
    for (int y = pass.y0; y < header.height; y += pass.dy) {
      if (left % kRowsPerCancelCheck == 0) CHORD_RETURN_IF_ERROR(cancel.Check());
      if (--left == 0) s.left = 2 * static_cast<int64_t>(stored.size()) + kMaxTailBytes;
      if (!ReadRow(s, stored.data())) return failed();
      uint8_t* to = image.rgb.data() + size_t{3} * header.width * y;
      if (pass.dx == 1) {
        converter.Convert(stored.data(), width, to);
        continue;
      }
      converter.Convert(stored.data(), width, sparse.data());
      to += 3 * pass.x0;
      for (int x = 0; x < width; ++x, to += 3 * pass.dx) std::memcpy(to, &sparse[3 * x], 3);
    }
  }
  s.left = std::numeric_limits<int64_t>::max();  // chunks behind the pixels are only skipped
  if (!Finish(s)) return failed();
  return image;
}

}  // namespace chord::image::internal
