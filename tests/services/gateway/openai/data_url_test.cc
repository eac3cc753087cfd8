#include "services/gateway/openai/data_url.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"

namespace chord::gateway::openai {
namespace {

std::string Decoded(std::string text) { return ForgivingBase64(text) ? text : "(refused)"; }

// Cases of the web platform tests (fetch/data-urls/resources/base64.json).
TEST(ForgivingBase64, FollowsTheStandard) {
  struct Case {
    std::string text, bytes;
  };
  for (const Case& c : std::vector<Case>{
           {"", ""},
           {"abcd", "\x69\xB7\x1D"},
           {" abcd", "\x69\xB7\x1D"},
           {"abcd ", "\x69\xB7\x1D"},
           {"ab\tc\nd\r\f", "\x69\xB7\x1D"},
           {"abcd===", "(refused)"},
           {" abcd===", "(refused)"},
           {"abcd====", "(refused)"},
           {"a", "(refused)"},
           {"ab", "\x69"},
           {"abc", "\x69\xB7"},
           {"abcde", "(refused)"},
           {"ab=", "(refused)"},
           {"ab==", "\x69"},
           {"abc=", "\x69\xB7"},
           {"abc==", "(refused)"},
           {"=", "(refused)"},
           {"==", "(refused)"},
           {"ab=c", "(refused)"},
           {"a b c d", "\x69\xB7\x1D"},
           {"abcd\xC2\xA0", "(refused)"},
           {"////A", "(refused)"},
           {"AA/", std::string("\x00\x0F", 2)},
           {"AB==", std::string("\x00", 1)},  // bits that are left over are dropped
           {"ab-_", "(refused)"},
       }) {
    EXPECT_EQ(Decoded(c.text), c.bytes) << c.text;
  }
}

TEST(DecodeImageUrl, ReadsDataUrls) {
  for (const char* url :
       {"data:image/png;base64,abcd", "data:;base64,abcd", "DATA:image/PNG;BASE64,ab cd",
        " data:image/png;charset=x;base64,abcd", "data:image/png; base64 ,abcd",
        "data:image/png;base64,ab%63d", "data:image/png;base64,abcd#fragment"}) {
    const auto bytes = DecodeImageUrl(url, "p");
    ASSERT_TRUE(bytes.ok()) << url;
    EXPECT_EQ(*bytes, "\x69\xB7\x1D") << url;
  }
}

TEST(DecodeImageUrl, RefusesAllThatIsNone) {
  struct Case {
    const char* url;
    const char* reason;
  };
  for (const Case& c : std::vector<Case>{
           {"http://x/y.png", "IMAGE_URL_REFUSED"},
           {"HTTPS://x/y.png", "IMAGE_URL_REFUSED"},
           {" file:///etc/passwd", "IMAGE_URL_REFUSED"},
           {"ftp://x", "IMAGE_URL_REFUSED"},
           {"", "PARAMETER_INVALID"},
           {"gopher://x", "PARAMETER_INVALID"},
           {"abcd", "PARAMETER_INVALID"},
           {"data:", "PARAMETER_INVALID"},
           {"data:image/png;base64", "PARAMETER_INVALID"},
           {"data:image/png,abcd", "PARAMETER_INVALID"},
           {"data:imagebase64,abcd", "PARAMETER_INVALID"},
           {"data:image/png;base64,a", "PARAMETER_INVALID"},
           {"data:image/png;base64,ab!d", "PARAMETER_INVALID"},
       }) {
    EXPECT_EQ(ErrorReason(DecodeImageUrl(c.url, "p").status()), c.reason) << c.url;
  }
  const std::string long_type = "data:" + std::string(300, 'x') + ";base64,abcd";
  EXPECT_FALSE(DecodeImageUrl(long_type, "p").ok());
}

}  // namespace
}  // namespace chord::gateway::openai
