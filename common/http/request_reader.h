// Bytes of a connection -> one request. No I/O, no time: the connection feeds it.
#pragma once

#include <boost/beast/http/parser.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/http/message.h"

namespace chord::http {

// A body whose memory grows with its bytes: what a client only announces costs nothing.
struct GrowingBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool isRequest, class BeastFields>
    reader(boost::beast::http::header<isRequest, BeastFields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>& length, boost::system::error_code& ec);
    template <class ConstBufferSequence>
    size_t put(const ConstBufferSequence& buffers, boost::system::error_code& ec) {
      ec = {};
      const size_t bytes = boost::asio::buffer_size(buffers);
      MakeRoom(bytes);
      for (auto at = boost::asio::buffer_sequence_begin(buffers);
           at != boost::asio::buffer_sequence_end(buffers); ++at) {
        const boost::asio::const_buffer buffer = *at;
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
      }
      return bytes;
    }
    void finish(boost::system::error_code& ec) { ec = {}; }

   private:
    void MakeRoom(size_t bytes);
    value_type& body_;
    size_t length_ = 0;  // 0: not announced
  };
};

// Reads the bytes of one request. Thread-compatible.
class RequestReader {
 public:
  explicit RequestReader(int64_t max_header_bytes);

  enum class Step {
    kNeedMore,  // all bytes are taken, or those left are no use without more
    kProgress,  // some bytes of the body were taken
    kHeader,    // the header is complete; comes once
    kDone,      // the body is complete
  };
  // Takes bytes off the front of `in`. An error is REQUEST_MALFORMED, HEADERS_TOO_LARGE,
  // HTTP_VERSION_UNSUPPORTED or BODY_TOO_LARGE; nothing can be read after it.
  absl::StatusOr<Step> Advance(std::string& in);
  size_t used() const { return used_; }  // bytes that the last call took

  // After kHeader: method, target and fields into `request`, checked as far as that is possible
  // without knowing the route (Host, Content-Type, message framing).
  absl::Status ReadHeader(Request& request) const;
  int version() const { return static_cast<int>(parser_.get().version()); }  // 10 or 11
  bool keep_alive() const { return parser_.keep_alive(); }
  bool done() const { return parser_.is_done(); }
  std::optional<uint64_t> content_length() const;
  bool has_body() const;
  void SetBodyLimit(int64_t bytes);

  std::string TakeBody() { return std::move(parser_.get().body()); }

 private:
  const int64_t max_header_bytes_;
  int64_t body_limit_ = 0;
  bool header_seen_ = false;
  size_t used_ = 0;
  boost::beast::http::request_parser<GrowingBody> parser_;
};

}  // namespace chord::http
