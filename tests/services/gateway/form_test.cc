#include "services/gateway/form.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::gateway {
namespace {

using std::string_literals::operator""s;

http::Request Request(std::string type, std::string body) {
  http::Request request;
  request.fields.emplace_back("content-type", std::move(type));
  request.body = std::move(body);
  return request;
}
http::Request Form(const std::vector<std::pair<std::string, std::string>>& parts) {
  std::string body;
  for (const auto& [name, value] : parts) {
    absl::StrAppend(&body, "--b\r\nContent-Disposition: form-data; name=\"", name, "\"\r\n\r\n",
                    value, "\r\n");
  }
  return Request("multipart/form-data; boundary=b", absl::StrCat(body, "--b--\r\n"));
}
http::Request Json(std::string body) { return Request("application/json", std::move(body)); }
std::string Refusal(const http::Request& request) {
  return ErrorReason(ParseGroundForm(request).status());
}

TEST(GroundForm, TakesAMultipartForm) {
  const http::Request request =
      Form({{"prompt", "the vase"}, {"image", "\x89PNG\0\r\n--"s}, {"max_new_tokens", "12"}});
  const auto form = ParseGroundForm(request);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->image, "\x89PNG\0\r\n--"s);
  EXPECT_EQ(form->prompt, "the vase");
  EXPECT_EQ(form->max_new_tokens, 12);
  EXPECT_GE(form->image.data(), request.body.data()) << "the picture is not copied";
  EXPECT_LE(form->image.data() + form->image.size(), request.body.data() + request.body.size());
}

TEST(GroundForm, TakesAFlatJsonObjectWithADataUrl) {
  const http::Request request = Json(
      R"({"image": "data:image/png;base64,AP8=", "prompt": "花\u74f6", "max_new_tokens": 3})");
  const auto form = ParseGroundForm(request);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->image, "\0\xFF"s);
  EXPECT_EQ(form->prompt, "花瓶");
  EXPECT_EQ(form->max_new_tokens, 3);
}

TEST(GroundForm, SaysWhichPartIsMissingTwiceOrUnknown) {
  EXPECT_EQ(Refusal(Form({{"prompt", "x"}})), "IMAGE_MISSING");
  EXPECT_EQ(Refusal(Form({{"image", "x"}})), "PROMPT_MISSING");
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"colour", "x"}})), "FIELD_UNKNOWN");
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"prompt", "y"}})), "BODY_MALFORMED");
  EXPECT_EQ(Refusal(Json("{}")), "IMAGE_MISSING");
  EXPECT_EQ(Refusal(Json(R"({"image": "data:;base64,"})")), "PROMPT_MISSING");
  EXPECT_EQ(Refusal(Json(R"({"prompt": "x", "prompt": "y"})")), "BODY_MALFORMED");
}

TEST(GroundForm, RefusesNumbersItCannotMean) {
  for (const char* value : {"", "-1", "0", "1.5", "1e3", "nan", "inf", "9223372036854775808", "1 2"}) {
    EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"max_new_tokens", value}})),
              "PARAMETER_INVALID")
        << value;
  }
  for (const char* value : {"-1", "1.5", "1e3", "\"x\"", "true", "null", "9223372036854775808"}) {
    EXPECT_EQ(Refusal(Json(absl::StrCat(
                  R"({"image": "data:;base64,AAAA", "prompt": "x", "max_new_tokens": )", value, "}"))),
              "PARAMETER_INVALID")
        << value;
  }
}

TEST(GroundForm, NeverTakesAnAddressForAPicture) {
  for (const char* url : {"http://h/x.png", "HTTPS://h/x.png", "file:///etc/passwd"}) {
    EXPECT_EQ(Refusal(Json(absl::StrCat(R"({"prompt": "x", "image": ")", url, "\"}"))),
              "IMAGE_URL_REFUSED")
        << url;
    EXPECT_EQ(Refusal(Form({{"prompt", "x"}, {"image", url}})), "IMAGE_URL_REFUSED") << url;
  }
}

TEST(GroundForm, RefusesOtherBodies) {
  EXPECT_EQ(Refusal(Request("text/plain", "x")), "CONTENT_TYPE_UNSUPPORTED");
  EXPECT_EQ(Refusal(Request("", "x")), "CONTENT_TYPE_UNSUPPORTED");
  http::Request zipped = Json("{}");
  zipped.fields.emplace_back("content-encoding", "gzip");
  EXPECT_EQ(Refusal(zipped), "CONTENT_TYPE_UNSUPPORTED");
  for (const char* body : {"", "{", "[]", "1", R"({"image": {"url": "x"}})", R"({"a": [1]})", "{} x"}) {
    EXPECT_EQ(Refusal(Json(body)), "BODY_MALFORMED") << body;
  }
  EXPECT_EQ(Refusal(Json("{\"prompt\": \"\xFF\"}")), "PROMPT_NOT_UTF8");
  EXPECT_EQ(Refusal(Json(std::string(100'000, '['))), "BODY_MALFORMED") << "depth costs no stack";
}

TEST(DecodeBase64, IsStrict) {
  const std::pair<std::string, std::string> good[] = {
      {"", ""}, {"AA==", "\0"s}, {"AAA=", "\0\0"s}, {"/+8A", "\xFF\xEF\0"s}, {"TWFu", "Man"}};
  for (auto [text, bytes] : good) {
    EXPECT_TRUE(DecodeBase64(text));
    EXPECT_EQ(text, bytes);
  }
  for (std::string bad : {"A", "AA", "AAA", "A===", "====", "AB==", "AAB=", "AA=A", "TW Fu", "TWF\n",
                          "TW-_", "AA==AAAA"}) {
    EXPECT_FALSE(DecodeBase64(bad)) << bad;
  }
}

TEST(RequestTimeout, IsANumberOfSeconds) {
  http::Request request;
  ASSERT_TRUE(RequestTimeout(request).ok());
  EXPECT_EQ(*RequestTimeout(request), std::nullopt);
  request.fields.emplace_back("x-request-timeout", "");
  for (const char* bad : {"0", "-1", "nan", "inf", "soon", "1e7", "0.0001"}) {
    request.fields[0].second = bad;
    EXPECT_EQ(ErrorReason(RequestTimeout(request).status()), "PARAMETER_INVALID") << bad;
  }
  request.fields[0].second = "2.5";
  EXPECT_EQ(**RequestTimeout(request), absl::Milliseconds(2500));
}

}  // namespace
}  // namespace chord::gateway
