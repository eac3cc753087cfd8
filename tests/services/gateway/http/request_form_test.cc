#include "services/gateway/http/request_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

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
  for (const char* value : {"-1", "1.5", "1e3", "\"x\"", "true", "9223372036854775808"}) {
    EXPECT_EQ(
        Refusal(Json(absl::StrCat(
            R"({"image": "data:;base64,AAAA", "prompt": "x", "max_new_tokens": )", value, "}"))),
        "PARAMETER_INVALID")
        << value;
  }
}

TEST(GroundForm, NeverTakesAUrlForAnImage) {
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
  EXPECT_THAT(form->items[1].form.status(), HasReason(Reason::kImageUrlRefused));
  EXPECT_EQ(form->items[2].form->prompt, "three");
}

TEST(BatchForm, RefusesBodiesThatAreNoList) {
  for (const char* body :
       {"{}", "[]", R"({"requests": {}})", R"({"requests": [1]})", R"({"requests": [[]]})",
        R"({"requests": [{"image": {}}]})", R"({"requests": [], "requests": []})",
        R"({"requests": [{"prompt": "x", "prompt": "y"}]})", R"({"requests": [{}])"}) {
    EXPECT_EQ(BatchRefusal(Json(body)), "BODY_MALFORMED") << body;
  }
  EXPECT_EQ(BatchRefusal(Json(R"({"requests": []})")), "BATCH_EMPTY");
  EXPECT_EQ(BatchRefusal(Json(R"({"requests": [{}, {}, {}, {}]})")), "BATCH_TOO_LONG");
  EXPECT_EQ(BatchRefusal(Json(R"({"requests": [{}], "else": 1})")), "FIELD_UNKNOWN");
  const auto long_tag = ParseBatchForm(
      Json(absl::StrCat(R"({"requests": [{"tag": ")", std::string(65, 't'), R"("}]})")), 3);
  ASSERT_TRUE(long_tag.ok());
  EXPECT_THAT(long_tag->items[0].form.status(), HasReason(Reason::kParameterInvalid));
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
  const http::Request one_prompt = Form({{"image", "A"}, {"image", "B"}, {"prompt", "one"}});
  form = ParseBatchForm(one_prompt, 3);
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

TEST(UploadForm, TakesAnImageAndAPin) {
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

std::string Detail(const http::Request& request) {
  return std::string(ParseGroundForm(request).status().message());
}

TEST(GroundForm, TakesBase64AsBrowsersDo) {
  for (const char* base64 : {"AP8=", "AP8", "AP\\r\\n8=", " A P 8 = "}) {
    const http::Request request =
        Json(absl::StrCat(R"({"prompt": "x", "image": "data:;base64,)", base64, "\"}"));
    const auto form = ParseGroundForm(request);
    ASSERT_TRUE(form.ok()) << base64 << form.status();
    EXPECT_EQ(form->file(), "\0\xFF"s);
  }
  EXPECT_EQ(Refusal(Json(R"({"prompt": "x", "image": "data:;base64,A"})")), "PARAMETER_INVALID");
}

TEST(GroundForm, NamesWhatIsWrongInJson) {
  const struct {
    std::string body;
    const char* named;
  } cases[] = {
      {R"({"prompt": "\ud800"})", "surrogate"},
      {R"({"prompt": "\udc00x"})", "surrogate"},
      {"{\"prompt\": \"a\0b\"}"s, "NUL"},
      {"{\"a\":" + std::string(100'000, '['), "nested"},
      {R"({"prompt": "x", "prompt": "y"})", "\"prompt\""},
      {R"({"prompt": "x",})", "at byte"},
      {R"({"image": {"url": "x"}})", "\"image\""},
      {R"({"image": "data:;base64,AA==", "prompt": "x", "colour": 1})", "\"colour\""},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(Detail(Json(c.body)), ::testing::HasSubstr(c.named)) << c.body.substr(0, 40);
  }
  EXPECT_THAT(Detail(Form({{"image", "x"}, {"prompt", "x"}, {"colour", "x"}})),
              ::testing::HasSubstr("\"colour\""));
}

TEST(GroundForm, NullIsAbsent) {
  const http::Request request = Json(R"({"image": "data:;base64,AP8=", "prompt": "x",
      "max_new_tokens": null, "session_id": null, "grammar": null, "stream": null,
      "image_id": null})");
  const auto form = ParseGroundForm(request);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->max_new_tokens, std::nullopt);
  EXPECT_TRUE(form->grammar);
  EXPECT_FALSE(form->stream);
  EXPECT_EQ(Refusal(Json(R"({"image": null, "prompt": "x"})")), "IMAGE_MISSING");
  EXPECT_EQ(Refusal(Json(R"({"image": "data:;base64,AA==", "prompt": null})")), "PROMPT_MISSING");
}

TEST(GroundForm, NamesTheParameterOfTheContentType) {
  const std::pair<const char*, const char*> cases[] = {
      {"multipart/form-data; boundary", "boundary"},
      {"multipart/form-data; boundary=\"b", "boundary"},
      {"multipart/form-data; boundary=b; boundary=b", "boundary"},
      {"application/json; charset=latin1", "charset"},
      {"application/json; charset=", "charset"},
      {"application/x-www-form-urlencoded; charset=gbk", "charset"},
  };
  for (const auto& [type, parameter] : cases) {
    const http::Request request = Request(type, "{}");
    EXPECT_EQ(Refusal(request), "CONTENT_TYPE_UNSUPPORTED") << type;
    EXPECT_THAT(Detail(request), ::testing::HasSubstr(absl::StrCat("\"", parameter, "\""))) << type;
  }
  EXPECT_EQ(Refusal(Request("application/json; charset=\"UTF-8\"", "{}")), "IMAGE_MISSING");
  // Without a boundary the body cannot be split.
  EXPECT_EQ(Refusal(Request("multipart/form-data", "{}")), "BODY_MALFORMED");
  EXPECT_THAT(Detail(Request("multipart/form-data", "{}")), ::testing::HasSubstr("boundary"));
}

TEST(GroundForm, TakesAnUrlencodedFollowUpRequest) {
  const std::string type = "application/x-www-form-urlencoded";
  const std::string id = "img_0123456789abcdef0123456789abcdef";
  const auto form = ParseGroundForm(Request(
      absl::StrCat(type, "; charset=UTF-8"),
      absl::StrCat("image_id=", id, "&prompt=the+red%20cup%21+%E8%8A%B1&stream=true&session_id=")));
  EXPECT_THAT(form.status(), HasReason(Reason::kParameterInvalid)) << "an empty session_id";
  const auto good = ParseGroundForm(Request(
      type, absl::StrCat("image_id=", id, "&prompt=the+red%20cup%21+%E8%8A%B1&stream=true&")));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->image_id, id);
  EXPECT_EQ(good->prompt, "the red cup! 花");
  EXPECT_TRUE(good->stream);
  EXPECT_EQ(Refusal(Request(type, "prompt=x")), "IMAGE_MISSING");
  EXPECT_EQ(Refusal(Request(type, absl::StrCat("image_id=", id))), "PROMPT_MISSING");
  EXPECT_EQ(Refusal(Request(type, absl::StrCat("image_id=", id, "&prompt=x&prompt=y"))),
            "BODY_MALFORMED");
  EXPECT_EQ(Refusal(Request(type, absl::StrCat("image_id=", id, "&prompt=x&colour=y"))),
            "FIELD_UNKNOWN");
  EXPECT_EQ(Refusal(Request(type, "image=http%3A%2F%2Fh&prompt=x")), "IMAGE_URL_REFUSED");
  std::string many;
  for (int i = 0; i < 100; ++i) absl::StrAppend(&many, "f", i, "=1&");
  EXPECT_EQ(Refusal(Request(type, many)), "BODY_MALFORMED");
}

TEST(GroundForm, AnEmptyImageIdIsAFormError) {
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"image_id", ""}, {"prompt", "x"}})),
            "PARAMETER_INVALID");
  EXPECT_EQ(Refusal(Form({{"image_id", ""}, {"prompt", "x"}})), "PARAMETER_INVALID");
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"image_id", "expired"}, {"prompt", "x"}})),
            "IMAGE_SOURCE_CONFLICT");
}

TEST(BatchForm, ALongFileNameIsCutBetweenCharactersForTheTag) {
  std::string name;
  for (int i = 0; i < 30; ++i) name += "图";  // 90 bytes
  const http::Request request = Request(
      "multipart/form-data; boundary=b",
      absl::StrCat("--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"", name,
                   ".png\"\r\n\r\nA\r\n--b\r\nContent-Disposition: form-data; name=\"image\"; "
                   "filename=\"\xFFx.png\"\r\n\r\nB\r\n--b\r\nContent-Disposition: form-data; "
                   "name=\"prompt\"\r\n\r\nx\r\n--b--\r\n"));
  const auto form = ParseBatchForm(request, 3);
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->items[0].tag, name.substr(0, 63));
  EXPECT_EQ(form->items[1].tag, "\uFFFDx.png");
}

TEST(RequestTimeout, IsANumberOfSeconds) {
  http::Request request;
  ASSERT_TRUE(RequestTimeout(request).ok());
  EXPECT_EQ(*RequestTimeout(request), std::nullopt);
  request.fields.emplace_back("x-request-timeout", "");
  for (const char* bad : {"0", "-1", "nan", "inf", "soon", "1e7", "0.0001", "0x10", "1s"}) {
    request.fields[0].second = bad;
    EXPECT_THAT(RequestTimeout(request).status(), HasReason(Reason::kParameterInvalid)) << bad;
  }
  request.fields[0].second = "2.5";
  EXPECT_EQ(**RequestTimeout(request), absl::Milliseconds(2500));
}

TEST(GroundForm, TakesLabelsInsteadOfAPrompt) {
  const std::vector<std::string> labels = {"cup", "plate"};
  const auto form = ParseGroundForm(Form({{"image", "x"}, {"labels", "cup"}, {"labels", "plate"}}));
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_EQ(form->labels, labels);
  const auto json = ParseGroundForm(
      Json(R"({"labels": ["cup", "plate"], "image": "data:;base64,AP8=", "stream": true})"));
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->labels, labels);
  EXPECT_TRUE(json->stream);
}

TEST(GroundForm, RefusesLabelsThatAreNoListOfTexts) {
  for (const char* value : {"[]", "\"cup\"", "5", "[1]", "[[\"a\"]]", "[\"a\", null]", "[{}]"}) {
    EXPECT_EQ(
        Refusal(Json(absl::StrCat(R"({"image": "data:;base64,AP8=", "labels": )", value, "}"))),
        "PARAMETER_INVALID")
        << value;
  }
  EXPECT_EQ(Refusal(Json(R"({"image": "data:;base64,AP8=", "prompt": "x", "labels": ["a"]})")),
            "PARAMETER_INVALID");
  EXPECT_EQ(Refusal(Form({{"image", "x"}, {"prompt", "x"}, {"labels", "a"}})), "PARAMETER_INVALID");
  std::vector<std::pair<std::string, std::string>> many = {{"image", "x"}};
  for (int i = 0; i < 64; ++i) many.emplace_back("labels", absl::StrCat("l", i));
  EXPECT_TRUE(ParseGroundForm(Form(many)).ok());
  many.emplace_back("labels", "one more");
  EXPECT_EQ(Refusal(Form(many)), "PARAMETER_INVALID");
  std::string list = "\"a\"";
  for (int i = 0; i < 64; ++i) list += ", \"a\"";
  EXPECT_EQ(
      Refusal(Json(absl::StrCat(R"({"image": "data:;base64,AP8=", "labels": [)", list, "]}"))),
      "PARAMETER_INVALID");
}

TEST(BatchForm, TakesLabelsOfEachItemOrOfAll) {
  const auto json = ParseBatchForm(Json(R"({"requests": [{"image_id": "x", "labels": ["a"]},
                            {"image": "data:;base64,AP8=", "labels": ["a", "b"]}]})"),
                                   8);
  ASSERT_TRUE(json.ok()) << json.status();
  ASSERT_TRUE(json->items[1].form.ok()) << json->items[1].form.status();
  EXPECT_EQ(json->items[1].form->labels.size(), 2u);
  const auto form =
      ParseBatchForm(Form({{"image", "x"}, {"image", "y"}, {"labels", "a"}, {"labels", "b"}}), 8);
  ASSERT_TRUE(form.ok()) << form.status();
  ASSERT_EQ(form->items.size(), 2u);
  for (const auto& item : form->items) {
    ASSERT_TRUE(item.form.ok());
    EXPECT_EQ(item.form->labels.size(), 2u);
  }
  const auto both = ParseBatchForm(Form({{"image", "x"}, {"prompt", "p"}, {"labels", "a"}}), 8);
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_THAT(both->items[0].form.status(), HasReason(Reason::kParameterInvalid));
}

}  // namespace
}  // namespace chord::gateway
