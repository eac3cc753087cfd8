#include "common/base/data_url.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/escaping.h"
#include "common/base/errors.h"

namespace chord {
namespace {

TEST(DataUrlTest, DecodesBase64OfAnyMediaType) {
  const std::string text = absl::Base64Escape("bytes");
  for (const char* head : {"data:image/png;base64,", "data:;base64,", "DATA:text/plain;BASE64,"}) {
    EXPECT_TRUE(IsDataUrl(head));
    EXPECT_EQ(*DecodeDataUrl(head + text), "bytes") << head;
    EXPECT_EQ(*DecodeDataUrlOrBase64(head + text, "data"), "bytes") << head;
  }
  EXPECT_EQ(*DecodeDataUrlOrBase64(text, "data"), "bytes");
  EXPECT_EQ(*DecodeDataUrlOrBase64("Ynl0\nZXM", "data"), "bytes");
}

TEST(DataUrlTest, RefusesWhatIsNotBase64) {
  const std::string long_type = "data:" + std::string(300, 'a') + ";base64,Zg==";
  for (const std::string& bad :
       {std::string("data:image/png;base64"), std::string("data:image/png,raw"),
        std::string("data:image/png;base64,no base64!"), long_type}) {
    EXPECT_TRUE(errors::Is(DecodeDataUrl(bad).status(), Reason::kParameterInvalid)) << bad;
    EXPECT_TRUE(errors::Is(DecodeDataUrlOrBase64(bad, "data").status(), Reason::kParameterInvalid))
        << bad;
  }
  EXPECT_TRUE(errors::Is(DecodeDataUrl("Zg==").status(), Reason::kParameterInvalid));
  EXPECT_TRUE(
      errors::Is(DecodeDataUrlOrBase64("no base64!", "data").status(), Reason::kParameterInvalid));
}

TEST(DataUrlTest, RefusesRemoteUrls) {
  for (const char* url : {"http://h/a.png", "HTTPS://h", "ftp://h/a", "file:///a.png"}) {
    EXPECT_TRUE(IsRemoteUrl(url)) << url;
    EXPECT_TRUE(errors::Is(DecodeDataUrl(url).status(), Reason::kImageUrlRefused)) << url;
    EXPECT_TRUE(errors::Is(DecodeDataUrlOrBase64(url, "data").status(), Reason::kImageUrlRefused))
        << url;
  }
  EXPECT_FALSE(IsRemoteUrl("data:image/png;base64,"));
  EXPECT_TRUE(errors::Is(DecodeDataUrlOrBase64("s3://bucket/a", "data").status(),
                         Reason::kImageUrlRefused));
}

}  // namespace
}  // namespace chord
