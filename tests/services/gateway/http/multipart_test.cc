#include "services/gateway/http/multipart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::http {
namespace {

using ::testing::HasSubstr;

std::string Part(absl::string_view header, absl::string_view body) {
  return absl::StrCat("--b\r\n", header, "\r\n\r\n", body, "\r\n");
}
std::string Field(absl::string_view name, absl::string_view body) {
  return Part(absl::StrCat("Content-Disposition: form-data; name=\"", name, "\""), body);
}

void ExpectRefused(absl::string_view body, absl::string_view boundary = "b") {
  const auto parts = ParseMultipart(body, boundary);
  ASSERT_FALSE(parts.ok()) << body.substr(0, 200);
  EXPECT_THAT(parts.status(), HasReason(Reason::kBodyMalformed));
}

TEST(Multipart, SplitsFieldsWithoutCopyingThem) {
  const std::string body =
      Part(
          "Content-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n"
          "Content-Type: image/png",
          std::string("\x89PNG\r\n\x1a\n\0\r\n--", 13)) +
      Field("prompt", "右下角的红色椅子") + "--b--\r\n";
  const auto parts = ParseMultipart(body, "b");
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 2);
  EXPECT_EQ((*parts)[0].name, "image");
  EXPECT_EQ((*parts)[0].filename, "a.png");
  EXPECT_EQ((*parts)[0].content_type, "image/png");
  EXPECT_EQ((*parts)[0].body, absl::string_view("\x89PNG\r\n\x1a\n\0\r\n--", 13));
  EXPECT_GE((*parts)[0].body.data(), body.data());
  EXPECT_LT((*parts)[0].body.data(), body.data() + body.size());
  EXPECT_EQ((*parts)[1].body, "右下角的红色椅子");
}

TEST(Multipart, TakesEmptyBodiesAndAnEmptyForm) {
  const std::string body =
      Field("a", "") + "--b\r\nContent-Disposition: form-data; name=x\r\n\r\n--b--";
  const auto parts = ParseMultipart(body, "b");
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 2);
  EXPECT_EQ((*parts)[0].body, "");
  EXPECT_EQ((*parts)[1].name, "x");
  EXPECT_EQ((*parts)[1].body, "");
  EXPECT_TRUE(ParseMultipart("--b--\r\n", "b").ok());
}

TEST(Multipart, KeepsLinesThatOnlyBeginLikeTheBoundary) {
  const auto parts = ParseMultipart(Field("a", "x\r\n--bb\r\n--b y\r\n\r\n--c") + "--b--", "b");
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ((*parts)[0].body, "x\r\n--bb\r\n--b y\r\n\r\n--c");
}

TEST(Multipart, ReadsNamesAsBrowsersAndOtherClientsWriteThem) {
  const auto name = [](absl::string_view disposition) {
    const std::string body = Part(disposition, "") + "--b--";
    const auto parts = ParseMultipart(body, "b");
    return parts.ok() ? (*parts)[0].name + "|" + (*parts)[0].filename : "refused";
  };
  EXPECT_EQ(name("content-disposition:form-data;name=a"), "a|");
  EXPECT_EQ(name(R"(Content-Disposition: form-data; name="a\"b"; filename="C:\x\\y.png")"),
            "a\"b|C:\\x\\y.png");
  EXPECT_EQ(name("Content-Disposition: form-data; name=a; filename*=UTF-8''na%C3%AFve.png"),
            "a|naïve.png");
  EXPECT_EQ(name("Content-Disposition: form-data; name=a; filename=\"x\"; filename*=utf-8'en'y"),
            "a|y");
  EXPECT_EQ(name("Content-Disposition: form-data; name=a; filename*=x'y"), "refused");
  EXPECT_EQ(name("Content-Disposition: form-data; name=a; filename*=UTF-8''%G0"), "refused");
  EXPECT_EQ(name("Content-Disposition: form-data; name=a; filename*=UTF-8''%4"), "refused");
}

TEST(Multipart, RefusesWhatIsNotAFormWithNamedParts) {
  ExpectRefused("");
  ExpectRefused("hello");
  ExpectRefused("preamble\r\n" + Field("a", "") + "--b--");
  ExpectRefused(Part("", "x") + "--b--");
  ExpectRefused(Part("X-Other: 1", "x") + "--b--");
  ExpectRefused(Part("Content-Disposition: attachment; name=a", "x") + "--b--");
  ExpectRefused(Part("Content-Disposition: form-data", "x") + "--b--");
  ExpectRefused(Part("Content-Disposition: form-data; name=\"\"", "x") + "--b--");
  ExpectRefused(Part("Content-Disposition: form-data; name=\"a", "x") + "--b--");
  ExpectRefused(Part("Content-Disposition: form-data; name=a; name=b", "x") + "--b--");
  ExpectRefused(Part("Content-Disposition: form-data; name=a\r\n folded", "x") + "--b--");
  ExpectRefused(
      Part("Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b",
           "x") +
      "--b--");
  ExpectRefused(
      Part("Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64", "x") +
      "--b--");
  ExpectRefused(Field("a", "x") + "--b--\r\nsmuggled");
}

TEST(Multipart, RefusesAMissingEndAtEveryCut) {
  const std::string whole = Field("image", "0123456789") + Field("prompt", "cup") + "--b--";
  for (size_t cut = 0; cut < whole.size(); ++cut) ExpectRefused(whole.substr(0, cut));
  EXPECT_TRUE(ParseMultipart(whole, "b").ok());
}

TEST(Multipart, RefusesBoundariesThatAreNone) {
  const std::string body = Field("a", "x") + "--b--";
  ExpectRefused(body, "");
  ExpectRefused(body, "c");
  ExpectRefused(body, std::string(71, 'b'));
  ExpectRefused(body, "b\r\n");
  ExpectRefused("--b \r\n", "b ");
}

TEST(Multipart, BoundsPartsAndHeaders) {
  std::string body;
  for (int i = 0; i < 32; ++i) body += Field(absl::StrCat("f", i), "x");
  EXPECT_TRUE(ParseMultipart(body + "--b--", "b").ok());
  for (int i = 0; i < 10'000; ++i) body += Field(absl::StrCat("g", i), "x");
  const auto refused = ParseMultipart(body + "--b--", "b");
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("32"));
  ExpectRefused(Part("Content-Disposition: form-data; name=a\r\nX: " + std::string(5000, 'x'), "") +
                "--b--");
}

TEST(Multipart, NeverShowsBytesOfTheBody) {
  const auto refused = ParseMultipart(Part("Content-Disposition: sekrit", "sekrit") + "--b--", "b");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().message().find("sekrit"), absl::string_view::npos);
}

TEST(ContentTypeValue, TellsTypeBoundaryAndCharset) {
  EXPECT_EQ(ParseContentType("Multipart/Form-Data; boundary=\"a b\"").type, "multipart/form-data");
  EXPECT_EQ(ParseContentType("multipart/form-data; boundary=\"a b\"").boundary, "a b");
  EXPECT_EQ(ParseContentType("multipart/form-data; BOUNDARY=----WebKitFormBoundary7MA4").boundary,
            "----WebKitFormBoundary7MA4");
  EXPECT_EQ(ParseContentType("application/json; charset=UTF-8").charset, "utf-8");
  EXPECT_EQ(ParseContentType("application/json;").type, "application/json");
  for (absl::string_view bad : {"", "text", "text/", "/x", "a/b; boundary", "a/b; x=1; x=2",
                                "a/b; x=\"1", "a/b c", "a/b; =1"}) {
    EXPECT_EQ(ParseContentType(bad).type, "") << bad;
  }
}

}  // namespace
}  // namespace chord::http
