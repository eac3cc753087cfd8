#include "services/gateway/http/request_form.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/data_url.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/body_json.h"
#include "common/text/unicode.h"
#include "common/text/utf8.h"
#include "services/gateway/http/field_table.h"
#include "services/gateway/http/multipart.h"
#include "services/gateway/http/urlencoded.h"
#include "services/gateway/images/image_store.h"
#include "services/gateway/images/session_store.h"
#include "services/gateway/prompt_plan.h"

namespace chord::gateway {
namespace {

constexpr absl::string_view kJsonType = "application/json";
constexpr absl::string_view kFormType = "multipart/form-data";
constexpr absl::string_view kUrlencodedType = "application/x-www-form-urlencoded";
constexpr size_t kMaxFields = 32;  // of one request

// A form with what is only known while its fields come in.
struct GroundFields {
  GroundForm form;
  bool has_image = false;
  bool has_image_id = false;
  bool has_prompt = false;
};

// The image's bytes: of JSON a data: URL, of a form the file itself or a data: URL.
absl::Status TakeImage(const FieldValue& value, absl::string_view& image, std::string& decoded) {
  if (!value.is_json()) {
    const absl::string_view bytes = value.form_text();
    // No image begins like this.
    if (IsRemoteUrl(bytes)) return errors::ImageUrlRefused();
    if (!IsDataUrl(bytes)) {
      image = bytes;
      return absl::OkStatus();
    }
  }
  std::optional<std::string> url = value.Text();
  if (!url) return errors::ParameterInvalid("image", "a data: URL with base64");
  CHORD_ASSIGN_OR_RETURN(decoded, DecodeDataUrl(*std::move(url)));
  return absl::OkStatus();
}

absl::Status SetFlag(absl::string_view name, const FieldValue& value, bool& out) {
  const std::optional<bool> flag = value.Flag();
  if (!flag) {
    return errors::ParameterInvalid(name,
                                    value.is_json() ? "true or false" : "\"true\" or \"false\"");
  }
  out = *flag;
  return absl::OkStatus();
}

absl::Status SetImage(const FieldValue& value, GroundFields& fields) {
  fields.has_image = true;
  return TakeImage(value, fields.form.image, fields.form.decoded);
}
absl::Status SetImageId(const FieldValue& value, GroundFields& fields) {
  std::optional<std::string> text = value.Text();
  if (!text) return errors::ParameterInvalid("image_id", "text");
  fields.has_image_id = true;
  fields.form.image_id = *std::move(text);
  return absl::OkStatus();
}
absl::Status SetPrompt(const FieldValue& value, GroundFields& fields) {
  std::optional<std::string> text = value.Text();
  if (!text) return errors::ParameterInvalid("prompt", "text");
  if (text->empty()) return errors::PromptEmpty();
  fields.has_prompt = true;
  fields.form.prompt = *std::move(text);
  return absl::OkStatus();
}
// A form has one label in each field of that name, JSON a list of them.
absl::Status SetLabels(const FieldValue& value, GroundFields& fields) {
  const absl::Status malformed =
      errors::ParameterInvalid("labels", absl::StrCat("a list of 1 to ", kMaxLabels, " texts"));
  std::optional<std::vector<std::string>> texts = value.Texts(kMaxLabels);
  if (!texts || texts->empty() || fields.form.labels.size() + texts->size() > kMaxLabels) {
    return malformed;
  }
  for (std::string& text : *texts) fields.form.labels.push_back(std::move(text));
  return absl::OkStatus();
}
absl::Status SetMaxNewTokens(const FieldValue& value, GroundFields& fields) {
  const std::optional<int64_t> tokens = value.Integer();
  if (!tokens || *tokens < 1 || *tokens > limits::kCeilingNewTokens) {
    return errors::ParameterInvalid(
        "max_new_tokens", absl::StrCat("an integer from 1 to ", limits::kCeilingNewTokens));
  }
  fields.form.max_new_tokens = static_cast<int>(*tokens);
  return absl::OkStatus();
}
absl::Status SetGrammar(const FieldValue& value, GroundFields& fields) {
  const std::optional<std::string> text = value.Text();
  if (text != "auto" && text != "off") {
    return errors::ParameterInvalid("grammar", "\"auto\" or \"off\"");
  }
  fields.form.grammar = text == "auto";
  return absl::OkStatus();
}
absl::Status SetStream(const FieldValue& value, GroundFields& fields) {
  return SetFlag("stream", value, fields.form.stream);
}
absl::Status SetSessionId(const FieldValue& value, GroundFields& fields) {
  std::optional<std::string> text = value.Text();
  if (!text) return errors::ParameterInvalid("session_id", "text");
  if (!IsSessionId(*text)) {
    return errors::ParameterInvalid("session_id", "1 to 64 characters of A-Z, a-z, 0-9, _ and -");
  }
  fields.form.session_id = *std::move(text);
  return absl::OkStatus();
}

constexpr FieldSpec<GroundFields> kGroundFields[] = {
    {"image", SetImage},          {"image_id", SetImageId},
    {"prompt", SetPrompt},        {"max_new_tokens", SetMaxNewTokens},
    {"grammar", SetGrammar},      {"stream", SetStream},
    {"session_id", SetSessionId}, {"labels", SetLabels},
};
const absl::Span<const FieldSpec<GroundFields>> kGroundTable = kGroundFields;

// What every request needs, once all its fields are in.
absl::StatusOr<GroundForm> Complete(GroundFields fields) {
  if (fields.has_image_id && fields.form.image_id.empty()) {
    return errors::ParameterInvalid("image_id",
                                    "the image_id of an upload or an answer, or be left out");
  }
  if (fields.has_image && fields.has_image_id) return errors::ImageSourceConflict();
  if (!fields.has_image && !fields.has_image_id) return errors::ImageMissing();
  if (fields.has_image_id && !IsImageId(fields.form.image_id)) return errors::ImageIdUnknown();
  if (fields.has_prompt && !fields.form.labels.empty()) {
    return errors::ParameterInvalid("labels", "absent when there is a prompt");
  }
  if (!fields.has_prompt && fields.form.labels.empty()) return errors::PromptMissing();
  return std::move(fields.form);
}

// The one object that a JSON body must be. `example` reads after "Send one JSON object, as".
absl::StatusOr<nlohmann::json> ParseObject(absl::string_view body, absl::string_view example) {
  const absl::Status not_an_object =
      errors::BodyMalformed(absl::StrCat("one JSON object, as ", example));
  absl::string_view start = body;
  absl::ConsumePrefix(&start, "\xef\xbb\xbf");
  start = absl::StripLeadingAsciiWhitespace(start);
  if (!absl::StartsWith(start, "{")) return not_an_object;
  // Before the parser finds it: what is not well-formed here is text of the client.
  if (!text::IsUtf8(body)) return errors::PromptNotUtf8();
  return ParseBodyJson(start);
}

absl::StatusOr<GroundForm> ParseJson(absl::string_view body) {
  CHORD_ASSIGN_OR_RETURN(nlohmann::json object,
                         ParseObject(body, R"({"image": "data:…;base64,…", "prompt": "…"})"));
  CHORD_RETURN_IF_ERROR(CheckFlat(object, "labels"));
  GroundFields fields;
  CHORD_RETURN_IF_ERROR(SetFields(kGroundTable, object, fields));
  return Complete(std::move(fields));
}

// The tag of an item; the rest of the object is its form.
absl::StatusOr<std::string> TakeTag(nlohmann::json& object) {
  const auto tag = object.find("tag");
  if (tag == object.end()) return std::string();
  const bool null = tag->is_null();
  std::optional<std::string> text = FieldValue(*tag).Text();
  object.erase(tag);
  if (null) return std::string();
  if (!text || text->size() > static_cast<size_t>(limits::kMaxTagBytes)) {
    return errors::ParameterInvalid(
        "tag", absl::StrCat("text of at most ", limits::kMaxTagBytes, " bytes"));
  }
  return *std::move(text);
}

BatchForm::Item ParseItem(nlohmann::json& object) {
  BatchForm::Item item;
  absl::StatusOr<std::string> tag = TakeTag(object);
  if (!tag.ok()) {
    item.form = tag.status();
    return item;
  }
  item.tag = *std::move(tag);
  GroundFields fields;
  const absl::Status status = SetFields(kGroundTable, object, fields);
  item.form = status.ok() ? Complete(std::move(fields)) : absl::StatusOr<GroundForm>(status);
  if (item.form.ok() && item.form->stream) {
    item.form = errors::ParameterInvalid("stream", "a field of the batch, not of one request");
  }
  return item;
}

absl::StatusOr<BatchForm> ParseJsonBatch(absl::string_view body, int max_items) {
  constexpr absl::string_view kExample =
      R"({"requests": [{"tag": "a", "image": "data:…;base64,…", "prompt": "…"}]})";
  CHORD_ASSIGN_OR_RETURN(nlohmann::json object, ParseObject(body, kExample));
  const absl::Status no_list =
      errors::BodyMalformed(absl::StrCat("one JSON object, as ", kExample));
  const auto list = object.find("requests");
  if (list == object.end() || !list->is_array()) return no_list;
  nlohmann::json requests = std::move(*list);
  object.erase(list);
  if (requests.empty()) return errors::BatchEmpty();
  if (requests.size() > static_cast<size_t>(max_items)) {
    return errors::BatchLimit(static_cast<int64_t>(requests.size()), max_items);
  }
  BatchForm out;
  CHORD_RETURN_IF_ERROR(CheckFlat(object));
  for (auto member = object.begin(); member != object.end(); ++member) {
    if (member.key() != "stream") return errors::FieldUnknown(member.key());
    if (member->is_null()) continue;
    CHORD_RETURN_IF_ERROR(SetFlag("stream", FieldValue(*member), out.stream));
  }
  for (nlohmann::json& request : requests) {
    if (!request.is_object()) return no_list;
    CHORD_RETURN_IF_ERROR(CheckFlat(request, "labels"));
    out.items.push_back(ParseItem(request));
  }
  return out;
}

// The name of a part for an error: parts may be called anything.
std::string ForError(absl::string_view name) {
  return text::IsUtf8(name) ? std::string(name) : absl::CHexEscape(name);
}

template <typename Fields>
absl::Status SetParts(absl::Span<const FieldSpec<Fields>> table,
                      const std::vector<http::FormPart>& parts, Fields& fields) {
  std::vector<absl::string_view> seen;
  for (const http::FormPart& part : parts) {
    if (part.name != "labels" && std::find(seen.begin(), seen.end(), part.name) != seen.end()) {
      return errors::BodyMalformed(
          "multipart/form-data in which every field but labels comes once");
    }
    seen.push_back(part.name);
  }
  for (const http::FormPart& part : parts) {
    CHORD_RETURN_IF_ERROR(SetField(table, ForError(part.name), FieldValue(part.body), fields));
  }
  return absl::OkStatus();
}

absl::StatusOr<GroundForm> ParseMultipartForm(absl::string_view body, absl::string_view boundary) {
  http::MultipartLimits limits;
  limits.max_parts += kMaxLabels;
  CHORD_ASSIGN_OR_RETURN(const auto parts, http::ParseMultipart(body, boundary, limits));
  GroundFields fields;
  CHORD_RETURN_IF_ERROR(SetParts(kGroundTable, parts, fields));
  return Complete(std::move(fields));
}

absl::StatusOr<GroundForm> ParseUrlencodedForm(absl::string_view body) {
  CHORD_ASSIGN_OR_RETURN(auto pairs, ParseUrlencoded(body, kMaxFields + kMaxLabels));
  GroundFields fields;
  for (size_t i = 0; i < pairs.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (pairs[j].first == pairs[i].first && pairs[i].first != "labels") {
        return errors::BodyMalformed(
            absl::StrCat(kUrlencodedType, " in which every field but labels comes once"));
      }
    }
    // Text that lives on in no request: an image must be copied out of it.
    nlohmann::json value = std::move(pairs[i].second);
    const std::string& text = value.get_ref<const std::string&>();
    const FieldValue field =
        pairs[i].first == "image" ? FieldValue(value) : FieldValue(absl::string_view(text));
    CHORD_RETURN_IF_ERROR(SetField(kGroundTable, ForError(pairs[i].first), field, fields));
  }
  return Complete(std::move(fields));
}

// The parts of a multipart batch by what they are.
struct BatchParts {
  std::vector<const http::FormPart*> subjects;  // image or image_id
  std::vector<const http::FormPart*> prompts;
  GroundFields common;  // the other fields, for all items
};

absl::StatusOr<BatchParts> SortParts(const std::vector<http::FormPart>& parts) {
  BatchParts out;
  std::vector<absl::string_view> seen;
  for (const http::FormPart& part : parts) {
    if (part.name == "image" || part.name == "image_id") {
      out.subjects.push_back(&part);
    } else if (part.name == "prompt") {
      out.prompts.push_back(&part);
    } else {
      if (part.name != "labels" && std::find(seen.begin(), seen.end(), part.name) != seen.end()) {
        return errors::BodyMalformed(
            "multipart/form-data in which only image, image_id, prompt and labels come more than "
            "once");
      }
      seen.push_back(part.name);
      CHORD_RETURN_IF_ERROR(
          SetField(kGroundTable, ForError(part.name), FieldValue(part.body), out.common));
    }
  }
  if (out.subjects.empty()) return errors::ImageMissing();
  if (out.prompts.empty() && out.common.form.labels.empty()) return errors::PromptMissing();
  return out;
}

// A file's name as a tag: cut between characters when it is longer than a tag may be.
std::string TagOf(const http::FormPart& file) {
  return std::string(text::CutUtf8(text::ToValidUtf8(file.filename), limits::kMaxTagBytes));
}

absl::StatusOr<BatchForm> ParseMultipartBatch(absl::string_view body, absl::string_view boundary,
                                              int max_items) {
  http::MultipartLimits limits;
  limits.max_parts = 2 * static_cast<size_t>(max_items) + kMaxLabels + 8;
  CHORD_ASSIGN_OR_RETURN(const auto parts, http::ParseMultipart(body, boundary, limits));
  CHORD_ASSIGN_OR_RETURN(BatchParts sorted, SortParts(parts));
  const auto& [subjects, prompts, unused] = sorted;
  const size_t count = std::max(subjects.size(), prompts.size());
  if (count > static_cast<size_t>(max_items)) {
    return errors::BatchLimit(static_cast<int64_t>(count), max_items);
  }
  if (subjects.size() != count && subjects.size() != 1) {
    return errors::BodyMalformed("as many images as prompts, or one of either");
  }
  if (prompts.size() != count && prompts.size() > 1) {
    return errors::BodyMalformed("as many prompts as images, or one of either");
  }
  BatchForm out;
  out.stream = std::exchange(sorted.common.form.stream, false);
  const bool one_image = count > 1 && subjects.size() == 1 && subjects[0]->name == "image";
  if (one_image) {
    std::string decoded;
    CHORD_RETURN_IF_ERROR(TakeImage(FieldValue(subjects[0]->body), out.one_image, decoded));
    if (!decoded.empty()) return errors::ParameterInvalid("image", "the file itself");
  }
  for (size_t i = 0; i < count; ++i) {
    const http::FormPart& subject = *subjects[subjects.size() == 1 ? 0 : i];
    const http::FormPart* prompt = prompts.empty() ? nullptr : prompts[prompts.size() == 1 ? 0 : i];
    BatchForm::Item& item = out.items.emplace_back();
    if (!one_image) item.tag = TagOf(subject);
    const auto make = [&]() -> absl::StatusOr<GroundForm> {
      GroundFields fields = sorted.common;
      if (one_image) {
        fields.has_image = true;
      } else {
        CHORD_RETURN_IF_ERROR(
            SetField(kGroundTable, subject.name, FieldValue(subject.body), fields));
      }
      if (prompt != nullptr) {
        CHORD_RETURN_IF_ERROR(
            SetField(kGroundTable, prompt->name, FieldValue(prompt->body), fields));
      }
      return Complete(std::move(fields));
    };
    item.form = make();
  }
  return out;
}

struct UploadFields {
  UploadForm form;
  bool has_image = false;
};
constexpr FieldSpec<UploadFields> kUploadFields[] = {
    {"image",
     [](const FieldValue& value, UploadFields& fields) {
       fields.has_image = true;
       return TakeImage(value, fields.form.image, fields.form.decoded);
     }},
    {"pin", [](const FieldValue& value,
               UploadFields& fields) { return SetFlag("pin", value, fields.form.pin); }},
};
const absl::Span<const FieldSpec<UploadFields>> kUploadTable = kUploadFields;

// The type of the body, one of `types`. `expected` reads after "Send ".
absl::StatusOr<http::ContentType> CheckContentType(const http::Request& request,
                                                   absl::Span<const absl::string_view> types,
                                                   absl::string_view expected) {
  http::ContentType type = http::ParseContentType(request.field("content-type"));
  const absl::string_view coding = request.field("content-encoding");
  if (!coding.empty() && !absl::EqualsIgnoreCase(coding, "identity")) {
    return errors::ContentTypeUnsupported("the body without a Content-Encoding");
  }
  const std::string& name = type.type.empty() ? type.malformed_type : type.type;
  const auto known = std::find(types.begin(), types.end(), name);
  if (known == types.end()) return errors::ContentTypeUnsupported(expected);
  const absl::string_view known_name = *known;
  if (type.type.empty()) {
    const bool named = !type.malformed_parameter.empty() && type.malformed_parameter.size() <= 32;
    return errors::ContentTypeParameter(known_name, named ? type.malformed_parameter : "…",
                                        "written as name=value or name=\"value\", once");
  }
  if (known_name != kFormType && !type.charset.empty() && type.charset != "utf-8") {
    return errors::ContentTypeParameter(known_name, "charset", "utf-8 or left out");
  }
  return type;
}

}  // namespace

absl::StatusOr<GroundForm> ParseGroundForm(const http::Request& request) {
  CHORD_ASSIGN_OR_RETURN(
      const http::ContentType type,
      CheckContentType(request, {kFormType, kJsonType, kUrlencodedType},
                       "multipart/form-data with the fields image and prompt, or "
                       "application/json"));
  if (type.type == kJsonType) return ParseJson(request.body);
  if (type.type == kUrlencodedType) return ParseUrlencodedForm(request.body);
  return ParseMultipartForm(request.body, type.boundary);
}

absl::StatusOr<BatchForm> ParseBatchForm(const http::Request& request, int max_items) {
  CHORD_ASSIGN_OR_RETURN(
      const http::ContentType type,
      CheckContentType(request, {kFormType, kJsonType},
                       "application/json with a list of requests, or multipart/form-data"));
  return type.type == kJsonType ? ParseJsonBatch(request.body, max_items)
                                : ParseMultipartBatch(request.body, type.boundary, max_items);
}

absl::StatusOr<UploadForm> ParseUploadForm(const http::Request& request) {
  CHORD_ASSIGN_OR_RETURN(
      const http::ContentType type,
      CheckContentType(request, {kFormType, kJsonType},
                       "multipart/form-data with the field image, or application/json"));
  UploadFields fields;
  if (type.type == kJsonType) {
    CHORD_ASSIGN_OR_RETURN(
        nlohmann::json object,
        ParseObject(request.body, R"({"image": "data:…;base64,…", "pin": false})"));
    CHORD_RETURN_IF_ERROR(CheckFlat(object));
    CHORD_RETURN_IF_ERROR(SetFields(kUploadTable, object, fields));
  } else {
    CHORD_ASSIGN_OR_RETURN(const auto parts, http::ParseMultipart(request.body, type.boundary));
    CHORD_RETURN_IF_ERROR(SetParts(kUploadTable, parts, fields));
  }
  if (!fields.has_image) return errors::ImageMissing();
  return std::move(fields.form);
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
