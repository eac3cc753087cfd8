#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/image/image.h"
#include "tests/common/image/test_images.h"
#include "tests/support/has_reason.h"

namespace chord::image {
namespace {

using namespace testing;  // NOLINT: the image makers of this folder

std::string ReasonOf(const std::string& bytes, const Limits& limits = {}) {
  const auto header = Probe(bytes, limits);
  return header.ok() ? "OK" : ErrorReason(header.status());
}

TEST(SniffTest, TellsTheThreeFormatsByTheirBytes) {
  EXPECT_EQ(*Sniff(Jpeg(Noise(8, 8))), Format::kJpeg);
  EXPECT_EQ(*Sniff(Png(Noise(8, 8))), Format::kPng);
  EXPECT_EQ(*Sniff(Webp(Noise(8, 8))), Format::kWebp);
}

TEST(SniffTest, NamesTheFormatsItRefuses) {
  const std::string box_end(20, '\0');
  const std::pair<std::string, std::string> cases[] = {
      {"GIF89a" + box_end, "GIF"},
      {"GIF87a" + box_end, "GIF"},
      {std::string("II*\0", 4) + box_end, "TIFF"},
      {std::string("MM\0*", 4) + box_end, "TIFF"},
      {"BM" + Le32(1000) + box_end, "BMP"},
      {std::string("\0\0\1\0", 4) + box_end, "ICO"},
      {std::string("\0\0\0\x0cjP  \r\n\x87\n", 12), "JPEG 2000"},
      {"\xff\x4f\xff\x51" + box_end, "JPEG 2000"},
      {"\xff\x0a" + box_end, "JPEG XL"},
      {Be32(24) + "ftypheic" + Be32(0) + "mif1heic", "HEIC"},
      {Be32(24) + "ftypmif1" + Be32(0) + "mif1avif", "AVIF"},
      {Be32(20) + "ftypavif" + Be32(0) + "avif", "AVIF"},
      {"%PDF-1.7\n", "PDF"},
      {"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "SVG"},
      {"\xef\xbb\xbf \n<?xml version=\"1.0\"?>\n<!-- drawn --><svg width=\"1\"/>", "SVG"},
      {"8BPS" + box_end, "PSD"},
  };
  for (const auto& [bytes, name] : cases) {
    const auto format = Sniff(bytes);
    EXPECT_THAT(format.status(), HasReason(Reason::kImageFormatUnsupported)) << name;
    EXPECT_THAT(std::string(format.status().message()), ::testing::StartsWith(name + " "));
  }
}

TEST(SniffTest, RefusesWhatIsNoImage) {
  EXPECT_THAT(Sniff("").status(), HasReason(Reason::kImageEmpty));
  const std::string zeros(64, '\0');
  for (const std::string& bytes :
       {std::string("MZ\x90"), std::string("hello"), std::string("BM"), std::string("RIFF"),
        "RIFF" + Le32(100) + "WAVE", zeros, std::string("<html><svg></svg></html>"),
        Be32(24) + "ftypisom" + Be32(0) + "mp42", std::string("\xff\xd8"),
        std::string("\x89PNG\r\n")}) {
    EXPECT_THAT(Sniff(bytes).status(), HasReason(Reason::kImageFormatUnknown)) << bytes;
  }
}

TEST(ProbeTest, ReadsStoredSidesAndOrientation) {
  const RgbImage image = Noise(30, 20);
  for (int value : {1, 2, 3, 4, 5, 6, 7, 8, 0, 9}) {
    const int want = value >= 1 && value <= 8 ? value : 1;
    for (const std::string& bytes :
         {Jpeg(image, {.app1 = ExifSegment(value)}), Png(image, PngChunk("eXIf", Tiff(value))),
          WebpWithExif(Webp(image), 30, 20, Tiff(value)),
          WebpWithExif(Webp(image, {.lossless = true}), 30, 20, ExifSegment(value))}) {
      const auto header = Probe(bytes, {});
      ASSERT_TRUE(header.ok()) << header.status();
      EXPECT_EQ(header->width, 30);
      EXPECT_EQ(header->height, 20);
      EXPECT_EQ(header->orientation, want);
      EXPECT_EQ(header->upright_width(), want >= 5 ? 20 : 30);
      EXPECT_EQ(header->upright_height(), want >= 5 ? 30 : 20);
    }
  }
}

TEST(ProbeTest, FindsExifBehindThePixelsOfAPng) {
  std::string bytes = Png(Noise(4, 4));
  bytes.insert(bytes.size() - 12, PngChunk("eXIf", Tiff(8)));
  EXPECT_EQ(Probe(bytes, {})->orientation, 8);
}

TEST(ProbeTest, TakesGarbageInExifAsUpright) {
  EXPECT_EQ(Probe(Jpeg(Noise(8, 8), {.app1 = std::string("Exif\0\0garbage", 13)}), {})->orientation,
            1);
  EXPECT_EQ(Probe(Jpeg(Noise(8, 8), {.app1 = "http://ns.adobe.com/xap/1.0/"}), {})->orientation, 1);
}

TEST(ProbeTest, AppliesEveryLimitAtItsEdge) {
  const RgbImage image = Noise(40, 20);
  for (const std::string& bytes : {Jpeg(image), Png(image), Webp(image)}) {
    const auto size = static_cast<int64_t>(bytes.size());
    EXPECT_EQ(ReasonOf(bytes, {.max_bytes = size}), "OK");
    EXPECT_EQ(ReasonOf(bytes, {.max_bytes = size - 1}), "IMAGE_TOO_MANY_BYTES");
    EXPECT_EQ(ReasonOf(bytes, {.max_pixels = 800}), "OK");
    EXPECT_EQ(ReasonOf(bytes, {.max_pixels = 799}), "IMAGE_TOO_LARGE");
    EXPECT_EQ(ReasonOf(bytes, {.max_aspect_ratio = 2}), "OK");
    EXPECT_EQ(ReasonOf(bytes, {.max_aspect_ratio = 1}), "IMAGE_ASPECT_RATIO");
  }
}

TEST(ProbeTest, LimitsCannotBeRaisedOverTheCeilings) {
  const Limits loose = {.max_bytes = INT64_MAX, .max_pixels = INT64_MAX};
  EXPECT_EQ(ReasonOf(PngHeader(20'000, 20'000, 8, 2), loose), "IMAGE_TOO_LARGE");
  EXPECT_EQ(ReasonOf(std::string(limits::kCeilingImageBytes + 1, 'x'), loose),
            "IMAGE_TOO_MANY_BYTES");
}

TEST(ProbeTest, AcceptsExactlyTwoHundredToOne) {
  EXPECT_EQ(ReasonOf(Png(Noise(200, 1))), "OK");
  EXPECT_EQ(ReasonOf(Png(Noise(1, 200))), "OK");
  EXPECT_EQ(ReasonOf(Png(Noise(201, 1))), "IMAGE_ASPECT_RATIO");
  EXPECT_EQ(ReasonOf(Jpeg(Noise(1, 201))), "IMAGE_ASPECT_RATIO");
  EXPECT_EQ(ReasonOf(Webp(Noise(201, 1))), "IMAGE_ASPECT_RATIO");
  EXPECT_EQ(ReasonOf(Png(Noise(1, 30000))), "IMAGE_ASPECT_RATIO");
  EXPECT_EQ(ReasonOf(Png(Noise(1, 1))), "OK");
}

TEST(ProbeTest, RefusesAZeroSide) {
  EXPECT_EQ(ReasonOf(PngHeader(0, 10, 8, 2)), "IMAGE_ZERO_SIDE");
  EXPECT_EQ(ReasonOf(PngHeader(10, 0, 8, 2)), "IMAGE_ZERO_SIDE");
  std::string jpeg = Jpeg(Noise(8, 8));
  const size_t frame = jpeg.find("\xff\xc0");
  jpeg.replace(frame + 5, 2, Be16(0));
  EXPECT_EQ(ReasonOf(jpeg), "IMAGE_ZERO_SIDE");
}

TEST(ProbeTest, RefusesAnimations) {
  EXPECT_EQ(ReasonOf(Png(Noise(4, 4), PngChunk("acTL", Be32(2) + Be32(0)))), "IMAGE_ANIMATED");
  const std::string frame = Webp(Noise(4, 4)).substr(12);
  const std::string vp8x = RiffChunk("VP8X", Le32(0x02) + std::string("\3\0\0\3\0\0", 6));
  const std::string anim = RiffChunk("ANIM", std::string(6, '\0'));
  const std::string anmf = RiffChunk("ANMF", std::string(16, '\0') + frame);
  EXPECT_EQ(ReasonOf(Riff(vp8x + anim + anmf)), "IMAGE_ANIMATED");
}

TEST(ProbeTest, RefusesJpegCodingsByAListOfItsOwn) {
  EXPECT_EQ(ReasonOf(Jpeg(Noise(16, 16), {.arithmetic = true})), "IMAGE_CODING_UNSUPPORTED");
  EXPECT_EQ(ReasonOf(Jpeg(Noise(16, 16), {.progressive = true, .arithmetic = true})),
            "IMAGE_CODING_UNSUPPORTED");
  const std::string baseline = Jpeg(Noise(16, 16));
  const size_t frame = baseline.find("\xff\xc0");
  for (uint8_t marker : {0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf, 0xf7}) {
    std::string bytes = baseline;
    bytes[frame + 1] = static_cast<char>(marker);
    EXPECT_EQ(ReasonOf(bytes), "IMAGE_CODING_UNSUPPORTED") << int{marker};
  }
  std::string twelve = baseline;
  twelve[frame + 4] = 12;
  EXPECT_EQ(ReasonOf(twelve), "IMAGE_CODING_UNSUPPORTED");
  std::string two = baseline;
  two[frame + 9] = 2;
  EXPECT_EQ(ReasonOf(two), "IMAGE_CODING_UNSUPPORTED");
}

TEST(ProbeTest, BoundsMetadataButNotPixels) {
  const std::string big(limits::kDefaultImageMetadataBytes / 2, 'x');
  EXPECT_EQ(ReasonOf(Png(Noise(4, 4), PngChunk("zTXt", big))), "OK");
  EXPECT_EQ(ReasonOf(Png(Noise(4, 4), PngChunk("zTXt", big) + PngChunk("iCCP", big + "y"))),
            "IMAGE_METADATA_TOO_LARGE");
  const std::string jpeg = Jpeg(Noise(8, 8));
  std::string segments;
  for (int i = 0; i < 65; ++i) segments += "\xff\xe2" + Be16(65535) + std::string(65533, 'x');
  EXPECT_EQ(ReasonOf(jpeg.substr(0, 2) + segments + jpeg.substr(2)), "IMAGE_METADATA_TOO_LARGE");
  const std::string webp = Webp(Noise(8, 8));
  EXPECT_EQ(ReasonOf(Riff(webp.substr(12) + RiffChunk("XMP ", big + big + "yy"))),
            "IMAGE_METADATA_TOO_LARGE");
}

TEST(ProbeTest, BoundsMetadataByTheLimitItIsGiven) {
  const std::string bytes = Png(Noise(4, 4), PngChunk("eXIf", std::string(1000, 'x')));
  EXPECT_TRUE(Probe(bytes, {.max_metadata_bytes = 1000}).ok());
  const absl::Status refused = Probe(bytes, {.max_metadata_bytes = 999}).status();
  EXPECT_THAT(refused, HasReason(Reason::kImageMetadataTooLarge));
  const std::string over(limits::kCeilingImageMetadataBytes + 1, 'x');
  EXPECT_THAT(Probe(Png(Noise(4, 4), PngChunk("eXIf", over)),
                    {.max_bytes = limits::kCeilingImageBytes,
                     .max_metadata_bytes = limits::kCeilingImageMetadataBytes * 2})
                  .status(),
              HasReason(Reason::kImageMetadataTooLarge));
}

TEST(ProbeTest, TakesWhatA50MegapixelPhoneWrites) {
  std::string bytes = Jpeg(Noise(8, 8));
  const size_t frame = bytes.find("\xff\xc0");
  ASSERT_NE(frame, bytes.npos);
  const std::string portrait = Be16(8192) + Be16(6144), landscape = Be16(6144) + Be16(8192);
  for (const std::string& sides : {portrait, landscape}) {
    bytes.replace(frame + 5, 4, sides);
    EXPECT_EQ(ReasonOf(bytes), "OK");
  }
  bytes.replace(frame + 5, 4, Be16(8192) + Be16(6145));
  EXPECT_EQ(ReasonOf(bytes), "IMAGE_TOO_LARGE");
}

TEST(ProbeTest, SkipsFillBytesBeforeAJpegMarker) {
  std::string bytes = Jpeg(Noise(8, 8));
  bytes.insert(2, "\xff\xff\xff");
  EXPECT_EQ(ReasonOf(bytes), "OK");
}

}  // namespace
}  // namespace chord::image
