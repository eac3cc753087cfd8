#include "common/base/base64.h"

#include <gtest/gtest.h>

#include <optional>

namespace chord {
namespace {

std::optional<std::string> Decode(std::string text) {
  if (!DecodeForgivingBase64(text)) return std::nullopt;
  return text;
}

TEST(Base64Test, DecodesWithAndWithoutPadding) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""},
      {"Zg==", "f"},
      {"Zg", "f"},
      {"Zm8=", "fo"},
      {"Zm8", "fo"},
      {"Zm9v", "foo"},
      {"Zm9vYg==", "foob"},
      {"Zm9vYmFy", "foobar"},
      {"+/+/", "\xfb\xff\xbf"},
      {"Zh==", "f"},
  };
  for (const auto& [text, bytes] : cases) EXPECT_EQ(Decode(text), bytes) << text;
}

TEST(Base64Test, SkipsAsciiWhiteSpace) {
  EXPECT_EQ(Decode("Zm9v\r\nYmFy\r\n"), "foobar");
  EXPECT_EQ(Decode(" Z\tm\f9 v "), "foo");
  EXPECT_EQ(Decode("Zg=\n=\n"), "f");
}

TEST(Base64Test, RefusesWhatIsNotBase64) {
  for (const char* text : {"Z", "Zm9vY", "Zg=", "Zg===", "Zm9v=", "Zm9v====", "Z=g=", "=",
                           "====", "Zm-_", "Zm9v\v", "Zm 9v!", "Zg==Zg=="}) {
    EXPECT_EQ(Decode(text), std::nullopt) << text;
  }
  EXPECT_EQ(Decode(std::string("Zm9v\0", 5)), std::nullopt);
}

}  // namespace
}  // namespace chord
