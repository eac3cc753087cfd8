#include "services/gateway/http/request_form.h"

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
  EXPECT_GE(form->image.data(), request.body.data()) << "the image is not copied";
  EXPECT_LE(form->image.data() + form->image.size(), request.body.data() + request.body.size());
}

TEST(GroundForm, TakesAFlatJsonObjectWithADataUrl) {
  const http::Request request =
      Json(R"({"image": "data:image/png;base64,AP8=", "prompt": "花\u74f6", "max_new_tokens": 3})");
  const auto form = ParseGroundForm(request);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->file(), "\0\xFF"s);
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
  for (const char* value :
       {"", "-1", "0", "1.5", "1e3", "nan", "inf", "9223372036854775808", "1 2"}) {
    EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"max_new_tokens", value}})),
              "PARAMETER_INVALID")
        << value;
  }
  for (const char* value : {"-1", "1.5", "1e3", "\"x\"", "true", "null", "9223372036854775808"}) {
    EXPECT_EQ(
        Refusal(Json(absl::StrCat(
            R"({"image": "data:;base64,AAAA", "prompt": "x", "max_new_tokens": )", value, "}"))),
        "PARAMETER_INVALID")
        << value;
  }
}

TEST(GroundForm, NeverTakesAnAddressForAImage) {
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
  for (const char* body :
       {"", "{", "[]", "1", R"({"image": {"url": "x"}})", R"({"a": [1]})", "{} x"}) {
    EXPECT_EQ(Refusal(Json(body)), "BODY_MALFORMED") << body;
  }
  EXPECT_EQ(Refusal(Json("{\"prompt\": \"\xFF\"}")), "PROMPT_NOT_UTF8");
  EXPECT_EQ(Refusal(Json("--b\r\n\xFF\xD8\xFF")), "BODY_MALFORMED") << "no JSON at all";
  EXPECT_EQ(Refusal(Json("{\"image\": \"data:;base64,AA==\", \"prompt\": \"x\"}\0tail"s)),
            "BODY_MALFORMED");
  EXPECT_EQ(Refusal(Json(std::string(100'000, '['))), "BODY_MALFORMED") << "depth costs no stack";
}

TEST(GroundForm, TakesAKeptImageAConversationAndSwitches) {
  const std::string id = "img_0123456789abcdef0123456789abcdef";
  for (const http::Request& request :
       {Form({{"image_id", id},
              {"prompt", "x"},
              {"session_id", "s-1"},
              {"grammar", "off"},
              {"stream", "true"}}),
        Json(absl::StrCat(R"({"image_id": ")", id, R"(", "prompt": "x", "session_id": "s-1",
                           "grammar": "off", "stream": true})"))}) {
    const auto form = ParseGroundForm(request);
    ASSERT_TRUE(form.ok()) << form.status();
    EXPECT_EQ(form->image_id, id);
    EXPECT_EQ(form->session_id, "s-1");
    EXPECT_FALSE(form->grammar);
    EXPECT_TRUE(form->stream);
  }
  const auto plain = ParseGroundForm(Form({{"image", "x"}, {"prompt", "x"}}));
  EXPECT_TRUE(plain->grammar);
  EXPECT_FALSE(plain->stream);
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"image_id", id}, {"prompt", "x"}})),
            "IMAGE_SOURCE_CONFLICT");
  EXPECT_EQ(Refusal(Form({{"image_id", "no such form"}, {"prompt", "x"}})), "IMAGE_ID_UNKNOWN");
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"session_id", "a b"}})),
            "PARAMETER_INVALID");
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"stream", "1"}})), "PARAMETER_INVALID");
  EXPECT_EQ(Refusal(Json(R"({"image": "data:;base64,AAAA", "prompt": "x", "session_id": 1})")),
            "PARAMETER_INVALID");
}

std::string BatchRefusal(const http::Request& request) {
  const auto form = ParseBatchForm(request, 3);
  return form.ok() ? "" : ErrorReason(form.status());
}

TEST(BatchForm, TakesAListOfRequestsEachWithItsOwnStatus) {
  const http::Request request = Json(R"({"stream": true, "requests": [
      {"tag": "a", "image": "data:;base64,AP8=", "prompt": "one", "max_new_tokens": 5},
      {"image": "http://h/x.png", "prompt": "two"},
      {"tag": "c", "image_id": "img_0123456789abcdef0123456789abcdef", "prompt": "three"}]})");
  const auto form = ParseBatchForm(request, 3);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_TRUE(form->stream);
  ASSERT_EQ(form->items.size(), 3u);
  EXPECT_EQ(form->items[0].tag, "a");
  EXPECT_EQ(form->items[0].form->file(), "\0\xFF"s);
  EXPECT_EQ(form->items[0].form->max_new_tokens, 5);
  EXPECT_EQ(ErrorReason(form->items[1].form.status()), "IMAGE_URL_REFUSED");
  EXPECT_EQ(form->items[2].form->prompt, "three");
}

TEST(BatchForm, RefusesBodiesThatAreNoList) {
  for (const char* body :
       {"{}", "[]", R"({"requests": {}})", R"({"requests": [1]})", R"({"requests": [[]]})",
        R"({"requests": [{"image": {}}]})", R"({"requests": [], "requests": []})",
        R"({"requests": [{"prompt": "x", "prompt": "y"}]})", R"({"requests": [{}])"}) {
    EXPECT_EQ(BatchRefusal(Json(body)), "BODY_MALFORMED") << body;
  }
  EXPECT_EQ(BatchRefusal(Json(R"({"requests": []})")), "BATCH_TOO_LONG");
  EXPECT_EQ(BatchRefusal(Json(R"({"requests": [{}, {}, {}, {}]})")), "BATCH_TOO_LONG");
  EXPECT_EQ(BatchRefusal(Json(R"({"requests": [{}], "else": 1})")), "FIELD_UNKNOWN");
  const auto long_tag = ParseBatchForm(
      Json(absl::StrCat(R"({"requests": [{"tag": ")", std::string(65, 't'), R"("}]})")), 3);
  ASSERT_TRUE(long_tag.ok());
  EXPECT_EQ(ErrorReason(long_tag->items[0].form.status()), "PARAMETER_INVALID");
}

TEST(BatchForm, PairsImagesAndRequestsOfAMultipartForm) {
  const http::Request pairs = Form(
      {{"image", "A"}, {"prompt", "one"}, {"image", "B"}, {"prompt", "two"}, {"grammar", "off"}});
  auto form = ParseBatchForm(pairs, 3);
  ASSERT_TRUE(form.ok()) << form.status();
  ASSERT_EQ(form->items.size(), 2u);
  EXPECT_EQ(form->items[1].form->file(), "B");
  EXPECT_EQ(form->items[1].form->prompt, "two");
  EXPECT_FALSE(form->items[0].form->grammar);
  const http::Request one_question = Form({{"image", "A"}, {"image", "B"}, {"prompt", "one"}});
  form = ParseBatchForm(one_question, 3);
  ASSERT_TRUE(form.ok());
  EXPECT_EQ(form->items[1].form->prompt, "one");
  EXPECT_TRUE(form->one_image.empty());
  const http::Request one_image = Form({{"image", "A"}, {"prompt", "one"}, {"prompt", "two"}});
  form = ParseBatchForm(one_image, 3);
  ASSERT_TRUE(form.ok());
  EXPECT_EQ(form->one_image, "A");
  EXPECT_EQ(form->items.size(), 2u);
  EXPECT_EQ(
      BatchRefusal(Form(
          {{"image", "A"}, {"image", "B"}, {"prompt", "1"}, {"prompt", "2"}, {"prompt", "3"}})),
      "BODY_MALFORMED");
  EXPECT_EQ(
      BatchRefusal(Form(
          {{"image", "A"}, {"prompt", "1"}, {"prompt", "2"}, {"prompt", "3"}, {"prompt", "4"}})),
      "BATCH_TOO_LONG");
  EXPECT_EQ(BatchRefusal(Form({{"prompt", "1"}})), "IMAGE_MISSING");
  EXPECT_EQ(BatchRefusal(Form({{"image", "1"}})), "PROMPT_MISSING");
}

TEST(UploadForm, TakesAImageAndAPin) {
  const http::Request form = Form({{"image", "A"}, {"pin", "true"}});
  const auto parsed = ParseUploadForm(form);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->file(), "A");
  EXPECT_TRUE(parsed->pin);
  const auto json = ParseUploadForm(Json(R"({"image": "data:;base64,AP8="})"));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->file(), "\0\xFF"s);
  EXPECT_FALSE(json->pin);
  for (const auto& [request, reason] : std::vector<std::pair<http::Request, std::string>>{
           {Form({{"pin", "true"}}), "IMAGE_MISSING"},
           {Form({{"image", "A"}, {"pin", "yes"}}), "PARAMETER_INVALID"},
           {Form({{"image", "A"}, {"prompt", "x"}}), "FIELD_UNKNOWN"},
           {Json(R"({"image": "data:;base64,AP8=", "pin": 1})"), "PARAMETER_INVALID"},
           {Json("[]"), "BODY_MALFORMED"}}) {
    EXPECT_EQ(ErrorReason(ParseUploadForm(request).status()), reason);
  }
}

TEST(DecodeBase64, IsStrict) {
  const std::pair<std::string, std::string> good[] = {
      {"", ""}, {"AA==", "\0"s}, {"AAA=", "\0\0"s}, {"/+8A", "\xFF\xEF\0"s}, {"TWFu", "Man"}};
  for (auto [text, bytes] : good) {
    EXPECT_TRUE(DecodeBase64(text));
    EXPECT_EQ(text, bytes);
  }
  for (std::string bad : {"A", "AA", "AAA", "A===", "====", "AB==", "AAB=", "AA=A", "TW Fu",
                          "TWF\n", "TW-_", "AA==AAAA"}) {
    EXPECT_FALSE(DecodeBase64(bad)) << bad;
  }
}

TEST(RequestTimeout, IsANumberOfSeconds) {
  http::Request request;
  ASSERT_TRUE(RequestTimeout(request).ok());
  EXPECT_EQ(*RequestTimeout(request), std::nullopt);
  request.fields.emplace_back("x-request-timeout", "");
  for (const char* bad : {"0", "-1", "nan", "inf", "soon", "1e7", "0.0001", "0x10", "1s"}) {
    request.fields[0].second = bad;
    EXPECT_EQ(ErrorReason(RequestTimeout(request).status()), "PARAMETER_INVALID") << bad;
  }
  request.fields[0].second = "2.5";
  EXPECT_EQ(**RequestTimeout(request), absl::Milliseconds(2500));
}

}  // namespace
}  // namespace chord::gateway
