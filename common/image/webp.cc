// WebP by libwebp. The container is walked here: its sizes are compared with the bytes at hand, so
// a cut file is refused before a pixel is decoded, and animations and metadata are told apart.
#include <webp/decode.h>

#include <algorithm>
#include <memory>

#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/image/codec.h"
#include "common/image/exif.h"

namespace chord::image::internal {
namespace {

constexpr size_t kRiffHeaderBytes = 12;  // "RIFF", size, "WEBP"
constexpr size_t kChunkHeaderBytes = 8;
enum Vp8xFlag : uint8_t { kAnimationFlag = 0x02, kExifFlag = 0x08 };

absl::Status Corrupt() { return errors::ImageCorrupt("WebP"); }

const uint8_t* Data(absl::string_view bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

struct DecoderDeleter {
  void operator()(WebPIDecoder* decoder) const { WebPIDelete(decoder); }
};

}  // namespace

absl::StatusOr<Header> ProbeWebp(absl::string_view bytes, const Limits& limits) {
  const size_t riff_end = size_t{8} + Le32(&bytes[4]);
  if (riff_end > bytes.size() || riff_end < kRiffHeaderBytes + kChunkHeaderBytes) return Corrupt();
  bytes = bytes.substr(0, riff_end);

  WebPBitstreamFeatures features;
  if (WebPGetFeatures(Data(bytes), bytes.size(), &features) != VP8_STATUS_OK) return Corrupt();
  CHORD_RETURN_IF_ERROR(CheckSize(features.width, features.height, limits));
  if (features.has_animation) return errors::ImageAnimated("WebP");

  Header header{.format = Format::kWebp, .width = features.width, .height = features.height};
  uint8_t flags = 0;
  int64_t metadata = 0;
  bool has_exif = false;
  for (size_t at = kRiffHeaderBytes; at < bytes.size();) {
    if (bytes.size() - at < kChunkHeaderBytes) return Corrupt();
    const absl::string_view type = bytes.substr(at, 4);
    const size_t length = Le32(&bytes[at + 4]);
    at += kChunkHeaderBytes;
    if (length > bytes.size() - at) return Corrupt();
    const absl::string_view body = bytes.substr(at, length);
    if (type == "VP8X" && !body.empty()) {
      flags = static_cast<uint8_t>(body[0]);
    } else if (type == "ANIM" || type == "ANMF") {
      return errors::ImageAnimated("WebP");
    } else if (type != "VP8 " && type != "VP8L" && type != "ALPH") {
      metadata += static_cast<int64_t>(length);
      CHORD_RETURN_IF_ERROR(CheckMetadata(metadata, limits));
      if (type == "EXIF" && (flags & kExifFlag) != 0 && !has_exif) {
        has_exif = true;
        header.orientation = ExifOrientation(body);
      }
    }
    at += length + (length & 1);  // the last chunk's padding may be missing
  }
  if ((flags & kAnimationFlag) != 0) return errors::ImageAnimated("WebP");
  return header;
}

absl::StatusOr<RgbImage> DecodeWebp(absl::string_view bytes, const Header& header,
                                    bool alpha_on_white, const CancelToken& cancel) {
  bytes = bytes.substr(0, size_t{8} + Le32(&bytes[4]));
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config) ||
      WebPGetFeatures(Data(bytes), bytes.size(), &config.input) != VP8_STATUS_OK ||
      config.input.width != header.width || config.input.height != header.height) {
    return Corrupt();
  }
  const bool compose = config.input.has_alpha && alpha_on_white;
  const size_t channels = compose ? 4 : 3;
  const size_t pixels = size_t{1} * header.width * header.height;
  RgbImage image{header.width, header.height, {}};
  image.rgb.resize(channels * pixels);
  config.output.colorspace = compose ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = image.rgb.data();
  config.output.u.RGBA.stride = static_cast<int>(channels * header.width);
  config.output.u.RGBA.size = image.rgb.size();

  // Fed in growing slices of the same bytes (nothing is copied), to be able to stop in between.
  const std::unique_ptr<WebPIDecoder, DecoderDeleter> decoder(WebPIDecode(nullptr, 0, &config));
  if (decoder == nullptr) return errors::Overloaded(absl::Seconds(1));
  const size_t slice = std::max<size_t>(64 << 10, bytes.size() / 64);
  for (size_t fed = 0;;) {
    CHORD_RETURN_IF_ERROR(cancel.Check());
    fed = std::min(fed + slice, bytes.size());
    const VP8StatusCode status = WebPIUpdate(decoder.get(), Data(bytes), fed);
    if (status == VP8_STATUS_OK) break;
    if (status == VP8_STATUS_OUT_OF_MEMORY) return errors::Overloaded(absl::Seconds(1));
    if (status != VP8_STATUS_SUSPENDED || fed == bytes.size()) return Corrupt();
  }

  if (compose) {  // in place: the write position never passes the read position
    const uint8_t* in = image.rgb.data();
    uint8_t* out = image.rgb.data();
    for (size_t i = 0; i < pixels; ++i, in += 4, out += 3) {
      const uint32_t r = in[0], g = in[1], b = in[2], a = in[3];
      out[0] = OnWhite(r, a);
      out[1] = OnWhite(g, a);
      out[2] = OnWhite(b, a);
    }
    image.rgb.resize(3 * pixels);
  }
  return image;
}

}  // namespace chord::image::internal
