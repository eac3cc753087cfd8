#include "common/http/request_reader.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"

namespace chord::http {
namespace {

namespace beast_http = boost::beast::http;
using boost::system::error_code;

absl::string_view View(boost::beast::string_view v) { return {v.data(), v.size()}; }

bool IsRequestId(absl::string_view text) {
  if (text.size() < 8 || text.size() > 64) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-';
  });
}

// Tells a version that is not ours from a request line that is broken elsewhere: the parser takes
// whatever stands after the second blank for the version.
bool NamesAVersion(absl::string_view received) {
  absl::string_view line = received.substr(0, received.find('\n'));
  const size_t blank = line.rfind(' ');
  if (blank == absl::string_view::npos) return false;
  line.remove_prefix(blank + 1);
  return absl::ConsumePrefix(&line, "HTTP/") && line.size() == 4 && absl::ascii_isdigit(line[0]) &&
         line[1] == '.' && absl::ascii_isdigit(line[2]) && line[3] == '\r' &&
         !absl::StartsWith(line, "1.0") && !absl::StartsWith(line, "1.1");
}

absl::Status FromParser(error_code ec, absl::string_view received, int64_t header_limit,
                        int64_t body_limit) {
  using beast_http::error;
  if (ec == error::header_limit || ec == error::buffer_overflow) {
    return errors::HeadersTooLarge(header_limit);
  }
  if (ec == error::body_limit) return errors::BodyTooLarge(body_limit);
  if (ec == error::bad_version && NamesAVersion(received)) return errors::HttpVersionUnsupported();
  if (ec == error::bad_version || ec == error::bad_method || ec == error::bad_target) {
    return errors::RequestMalformed("the request line cannot be read");
  }
  if (ec == error::bad_content_length) {
    return errors::RequestMalformed("Content-Length is not one plain number");
  }
  if (ec == error::bad_transfer_encoding) {
    return errors::RequestMalformed("Transfer-Encoding is not chunked alone");
  }
  if (ec == error::bad_chunk || ec == error::bad_chunk_extension) {
    return errors::RequestMalformed("a chunk of the body cannot be read");
  }
  return errors::RequestMalformed("the header cannot be read");
}

// The path and query of an origin-form target, or of the absolute form that proxies use.
absl::Status SplitTarget(absl::string_view target, Request& request) {
  if (!absl::StartsWith(target, "/") && target != "*") {
    const size_t scheme = target.find("://");
    if (scheme == absl::string_view::npos) {
      return errors::RequestMalformed("the request line cannot be read");
    }
    target.remove_prefix(scheme + 3);
    const size_t slash = target.find('/');
    target = slash == absl::string_view::npos ? absl::string_view("/") : target.substr(slash);
  }
  target = target.substr(0, target.find('#'));
  const size_t mark = target.find('?');
  request.path = std::string(target.substr(0, mark));
  if (mark != absl::string_view::npos) request.query = std::string(target.substr(mark + 1));
  return absl::OkStatus();
}

}  // namespace

void GrowingBody::reader::init(const boost::optional<uint64_t>& length, error_code& ec) {
  ec = {};
  if (length) length_ = static_cast<size_t>(*length);
}

// Doubles, but never beyond what was announced.
void GrowingBody::reader::MakeRoom(size_t bytes) {
  const size_t size = body_.size() + bytes;
  if (size > body_.capacity() && length_ >= size) {
    body_.reserve(std::min(length_, std::max<size_t>(2 * size, 4 << 10)));
  }
}

RequestReader::RequestReader(int64_t max_header_bytes) : max_header_bytes_(max_header_bytes) {
  parser_.header_limit(static_cast<uint32_t>(max_header_bytes));
  // Set when the route is known. (none would mean 0: Beast of Boost 1.74 compares it as a number.)
  parser_.body_limit(std::numeric_limits<uint64_t>::max());
}

absl::StatusOr<RequestReader::Step> RequestReader::Advance(std::string& in) {
  error_code ec;
  used_ = parser_.put(boost::asio::buffer(in), ec);
  const bool starved = ec == beast_http::error::need_more;
  if (ec && !starved) return FromParser(ec, in, max_header_bytes_, body_limit_);
  in.erase(0, used_);
  if (!header_seen_ && parser_.is_header_done()) {
    header_seen_ = true;
    return Step::kHeader;
  }
  if (header_seen_ && parser_.is_done()) return Step::kDone;
  return starved && used_ == 0 ? Step::kNeedMore : Step::kProgress;
}

absl::Status RequestReader::ReadHeader(Request& request) const {
  const auto& message = parser_.get();
  int hosts = 0, content_types = 0, lengths = 0;
  bool transfer_encoding = false, chunked = true;
  for (const auto& field : message) {
    std::string name = absl::AsciiStrToLower(View(field.name_string()));
    hosts += name == "host";
    content_types += name == "content-type";
    lengths += name == "content-length";
    if (name == "transfer-encoding") {
      // Exactly this, once: another server before us may read anything else differently.
      chunked &= !transfer_encoding && absl::EqualsIgnoreCase(View(field.value()), "chunked");
      transfer_encoding = true;
    }
    request.fields.emplace_back(std::move(name), std::string(View(field.value())));
  }
  request.method = std::string(View(message.method_string()));
  if (IsRequestId(request.field("x-request-id"))) {
    request.client_id = std::string(request.field("x-request-id"));
  }
  if (hosts > 1 || (hosts == 0 && version() >= 11)) {
    return errors::RequestMalformed("it needs exactly one Host field");
  }
  if (content_types > 1) return errors::RequestMalformed("it has two Content-Type fields");
  if (transfer_encoding && (lengths > 0 || version() < 11 || !chunked || !parser_.chunked())) {
    return errors::RequestMalformed("Transfer-Encoding is not chunked alone");
  }
  return SplitTarget(View(message.target()), request);
}

std::optional<uint64_t> RequestReader::content_length() const {
  const auto length = parser_.content_length();
  return length ? std::optional<uint64_t>(*length) : std::nullopt;
}

bool RequestReader::has_body() const {
  return parser_.chunked() || content_length().value_or(0) > 0;
}

void RequestReader::SetBodyLimit(int64_t bytes) {
  body_limit_ = bytes;
  parser_.body_limit(static_cast<uint64_t>(bytes));
}

}  // namespace chord::http
