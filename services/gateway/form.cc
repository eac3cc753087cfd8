#include "services/gateway/form.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/http/multipart.h"
#include "services/gateway/prompt.h"

namespace chord::gateway {
namespace {

constexpr absl::string_view kTokensRange = "an integer from 1 to 4096";

bool IsAddress(absl::string_view text) {
  for (absl::string_view scheme : {"http://", "https://", "ftp://", "file://"}) {
    if (absl::StartsWithIgnoreCase(text, scheme)) return true;
  }
  return false;
}

// Decimal digits alone: no sign, no blank, no fraction, no base.
absl::StatusOr<int> ParseTokens(absl::string_view text) {
  int value = 0;
  const bool digits = !text.empty() && text.size() <= 9 &&
                      std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &value) || value < 1 ||
      value > limits::kCeilingNewTokens) {
    return errors::ParameterInvalid("max_new_tokens", kTokensRange);
  }
  return value;
}

// The fields other than the picture, however they came.
absl::Status SetField(absl::string_view name, absl::string_view value, GroundForm& form) {
  if (name == "prompt") {
    if (value.empty()) return errors::PromptEmpty();
    form.prompt = std::string(value);
    return absl::OkStatus();
  }
  if (name == "max_new_tokens") {
    CHORD_ASSIGN_OR_RETURN(form.max_new_tokens, ParseTokens(value));
    return absl::OkStatus();
  }
  if (name == "grammar") {
    if (value == "auto" || value == "off") return absl::OkStatus();
    return errors::ParameterInvalid("grammar", "\"auto\" or \"off\"");
  }
  if (name == "stream") {
    if (value == "false") return absl::OkStatus();
    if (value == "true") return errors::NotImplementedYet("streaming over HTTP");
    return errors::ParameterInvalid("stream", "\"true\" or \"false\"");
  }
  if (name == "image_id") return errors::NotImplementedYet("image_id");
  if (name == "session_id") return errors::NotImplementedYet("session_id");
  return errors::FieldUnknown();
}

// data:[<type>][;parameter]*;base64,<bytes>. The type is not looked at: a picture tells by its
// bytes what it is.
absl::Status DecodeDataUrl(std::string url, GroundForm& form) {
  if (IsAddress(url)) return errors::ImageUrlRefused();
  const absl::Status bad =
      errors::ParameterInvalid("image", "a data: URL with base64, as data:image/png;base64,…");
  if (!absl::StartsWithIgnoreCase(url, "data:")) return bad;
  const size_t comma = url.find(',');
  if (comma == std::string::npos || comma > 256) return bad;
  if (!absl::EndsWithIgnoreCase(absl::string_view(url).substr(0, comma), ";base64")) return bad;
  url.erase(0, comma + 1);
  if (!DecodeBase64(url)) return bad;
  form.decoded = std::move(url);
  form.image = form.decoded;
  return absl::OkStatus();
}

// A flat object of texts, numbers and booleans: anything deeper ends the parse before it costs
// memory.
class FlatObject final : public nlohmann::json_sax<nlohmann::json> {
 public:
  struct Member {
    std::string key;
    std::string text;  // a number or boolean as it was written
    enum class Kind { kText, kInteger, kBool, kOther } kind = Kind::kOther;
  };
  std::vector<Member> members;

  bool null() override { return Add(Member::Kind::kOther, ""); }
  bool boolean(bool value) override { return Add(Member::Kind::kBool, value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override {
    return Add(Member::Kind::kInteger, std::to_string(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    return Add(Member::Kind::kInteger, std::to_string(value));
  }
  bool number_float(number_float_t, const string_t&) override {
    return Add(Member::Kind::kOther, "");
  }
  bool string(string_t& value) override { return Add(Member::Kind::kText, std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return !std::exchange(open_, true); }
  bool key(string_t& value) override {
    if (members.size() >= 32) return false;
    members.emplace_back();
    members.back().key = std::move(value);
    return true;
  }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return false; }
  bool end_array() override { return false; }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  bool Add(Member::Kind kind, std::string text) {
    if (!open_) return false;
    members.back().kind = kind;
    members.back().text = std::move(text);
    return true;
  }
  bool open_ = false;
};

absl::StatusOr<GroundForm> ParseJson(const std::string& body) {
  const absl::Status malformed = errors::BodyMalformed(
      "one flat JSON object, as {\"image\": \"data:…;base64,…\", "
      "\"prompt\": \"…\"}");
  // The parser checks UTF-8 as it goes; only then its complaint would not tell what is wrong.
  if (!IsUtf8(body)) return errors::PromptNotUtf8();
  FlatObject object;
  bool ok = false;
  try {
    ok = nlohmann::json::sax_parse(body, &object);
  } catch (const nlohmann::json::exception&) {
  }
  if (!ok) return malformed;
  using Kind = FlatObject::Member::Kind;
  GroundForm form;
  std::vector<absl::string_view> seen;
  bool has_image = false, has_prompt = false;
  for (FlatObject::Member& member : object.members) {
    if (std::find(seen.begin(), seen.end(), member.key) != seen.end()) return malformed;
    seen.push_back(member.key);
    if (member.key == "image") {
      if (member.kind != Kind::kText) {
        return errors::ParameterInvalid("image", "a data: URL with base64");
      }
      has_image = true;
      CHORD_RETURN_IF_ERROR(DecodeDataUrl(std::move(member.text), form));
      continue;
    }
    const Kind wanted = member.key == "max_new_tokens" ? Kind::kInteger
                        : member.key == "stream"       ? Kind::kBool
                                                       : Kind::kText;
    if (member.kind != wanted) {
      if (member.key == "max_new_tokens") {
        return errors::ParameterInvalid("max_new_tokens", kTokensRange);
      }
      if (member.key == "stream") return errors::ParameterInvalid("stream", "true or false");
      if (member.key == "prompt") return errors::ParameterInvalid("prompt", "text");
      if (member.key == "grammar") {
        return errors::ParameterInvalid("grammar", "\"auto\" or \"off\"");
      }
    }
    has_prompt |= member.key == "prompt";
    CHORD_RETURN_IF_ERROR(SetField(member.key, member.text, form));
  }
  if (!has_image) return errors::ImageMissing();
  if (!has_prompt) return errors::PromptMissing();
  return form;
}

absl::StatusOr<GroundForm> ParseMultipartForm(absl::string_view body, absl::string_view boundary) {
  CHORD_ASSIGN_OR_RETURN(const auto parts, http::ParseMultipart(body, boundary));
  GroundForm form;
  std::vector<absl::string_view> seen;
  bool has_image = false, has_prompt = false;
  for (const http::FormPart& part : parts) {
    if (std::find(seen.begin(), seen.end(), part.name) != seen.end()) {
      return errors::BodyMalformed("multipart/form-data in which every field comes once");
    }
    seen.push_back(part.name);
    if (part.name == "image") {
      has_image = true;
      // No picture begins like this; a text that does is told what it may be.
      if (IsAddress(part.body)) return errors::ImageUrlRefused();
      if (absl::StartsWithIgnoreCase(part.body, "data:")) {
        CHORD_RETURN_IF_ERROR(DecodeDataUrl(std::string(part.body), form));
      } else {
        form.image = part.body;
      }
      continue;
    }
    has_prompt |= part.name == "prompt";
    CHORD_RETURN_IF_ERROR(SetField(part.name, part.body, form));
  }
  if (!has_image) return errors::ImageMissing();
  if (!has_prompt) return errors::PromptMissing();
  return form;
}

}  // namespace

bool DecodeBase64(std::string& text) {
  static const std::array<int8_t, 256> kValues = [] {
    std::array<int8_t, 256> values;
    values.fill(-1);
    constexpr absl::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < kAlphabet.size(); ++i) {
      values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int8_t>(i);
    }
    return values;
  }();
  if (text.size() % 4 != 0) return false;
  size_t end = text.size();
  while (end > 0 && text.size() - end < 2 && text[end - 1] == '=') --end;
  uint32_t bits = 0;
  int held = 0;
  size_t out = 0;  // never ahead of what is read
  for (size_t i = 0; i < end; ++i) {
    const int value = kValues[static_cast<unsigned char>(text[i])];
    if (value < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    held += 6;
    if (held >= 8) {
      held -= 8;
      text[out++] = static_cast<char>(bits >> held & 0xFF);
    }
  }
  if ((bits & ((1u << held) - 1)) != 0) return false;
  text.resize(out);
  return true;
}

absl::StatusOr<GroundForm> ParseGroundForm(const http::Request& request) {
  const http::ContentType type = http::ParseContentType(request.field("content-type"));
  const absl::string_view coding = request.field("content-encoding");
  if (!coding.empty() && !absl::EqualsIgnoreCase(coding, "identity")) {
    return errors::ContentTypeUnsupported("the body without a Content-Encoding");
  }
  if (type.type == "multipart/form-data") return ParseMultipartForm(request.body, type.boundary);
  if (type.type == "application/json" && (type.charset.empty() || type.charset == "utf-8")) {
    return ParseJson(request.body);
  }
  return errors::ContentTypeUnsupported(
      "multipart/form-data with the fields image and prompt, or application/json");
}

absl::StatusOr<std::optional<absl::Duration>> RequestTimeout(const http::Request& request) {
  const absl::string_view text = request.field("x-request-timeout");
  std::optional<absl::Duration> out;
  if (text.empty()) return out;
  double seconds = 0;
  if (!absl::SimpleAtod(text, &seconds) || !(seconds >= 0.001 && seconds <= 1e6)) {
    return errors::ParameterInvalid("X-Request-Timeout", "a number of seconds from 0.001");
  }
  out = absl::Seconds(seconds);
  return out;
}

}  // namespace chord::gateway
