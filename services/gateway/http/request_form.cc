#include "services/gateway/http/request_form.h"

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
#include "services/gateway/http/multipart.h"
#include "services/gateway/images/image_store.h"
#include "services/gateway/images/session_store.h"
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

absl::Status ParseFlag(absl::string_view name, absl::string_view value, bool& out) {
  out = value == "true";
  if (value == "true" || value == "false") return absl::OkStatus();
  return errors::ParameterInvalid(name, "\"true\" or \"false\"");
}

// The fields other than the image, however they came.
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
    form.grammar = value == "auto";
    if (value == "auto" || value == "off") return absl::OkStatus();
    return errors::ParameterInvalid("grammar", "\"auto\" or \"off\"");
  }
  if (name == "stream") return ParseFlag("stream", value, form.stream);
  if (name == "image_id") {
    if (!IsImageId(value)) return errors::ImageIdUnknown();
    form.image_id = std::string(value);
    return absl::OkStatus();
  }
  if (name == "session_id") {
    if (!IsSessionId(value)) {
      return errors::ParameterInvalid("session_id", "1 to 64 characters of A-Z, a-z, 0-9, _ and -");
    }
    form.session_id = std::string(value);
    return absl::OkStatus();
  }
  return errors::FieldUnknown();
}

// data:[<type>][;parameter]*;base64,<bytes>. The type is not looked at: an image tells by its
// bytes what it is.
absl::Status DecodeDataUrl(std::string url, std::string& out) {
  if (IsAddress(url)) return errors::ImageUrlRefused();
  const absl::Status bad =
      errors::ParameterInvalid("image", "a data: URL with base64, as data:image/png;base64,…");
  if (!absl::StartsWithIgnoreCase(url, "data:")) return bad;
  const size_t comma = url.find(',');
  if (comma == std::string::npos || comma > 256) return bad;
  if (!absl::EndsWithIgnoreCase(absl::string_view(url).substr(0, comma), ";base64")) return bad;
  url.erase(0, comma + 1);
  if (!DecodeBase64(url)) return bad;
  out = std::move(url);
  return absl::OkStatus();
}

struct Member {
  std::string key;
  std::string text;  // a number or boolean as it was written
  enum class Kind { kText, kInteger, kBool, kOther } kind = Kind::kOther;
};
using Members = std::vector<Member>;

// A flat object of texts, numbers and booleans, or, with `list`, one whose member of that name is
// an array of such objects. Anything else ends the parse before it costs memory.
class FlatObjects final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit FlatObjects(absl::string_view list = "", size_t max_items = 0)
      : list_(list), max_items_(max_items) {}
  Members members;             // of the outer object, without the list
  std::vector<Members> items;  // of the list
  bool has_list = false;
  size_t count = 0;  // of the list's objects, also those over the limit

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
  bool start_object(size_t) override {
    if (at_ == At::kStart) {
      at_ = At::kOuter;
      return true;
    }
    if (at_ != At::kList) return false;
    at_ = At::kItem;
    if (++count > max_items_) return false;  // what follows is not worth reading
    items.emplace_back();
    return true;
  }
  bool key(string_t& value) override {
    Members& into = at_ == At::kItem ? items.back() : members;
    if (into.size() >= 32) return false;
    into.emplace_back();
    into.back().key = std::move(value);
    return true;
  }
  bool end_object() override {
    at_ = at_ == At::kItem ? At::kList : At::kEnd;
    return true;
  }
  bool start_array(size_t) override {
    if (at_ != At::kOuter || list_.empty() || has_list || members.back().key != list_) return false;
    members.pop_back();
    has_list = true;
    at_ = At::kList;
    return true;
  }
  bool end_array() override {
    at_ = At::kOuter;
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  enum class At { kStart, kOuter, kList, kItem, kEnd };

  bool Add(Member::Kind kind, std::string text) {
    if (at_ != At::kOuter && at_ != At::kItem) return false;
    Member& member = (at_ == At::kItem ? items.back() : members).back();
    member.kind = kind;
    member.text = std::move(text);
    return true;
  }

  const absl::string_view list_;
  const size_t max_items_;
  At at_ = At::kStart;
};

// The parser takes a NUL for the end of the text and would look at nothing behind it.
bool Parse(const std::string& body, FlatObjects& object) {
  if (absl::StrContains(body, '\0')) return false;
  try {
    return nlohmann::json::sax_parse(body, &object);
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

// Whether a body is meant as an object of JSON in UTF-8: what is not well-formed in it is its text,
// and not that it is something else.
bool LooksLikeJson(absl::string_view body) {
  absl::ConsumePrefix(&body, "\xef\xbb\xbf");
  return absl::StartsWith(absl::StripLeadingAsciiWhitespace(body), "{");
}

bool HasDoubles(const Members& members) {
  for (size_t i = 0; i < members.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (members[i].key == members[j].key) return true;
    }
  }
  return false;
}

// What every prompt needs, once all its fields are in.
absl::Status CheckComplete(bool has_image, bool has_prompt, const GroundForm& form) {
  if (has_image && !form.image_id.empty()) return errors::ImageSourceConflict();
  if (!has_image && form.image_id.empty()) return errors::ImageMissing();
  if (!has_prompt) return errors::PromptMissing();
  return absl::OkStatus();
}

absl::Status ParseImageMember(Member& member, std::string& decoded) {
  if (member.kind != Member::Kind::kText) {
    return errors::ParameterInvalid("image", "a data: URL with base64");
  }
  return DecodeDataUrl(std::move(member.text), decoded);
}

absl::StatusOr<GroundForm> FromMembers(Members& members) {
  using Kind = Member::Kind;
  GroundForm form;
  bool has_image = false, has_prompt = false;
  for (Member& member : members) {
    if (member.key == "image") {
      has_image = true;
      CHORD_RETURN_IF_ERROR(ParseImageMember(member, form.decoded));
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
      if (member.key == "image_id") return errors::ParameterInvalid("image_id", "text");
      if (member.key == "session_id") return errors::ParameterInvalid("session_id", "text");
    }
    has_prompt |= member.key == "prompt";
    CHORD_RETURN_IF_ERROR(SetField(member.key, member.text, form));
  }
  CHORD_RETURN_IF_ERROR(CheckComplete(has_image, has_prompt, form));
  return form;
}

absl::StatusOr<GroundForm> ParseJson(const std::string& body) {
  const absl::Status malformed = errors::BodyMalformed(
      "one flat JSON object, as {\"image\": \"data:…;base64,…\", "
      "\"prompt\": \"…\"}");
  // The parser checks UTF-8 as it goes; only then its complaint would not tell what is wrong.
  if (!IsUtf8(body)) return LooksLikeJson(body) ? errors::PromptNotUtf8() : malformed;
  FlatObjects object;
  if (!Parse(body, object) || HasDoubles(object.members)) return malformed;
  return FromMembers(object.members);
}

absl::StatusOr<BatchForm> ParseJsonBatch(const std::string& body, int max_items) {
  const absl::Status malformed = errors::BodyMalformed(
      "a JSON object, as {\"requests\": [{\"tag\": \"a\", \"image\": \"data:…;base64,…\", "
      "\"prompt\": \"…\"}]}");
  if (!IsUtf8(body)) return LooksLikeJson(body) ? errors::PromptNotUtf8() : malformed;
  FlatObjects object("requests", static_cast<size_t>(max_items));
  const bool ok = Parse(body, object);
  if (object.count > static_cast<size_t>(max_items)) {
    return errors::BatchLimit(static_cast<int64_t>(object.count), max_items);
  }
  if (!ok || !object.has_list) return malformed;
  BatchForm out;
  for (const Member& member : object.members) {
    if (member.key != "stream") return errors::FieldUnknown();
    if (member.kind != Member::Kind::kBool) {
      return errors::ParameterInvalid("stream", "true or false");
    }
    out.stream = member.text == "true";
  }
  for (Members& members : object.items) {
    if (HasDoubles(members)) return malformed;
    BatchForm::Item& item = out.items.emplace_back();
    const auto tag = std::find_if(members.begin(), members.end(),
                                  [](const Member& member) { return member.key == "tag"; });
    bool good_tag = true;
    if (tag != members.end()) {
      good_tag = tag->kind == Member::Kind::kText &&
                 tag->text.size() <= static_cast<size_t>(limits::kMaxTagBytes);
      if (good_tag) item.tag = std::move(tag->text);
      members.erase(tag);
    }
    if (!good_tag) {
      item.form = errors::ParameterInvalid("tag", "text of at most 64 bytes");
      continue;
    }
    item.form = FromMembers(members);
    if (item.form.ok() && item.form->stream) {
      item.form = errors::ParameterInvalid("stream", "a field of the batch, not of one request");
    }
  }
  if (out.items.empty()) return errors::BatchLimit(0, max_items);
  return out;
}

absl::Status SetImage(absl::string_view body, absl::string_view& image, std::string& decoded) {
  // No image begins like this; a text that does is told what it may be.
  if (IsAddress(body)) return errors::ImageUrlRefused();
  if (absl::StartsWithIgnoreCase(body, "data:")) return DecodeDataUrl(std::string(body), decoded);
  image = body;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<http::FormPart>> PartsOnce(absl::string_view body,
                                                      absl::string_view boundary) {
  CHORD_ASSIGN_OR_RETURN(auto parts, http::ParseMultipart(body, boundary));
  std::vector<absl::string_view> seen;
  for (const http::FormPart& part : parts) {
    if (std::find(seen.begin(), seen.end(), part.name) != seen.end()) {
      return errors::BodyMalformed("multipart/form-data in which every field comes once");
    }
    seen.push_back(part.name);
  }
  return parts;
}

absl::StatusOr<GroundForm> ParseMultipartForm(absl::string_view body, absl::string_view boundary) {
  CHORD_ASSIGN_OR_RETURN(const auto parts, PartsOnce(body, boundary));
  GroundForm form;
  bool has_image = false, has_prompt = false;
  for (const http::FormPart& part : parts) {
    if (part.name == "image") {
      has_image = true;
      CHORD_RETURN_IF_ERROR(SetImage(part.body, form.image, form.decoded));
      continue;
    }
    has_prompt |= part.name == "prompt";
    CHORD_RETURN_IF_ERROR(SetField(part.name, part.body, form));
  }
  CHORD_RETURN_IF_ERROR(CheckComplete(has_image, has_prompt, form));
  return form;
}

absl::StatusOr<BatchForm> ParseMultipartBatch(absl::string_view body, absl::string_view boundary,
                                              int max_items) {
  http::MultipartLimits limits;
  limits.max_parts = 2 * static_cast<size_t>(max_items) + 8;
  CHORD_ASSIGN_OR_RETURN(const auto parts, http::ParseMultipart(body, boundary, limits));
  std::vector<const http::FormPart*> subjects, prompts;
  GroundForm common;
  std::vector<absl::string_view> seen;
  for (const http::FormPart& part : parts) {
    if (part.name == "image" || part.name == "image_id") {
      subjects.push_back(&part);
    } else if (part.name == "prompt") {
      prompts.push_back(&part);
    } else {
      if (std::find(seen.begin(), seen.end(), part.name) != seen.end()) {
        return errors::BodyMalformed(
            "multipart/form-data in which only image, image_id and prompt "
            "come more than once");
      }
      seen.push_back(part.name);
      CHORD_RETURN_IF_ERROR(SetField(part.name, part.body, common));
    }
  }
  if (subjects.empty()) return errors::ImageMissing();
  if (prompts.empty()) return errors::PromptMissing();
  const size_t count = std::max(subjects.size(), prompts.size());
  if (count > static_cast<size_t>(max_items)) {
    return errors::BatchLimit(static_cast<int64_t>(count), max_items);
  }
  if (subjects.size() != count && subjects.size() != 1) {
    return errors::BodyMalformed("as many images as prompts, or one of either");
  }
  if (prompts.size() != count && prompts.size() != 1) {
    return errors::BodyMalformed("as many prompts as images, or one of either");
  }
  BatchForm out;
  out.stream = std::exchange(common.stream, false);
  const bool one_image = count > 1 && subjects.size() == 1 && subjects[0]->name == "image";
  if (one_image) {
    if (IsAddress(subjects[0]->body)) return errors::ImageUrlRefused();
    if (absl::StartsWithIgnoreCase(subjects[0]->body, "data:")) {
      return errors::ParameterInvalid("image", "the file itself");
    }
    out.one_image = subjects[0]->body;
  }
  for (size_t i = 0; i < count; ++i) {
    const http::FormPart& subject = *subjects[subjects.size() == 1 ? 0 : i];
    const http::FormPart& prompt = *prompts[prompts.size() == 1 ? 0 : i];
    BatchForm::Item& item = out.items.emplace_back();
    if (!one_image && IsUtf8(subject.filename) &&
        subject.filename.size() <= static_cast<size_t>(limits::kMaxTagBytes)) {
      item.tag = subject.filename;
    }
    const auto make = [&]() -> absl::StatusOr<GroundForm> {
      GroundForm form = common;
      if (subject.name == "image_id") {
        CHORD_RETURN_IF_ERROR(SetField("image_id", subject.body, form));
      } else if (!one_image) {
        CHORD_RETURN_IF_ERROR(SetImage(subject.body, form.image, form.decoded));
      }
      CHORD_RETURN_IF_ERROR(SetField("prompt", prompt.body, form));
      return form;
    };
    item.form = make();
  }
  return out;
}

absl::StatusOr<http::ContentType> CheckContentType(const http::Request& request,
                                                   absl::string_view expected) {
  http::ContentType type = http::ParseContentType(request.field("content-type"));
  const absl::string_view coding = request.field("content-encoding");
  if (!coding.empty() && !absl::EqualsIgnoreCase(coding, "identity")) {
    return errors::ContentTypeUnsupported("the body without a Content-Encoding");
  }
  if (type.type == "multipart/form-data" ||
      (type.type == "application/json" && (type.charset.empty() || type.charset == "utf-8"))) {
    return type;
  }
  return errors::ContentTypeUnsupported(expected);
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
  CHORD_ASSIGN_OR_RETURN(
      const http::ContentType type,
      CheckContentType(
          request, "multipart/form-data with the fields image and prompt, or application/json"));
  return type.type == "application/json" ? ParseJson(request.body)
                                         : ParseMultipartForm(request.body, type.boundary);
}

absl::StatusOr<BatchForm> ParseBatchForm(const http::Request& request, int max_items) {
  CHORD_ASSIGN_OR_RETURN(
      const http::ContentType type,
      CheckContentType(request,
                       "application/json with a list of requests, or multipart/form-data"));
  return type.type == "application/json"
             ? ParseJsonBatch(request.body, max_items)
             : ParseMultipartBatch(request.body, type.boundary, max_items);
}

absl::StatusOr<UploadForm> ParseUploadForm(const http::Request& request) {
  CHORD_ASSIGN_OR_RETURN(
      const http::ContentType type,
      CheckContentType(request, "multipart/form-data with the field image, or application/json"));
  UploadForm form;
  bool has_image = false;
  if (type.type == "application/json") {
    FlatObjects object;
    if (!Parse(request.body, object) || HasDoubles(object.members)) {
      return errors::BodyMalformed(
          "one flat JSON object, as {\"image\": \"data:…;base64,…\", \"pin\": false}");
    }
    for (Member& member : object.members) {
      if (member.key == "image") {
        has_image = true;
        CHORD_RETURN_IF_ERROR(ParseImageMember(member, form.decoded));
      } else if (member.key == "pin") {
        if (member.kind != Member::Kind::kBool) {
          return errors::ParameterInvalid("pin", "true or false");
        }
        form.pin = member.text == "true";
      } else {
        return errors::FieldUnknown();
      }
    }
  } else {
    CHORD_ASSIGN_OR_RETURN(const auto parts, PartsOnce(request.body, type.boundary));
    for (const http::FormPart& part : parts) {
      if (part.name == "image") {
        has_image = true;
        CHORD_RETURN_IF_ERROR(SetImage(part.body, form.image, form.decoded));
      } else if (part.name == "pin") {
        CHORD_RETURN_IF_ERROR(ParseFlag("pin", part.body, form.pin));
      } else {
        return errors::FieldUnknown();
      }
    }
  }
  if (!has_image) return errors::ImageMissing();
  return form;
}

absl::StatusOr<std::optional<absl::Duration>> RequestTimeout(const http::Request& request) {
  const absl::string_view text = request.field("x-request-timeout");
  std::optional<absl::Duration> out;
  if (text.empty()) return out;
  double seconds = 0;
  const bool decimal = text.find_first_not_of("0123456789.eE+-") == absl::string_view::npos;
  if (!decimal || !absl::SimpleAtod(text, &seconds) || !(seconds >= 0.001 && seconds <= 1e6)) {
    return errors::ParameterInvalid("X-Request-Timeout", "a number of seconds from 0.001");
  }
  out = absl::Seconds(seconds);
  return out;
}

}  // namespace chord::gateway
