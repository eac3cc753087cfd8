// Files that lie. Each is refused with a reason of the catalogue, and nothing is read out of bounds
// (run under CHORD_SANITIZE=address,undefined to see the second half).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/image/image.h"
#include "tests/common/image/test_images.h"

namespace chord::image {
namespace {

using namespace testing;  // NOLINT: the image makers of this folder

std::string ReasonOf(absl::string_view bytes) {
  const auto image = Decode(bytes, {});
  return image.ok() ? "OK" : ErrorReason(image.status());
}

struct Sample {
  std::string name;
  std::string bytes;
};

std::vector<Sample> Samples() {
  const RgbImage image = Noise(72, 60);
  std::string interlaced_rows;
  std::mt19937 random(5);
  // Adam7 of 32×32 RGBA, 16 bits: pass sides 4×4 4×4 8×4 8×8 16×8 16×16 32×16.
  for (const auto& [w, h] :
       {std::pair{4, 4}, {4, 4}, {8, 4}, {8, 8}, {16, 8}, {16, 16}, {32, 16}}) {
    for (int y = 0; y < h; ++y) {
      interlaced_rows += '\0';
      for (int i = 0; i < w * 8; ++i) interlaced_rows += static_cast<char>(random());
    }
  }
  return {{"jpeg", Jpeg(image)},
          {"progressive jpeg", Jpeg(image, {.progressive = true})},
          {"cmyk jpeg", Jpeg(image, {.cmyk = true})},
          {"jpeg with exif", Jpeg(image, {.app1 = ExifSegment(6)})},
          {"png", Png(image)},
          {"interlaced png", Png({.width = 32,
                                  .height = 32,
                                  .depth = 16,
                                  .colour_type = 6,
                                  .interlaced = true,
                                  .rows = interlaced_rows})},
          {"webp", Webp(image)},
          {"lossless webp", Webp(image, {.lossless = true})},
          {"webp with alpha", Webp(image, {.alpha = 100})},
          {"webp with exif", WebpWithExif(Webp(image), 72, 60, Tiff(6))}};
}

TEST(HostileTest, RefusesAFileCutAnywhere) {
  for (const auto& [name, bytes] : Samples()) {
    ASSERT_EQ(ReasonOf(bytes), "OK") << name;
    for (size_t size = 0; size < bytes.size(); size += size < 4096 ? 1 : 1024) {
      const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
      ASSERT_NE(ReasonOf(absl::string_view(cut.data(), cut.size())), "OK") << name << " " << size;
    }
    ASSERT_NE(ReasonOf(absl::string_view(bytes).substr(0, bytes.size() - 1)), "OK") << name;
  }
}

TEST(HostileTest, SurvivesRandomDamage) {
  std::mt19937 random(11);
  for (const auto& [name, bytes] : Samples()) {
    for (int i = 0; i < 300; ++i) {
      std::string damaged = bytes;
      for (int flips = 0; flips <= i % 5; ++flips) {
        damaged[random() % (i % 2 ? damaged.size() : 64)] ^= static_cast<char>(1 + random() % 255);
      }
      const auto image = Decode(damaged, {.limits = {.max_pixels = 1'000'000}});
      if (image.ok()) {
        ASSERT_EQ(image->rgb.size(), size_t{3} * image->width * image->height) << name;
      } else {
        ASSERT_TRUE(IsCatalogued(image.status())) << name << image.status();
      }
    }
  }
}

TEST(HostileTest, DoesNotInflateWhatFollowsTheLastRow) {
  PngParts parts{.width = 10, .height = 10, .rows = std::string(10 * 31, '\0')};
  parts.rows.resize(100'000);  // some encoders are careless
  EXPECT_EQ(ReasonOf(Png(parts)), "OK");
  parts.rows.resize(100'000'000);
  const std::string bomb = Png(parts);
  EXPECT_LT(bomb.size(), 200'000u);
  EXPECT_EQ(ReasonOf(bomb), "IMAGE_CORRUPT");
}

TEST(HostileTest, RefusesABombFromItsHeaderWithoutPixelMemory) {
  std::string jpeg = Jpeg(Noise(8, 8));
  jpeg.replace(jpeg.find("\xff\xc0") + 5, 4, Be16(60000) + Be16(60000));
  std::string vp8l = Webp(Noise(8, 8), {.lossless = true});
  vp8l.replace(21, 4, Le32(0x0fffffff));  // 16384 × 16384, no alpha
  const std::string idat = PngChunk("IDAT", std::string(1000, 'x'));
  for (const std::string& bytes :
       {PngHeader(19000, 19000, 8, 2) + idat, PngHeader(50000, 50000, 16, 6, true) + idat,
        PngHeader(0xffffffff, 0xffffffff, 8, 2), PngHeader(0x7fffffff, 1, 8, 2),
        PngHeader(65501, 65501, 1, 0), jpeg, vp8l}) {
    const size_t before = mallinfo2().hblkhd + mallinfo2().uordblks;
    EXPECT_EQ(ReasonOf(bytes), "IMAGE_TOO_LARGE");
    EXPECT_LT(mallinfo2().hblkhd + mallinfo2().uordblks, before + 4096);
  }
}

TEST(HostileTest, RefusesPngChunksThatLie) {
  const std::string png = Png(Noise(16, 16), PngChunk("tEXt", "Comment"));
  const size_t text = png.find("tEXt") - 4;
  for (uint32_t length : {6u, 8u, 1000u, 100000u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    std::string bytes = png;
    bytes.replace(text, 4, Be32(length));
    EXPECT_EQ(ReasonOf(bytes), "IMAGE_CORRUPT") << length;
  }
  for (const char* chunk : {"IHDR", "tEXt", "IDAT", "IEND"}) {
    std::string bytes = png;
    const size_t at = bytes.find(chunk);
    const size_t length =
        static_cast<uint8_t>(bytes[at - 1]) + 256 * static_cast<uint8_t>(bytes[at - 2]);
    bytes[at + 4 + length] ^= 1;  // its CRC
    EXPECT_EQ(ReasonOf(bytes), "IMAGE_CORRUPT") << chunk;
  }
  EXPECT_EQ(ReasonOf(Png(Noise(4, 4), PngChunk("ABCD", "critical and unknown"))), "IMAGE_CORRUPT");
  EXPECT_EQ(
      ReasonOf(Png({.width = 4, .height = 4, .colour_type = 3, .rows = std::string(20, '\0')})),
      "IMAGE_CORRUPT");  // no palette
  EXPECT_EQ(ReasonOf(Png({.width = 4, .height = 4, .rows = std::string(51, '\0')})),
            "IMAGE_CORRUPT");  // a byte short
  EXPECT_EQ(ReasonOf(PngHeader(4, 4, 8, 2) + PngChunk("IEND", "")), "IMAGE_CORRUPT");
  EXPECT_EQ(ReasonOf(Png({.width = 4, .height = 4, .depth = 3, .rows = std::string(52, '\0')})),
            "IMAGE_CORRUPT");
}

TEST(HostileTest, NeverInflatesMetadata) {
  // A text chunk of 1 MiB that would unpack to 1 GiB is skipped; the image is answered.
  const std::string packed(1 << 20, '\0');
  const std::string bomb = std::string("a\0\0", 3) + packed;
  const std::string bytes = Png(Noise(8, 8), PngChunk("zTXt", bomb) + PngChunk("iCCP", bomb));
  EXPECT_EQ(ReasonOf(bytes), "OK");
}

TEST(HostileTest, RefusesJpegWithTooManyScans) {
  // The last scan of a progressive file again and again, in front of its end marker.
  const std::string jpeg = Jpeg(Noise(16, 16), {.progressive = true});
  const size_t scan = jpeg.rfind("\xff\xda");
  const std::string again = jpeg.substr(scan, jpeg.size() - 2 - scan);
  std::string bytes = jpeg.substr(0, jpeg.size() - 2);
  for (int i = 0; i < 2 * limits::kMaxJpegScans; ++i) bytes += again;
  const std::string reason = ReasonOf(bytes + "\xff\xd9");
  EXPECT_THAT(reason, ::testing::AnyOf("IMAGE_CODING_UNSUPPORTED", "IMAGE_CORRUPT"));
}

TEST(HostileTest, RefusesJpegWhoseHeadersLie) {
  const std::string jpeg = Jpeg(Noise(16, 16));
  const size_t frame = jpeg.find("\xff\xc0");
  std::string taller = jpeg;
  taller.replace(frame + 5, 2, Be16(400));  // more rows than were coded
  EXPECT_EQ(ReasonOf(taller), "IMAGE_CORRUPT");
  std::string twice = jpeg;
  twice.insert(frame, jpeg.substr(frame, 19));
  EXPECT_EQ(ReasonOf(twice), "IMAGE_CORRUPT");
  std::string factors = jpeg;
  factors[frame + 11] = '\x55';  // sampling factors of 5
  EXPECT_EQ(ReasonOf(factors), "IMAGE_CORRUPT");
  EXPECT_EQ(ReasonOf("\xff\xd8\xff\xd9"), "IMAGE_CORRUPT");
  EXPECT_EQ(ReasonOf("\xff\xd8\xff\xe0" + Be16(1)), "IMAGE_CORRUPT");
  EXPECT_EQ(ReasonOf(std::string("\xff\xd8") + std::string(100000, '\xff')), "IMAGE_CORRUPT");
}

TEST(HostileTest, RefusesWebpWhoseSizesLie) {
  const std::string webp = Webp(Noise(16, 16));
  for (uint32_t size : {0u, 4u, 11u, 12u, 0xfffffff8u, 0xffffffffu}) {
    std::string bytes = webp;
    bytes.replace(4, 4, Le32(size));
    EXPECT_EQ(ReasonOf(bytes), "IMAGE_CORRUPT") << size;
  }
  for (uint32_t size : {0u, 5u, 100000u, 0xffffffffu}) {
    std::string bytes = webp;
    bytes.replace(16, 4, Le32(size));
    EXPECT_EQ(ReasonOf(bytes), "IMAGE_CORRUPT") << size;
  }
  EXPECT_EQ(ReasonOf(Riff("")), "IMAGE_CORRUPT");
  EXPECT_EQ(ReasonOf(Riff(RiffChunk("ALPH", "x"))), "IMAGE_CORRUPT");
  // A canvas that is not the frame's size.
  EXPECT_EQ(ReasonOf(WebpWithExif(webp, 17, 16, Tiff(1))), "IMAGE_CORRUPT");
}

}  // namespace
}  // namespace chord::image
