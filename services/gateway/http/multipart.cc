#include "services/gateway/http/multipart.h"

#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::http {
namespace {

absl::Status Malformed(absl::string_view rule) {
  return errors::BodyMalformed(absl::StrCat("multipart/form-data in which ", rule));
}

bool IsTokenChar(unsigned char c) {
  return absl::ascii_isalnum(c) ||
         absl::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != absl::string_view::npos;
}

bool IsBoundary(absl::string_view text) {
  if (text.empty() || text.size() > 70 || text.back() == ' ') return false;
  for (unsigned char c : text) {
    if (!absl::ascii_isalnum(c) &&
        absl::string_view("'()+_,-./:=? ").find(static_cast<char>(c)) == absl::string_view::npos) {
      return false;
    }
  }
  return true;
}

void SkipBlanks(absl::string_view& text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
}

absl::string_view TakeToken(absl::string_view& text) {
  size_t n = 0;
  while (n < text.size() && IsTokenChar(static_cast<unsigned char>(text[n]))) ++n;
  const absl::string_view token = text.substr(0, n);
  text.remove_prefix(n);
  return token;
}

// A quoted string, its opening quote still in front. Browsers write a backslash as it is and a
// quote as %22, other clients escape both with a backslash: only \" and \\ are escapes.
std::optional<std::string> TakeQuoted(absl::string_view& text) {
  text.remove_prefix(1);
  std::string out;
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (c == '"') return out;
    if (c == '\\' && !text.empty() && (text.front() == '"' || text.front() == '\\')) {
      out.push_back(text.front());
      text.remove_prefix(1);
    } else {
      out.push_back(c);
    }
  }
  return std::nullopt;
}

struct Parameter {
  std::string name;  // lower case
  std::string value;
};

// "; name=value; name="value"" up to the end of `text`. A trailing semicolon is let pass. Of a
// malformed one, `bad` is the name.
std::optional<std::vector<Parameter>> TakeParameters(absl::string_view text,
                                                     std::string* bad = nullptr) {
  std::vector<Parameter> out;
  while (true) {
    SkipBlanks(text);
    if (text.empty()) return out;
    if (!absl::ConsumePrefix(&text, ";")) return std::nullopt;
    SkipBlanks(text);
    if (text.empty()) return out;
    Parameter parameter;
    parameter.name = absl::AsciiStrToLower(TakeToken(text));
    if (bad != nullptr) *bad = parameter.name;
    if (parameter.name.empty() || !absl::ConsumePrefix(&text, "=")) return std::nullopt;
    if (!text.empty() && text.front() == '"') {
      auto value = TakeQuoted(text);
      if (!value) return std::nullopt;
      parameter.value = *std::move(value);
    } else {
      parameter.value = std::string(TakeToken(text));
      if (parameter.value.empty()) return std::nullopt;
    }
    for (const Parameter& other : out) {
      if (other.name == parameter.name) return std::nullopt;
    }
    out.push_back(std::move(parameter));
  }
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// UTF-8''na%C3%AFve.png (RFC 8187).
std::optional<std::string> DecodeExtended(absl::string_view value) {
  const size_t first = value.find('\'');
  if (first == absl::string_view::npos) return std::nullopt;
  const size_t second = value.find('\'', first + 1);
  if (second == absl::string_view::npos) return std::nullopt;
  if (!absl::EqualsIgnoreCase(value.substr(0, first), "utf-8")) return std::nullopt;
  value = value.substr(second + 1);
  std::string out;
  for (size_t i = 0; i < value.size(); ++i) {
    if (value[i] != '%') {
      out.push_back(value[i]);
      continue;
    }
    if (i + 2 >= value.size()) return std::nullopt;
    const int high = HexDigit(value[i + 1]), low = HexDigit(value[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

absl::Status ParsePartHeader(absl::string_view header, FormPart& part) {
  bool has_disposition = false, has_type = false;
  while (!header.empty()) {
    const size_t end = header.find("\r\n");
    const absl::string_view line = header.substr(0, end);
    header.remove_prefix(end == absl::string_view::npos ? header.size() : end + 2);
    absl::string_view rest = line;
    const std::string name = absl::AsciiStrToLower(TakeToken(rest));
    if (name.empty() || !absl::ConsumePrefix(&rest, ":") ||
        rest.find_first_of(absl::string_view("\r\n\0", 3)) != absl::string_view::npos) {
      return Malformed("every header line of a part reads \"Name: value\"");
    }
    rest = absl::StripAsciiWhitespace(rest);
    if (name == "content-disposition") {
      if (std::exchange(has_disposition, true)) {
        return Malformed("every part has one Content-Disposition");
      }
      const std::string kind = absl::AsciiStrToLower(TakeToken(rest));
      const auto parameters = TakeParameters(rest);
      if (kind != "form-data" || !parameters) {
        return Malformed("every Content-Disposition reads: form-data; name=\"…\"");
      }
      for (const Parameter& parameter : *parameters) {
        if (parameter.name == "name") part.name = parameter.value;
        if (parameter.name == "filename" && part.filename.empty()) part.filename = parameter.value;
        if (parameter.name == "filename*") {
          auto filename = DecodeExtended(parameter.value);
          if (!filename) return Malformed("filename* reads: UTF-8''percent-encoded");
          part.filename = *std::move(filename);  // the better one where both are given
        }
      }
    } else if (name == "content-type") {
      if (std::exchange(has_type, true)) return Malformed("a part has one Content-Type at most");
      part.content_type = std::string(rest);
    } else if (name == "content-transfer-encoding") {
      // Deprecated by RFC 7578; what is not plain bytes would be taken for the image itself.
      const std::string coding = absl::AsciiStrToLower(rest);
      if (coding != "binary" && coding != "8bit" && coding != "7bit") {
        return Malformed("no part has a Content-Transfer-Encoding");
      }
    }
  }
  if (!has_disposition || part.name.empty()) return Malformed("every part has a name");
  return absl::OkStatus();
}

// The text behind a boundary, up to where a part's header begins.
enum class Delimiter { kNone, kPart, kEnd };
Delimiter ReadDelimiter(absl::string_view& text) {
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "--")) {
    text = rest;
    return Delimiter::kEnd;
  }
  SkipBlanks(rest);
  if (!absl::ConsumePrefix(&rest, "\r\n")) return Delimiter::kNone;
  text = rest;
  return Delimiter::kPart;
}

}  // namespace

ContentType ParseContentType(absl::string_view value) {
  value = absl::StripAsciiWhitespace(value);
  ContentType out;
  const std::string type = absl::AsciiStrToLower(TakeToken(value));
  if (!absl::ConsumePrefix(&value, "/")) return out;
  const std::string subtype = absl::AsciiStrToLower(TakeToken(value));
  std::string bad;
  const auto parameters = TakeParameters(value, &bad);
  if (type.empty() || subtype.empty()) return out;
  if (!parameters) {
    out.malformed_type = absl::StrCat(type, "/", subtype);
    out.malformed_parameter = std::move(bad);
    return out;
  }
  for (const Parameter& parameter : *parameters) {
    if (parameter.name == "boundary") out.boundary = parameter.value;
    if (parameter.name == "charset") out.charset = absl::AsciiStrToLower(parameter.value);
  }
  out.type = absl::StrCat(type, "/", subtype);
  return out;
}

absl::StatusOr<std::vector<FormPart>> ParseMultipart(absl::string_view body,
                                                     absl::string_view boundary,
                                                     const MultipartLimits& limits) {
  if (!IsBoundary(boundary)) {
    return Malformed("Content-Type names a boundary of 1 to 70 plain characters");
  }
  const std::string delimiter = absl::StrCat("\r\n--", boundary);
  absl::ConsumePrefix(&body, "\r\n");
  if (!absl::ConsumePrefix(&body, absl::string_view(delimiter).substr(2))) {
    return Malformed("the body begins with the boundary that Content-Type names");
  }
  std::vector<FormPart> parts;
  Delimiter kind = ReadDelimiter(body);
  if (kind == Delimiter::kNone) return Malformed("every boundary stands on a line of its own");
  while (kind == Delimiter::kPart) {
    if (parts.size() >= limits.max_parts) {
      return Malformed(absl::StrCat("there are at most ", limits.max_parts, " parts"));
    }
    FormPart part;
    // The header ends at the first empty line; one without any line has no name and is refused.
    const size_t header_end = body.substr(0, limits.max_header_bytes + 4).find("\r\n\r\n");
    if (header_end == absl::string_view::npos) {
      return Malformed(absl::StrCat("every part has a header of at most ", limits.max_header_bytes,
                                    " bytes that ends with an empty line"));
    }
    CHORD_RETURN_IF_ERROR(ParsePartHeader(body.substr(0, header_end), part));
    // The empty line's own end may be the beginning of the next delimiter.
    body.remove_prefix(header_end + 2);
    // A delimiter begins with the only CR it has, so failed matches never overlap: the search is
    // linear whatever the bytes are.
    for (size_t from = 0;;) {
      const size_t at = body.find(delimiter, from);
      if (at == absl::string_view::npos) {
        return Malformed("the last part is followed by the closing boundary");
      }
      absl::string_view rest = body.substr(at + delimiter.size());
      kind = ReadDelimiter(rest);
      if (kind == Delimiter::kNone) {  // a longer line that begins like the boundary is data
        from = at + 2;
        continue;
      }
      part.body = at < 2 ? absl::string_view() : body.substr(2, at - 2);
      body = rest;
      break;
    }
    parts.push_back(std::move(part));
  }
  if (!absl::StripAsciiWhitespace(body).empty()) {
    return Malformed("nothing follows the closing boundary");
  }
  return parts;
}

}  // namespace chord::http
