#include "services/cli/plot/text_renderer.h"

#include <fontconfig/fontconfig.h>
#include <ft2build.h>

#include <algorithm>
#include <map>
#include <optional>
#include FT_FREETYPE_H

#include "common/text/unicode.h"

namespace chord::plot {
namespace {

struct FontFile {
  std::string path;
  int index = 0;
};

// The font that fontconfig prefers for a character.
std::optional<FontFile> FindFont(FcConfig* config, FcChar32 character) {
  FcPattern* pattern = FcNameParse(reinterpret_cast<const FcChar8*>("sans-serif"));
  FcCharSet* characters = FcCharSetCreate();
  FcCharSetAddChar(characters, character);
  FcPatternAddCharSet(pattern, FC_CHARSET, characters);
  FcPatternAddBool(pattern, FC_SCALABLE, FcTrue);
  FcPatternAddBool(pattern, FC_COLOR, FcFalse);
  FcConfigSubstitute(config, pattern, FcMatchPattern);
  FcDefaultSubstitute(pattern);
  FcResult result = FcResultNoMatch;
  FcPattern* match = FcFontMatch(config, pattern, &result);
  std::optional<FontFile> out;
  FcChar8* path = nullptr;
  if (match != nullptr && FcPatternGetString(match, FC_FILE, 0, &path) == FcResultMatch) {
    FontFile file{reinterpret_cast<const char*>(path), 0};
    FcPatternGetInteger(match, FC_INDEX, 0, &file.index);
    out = std::move(file);
  }
  if (match != nullptr) FcPatternDestroy(match);
  FcCharSetDestroy(characters);
  FcPatternDestroy(pattern);
  return out;
}

}  // namespace

struct TextRenderer::Impl {
  FT_Library library = nullptr;
  FcConfig* config = nullptr;
  std::map<std::string, FT_Face> faces;  // by path and index

  Impl() {
    if (FT_Init_FreeType(&library) != 0) library = nullptr;
    config = FcInitLoadConfigAndFonts();
  }
  ~Impl() {
    for (auto& [name, face] : faces) FT_Done_Face(face);
    if (library != nullptr) FT_Done_FreeType(library);
    if (config != nullptr) FcConfigDestroy(config);
  }

  // A face that has a glyph for the character, of those opened or of the system's fonts.
  FT_Face FaceOf(int32_t character) {
    for (auto& [name, face] : faces) {
      if (FT_Get_Char_Index(face, static_cast<FT_ULong>(character)) != 0) return face;
    }
    if (library == nullptr || config == nullptr) return nullptr;
    const std::optional<FontFile> file = FindFont(config, static_cast<FcChar32>(character));
    if (!file) return nullptr;
    const std::string name = file->path + "#" + std::to_string(file->index);
    if (faces.count(name) > 0) return nullptr;  // already known not to have it
    FT_Face face = nullptr;
    if (FT_New_Face(library, file->path.c_str(), file->index, &face) != 0) return nullptr;
    faces.emplace(name, face);
    return FT_Get_Char_Index(face, static_cast<FT_ULong>(character)) != 0 ? face : nullptr;
  }
};

namespace {

// Adds the glyph in the face's slot to the line at `pen`.
void Blend(const FT_GlyphSlot glyph, int pen, TextBitmap& out) {
  const FT_Bitmap& bitmap = glyph->bitmap;
  for (int row = 0; row < static_cast<int>(bitmap.rows); ++row) {
    const int y = out.baseline - glyph->bitmap_top + row;
    if (y < 0 || y >= out.height) continue;
    for (int column = 0; column < static_cast<int>(bitmap.width); ++column) {
      const int x = pen + glyph->bitmap_left + column;
      if (x < 0 || x >= out.width) continue;
      uint8_t& pixel = out.coverage[static_cast<size_t>(y) * out.width + x];
      pixel = std::max(pixel, bitmap.buffer[row * bitmap.pitch + column]);
    }
  }
}

}  // namespace

TextRenderer::TextRenderer() : impl_(std::make_unique<Impl>()) {}
TextRenderer::~TextRenderer() = default;

TextBitmap TextRenderer::Render(absl::string_view utf8, int pixel_height, int max_width) {
  pixel_height = std::clamp(pixel_height, 4, 512);
  struct Glyph {
    FT_Face face;
    FT_UInt index;
    int pen;
  };
  std::vector<Glyph> glyphs;
  int pen = 0;
  while (!utf8.empty()) {
    const text::Rune rune = text::FirstRune(utf8);
    utf8.remove_prefix(rune.bytes);
    const FT_Face face = rune.code_point >= ' ' ? impl_->FaceOf(rune.code_point) : nullptr;
    if (face == nullptr || FT_Set_Pixel_Sizes(face, 0, static_cast<FT_UInt>(pixel_height)) != 0) {
      continue;
    }
    const FT_UInt index = FT_Get_Char_Index(face, static_cast<FT_ULong>(rune.code_point));
    if (FT_Load_Glyph(face, index, FT_LOAD_DEFAULT) != 0) continue;
    const int advance = static_cast<int>(face->glyph->advance.x >> 6);
    if (pen + advance > max_width) break;
    glyphs.push_back({face, index, pen});
    pen += advance;
  }
  TextBitmap out;
  if (glyphs.empty() || pen < 1) return out;
  out.width = pen;
  out.height = pixel_height + pixel_height / 4;
  out.baseline = pixel_height;
  out.coverage.assign(static_cast<size_t>(out.width) * out.height, 0);
  for (const Glyph& glyph : glyphs) {
    FT_Set_Pixel_Sizes(glyph.face, 0, static_cast<FT_UInt>(pixel_height));
    if (FT_Load_Glyph(glyph.face, glyph.index, FT_LOAD_RENDER) != 0) continue;
    if (glyph.face->glyph->bitmap.pixel_mode != FT_PIXEL_MODE_GRAY) continue;
    Blend(glyph.face->glyph, glyph.pen, out);
  }
  return out;
}

}  // namespace chord::plot
