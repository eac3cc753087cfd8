// What the HTTP server hands to a handler and what it takes back. Plain data; no library types.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"

namespace chord::http {

using Fields = std::vector<std::pair<std::string, std::string>>;

// The response of a streaming handler, piece by piece. Thread-safe; no call waits for the client.
class ResponseStream {
 public:
  struct Head {
    int status = 200;
    std::string content_type;
    Fields fields = {};
  };
  virtual ~ResponseStream() = default;
  // Sends the header; at most once, before any Write.
  virtual void Begin(Head head) = 0;
  // Sends `bytes` after what was sent before. False when the client has closed the connection or
  // has left too much unread: nothing more can reach it, and the request's token has fired.
  virtual bool Write(std::string bytes) = 0;
};

struct Request {
  std::string id;          // ours, unique; "X-Request-Id" of the answer
  std::string client_id;   // the client's own "X-Request-Id" when well-formed, else empty
  std::string method;      // as sent; GET also for HEAD's handler
  std::string path;        // of the target, without query; not percent-decoded
  std::string query;       // after '?', not decoded
  Fields fields;           // names in lower case, values without surrounding blanks
  std::string body;        // at most the route's body limit
  absl::Time received_at;  // when the first byte of the request was seen
  // Fires when the client closes the connection or the server gives up waiting for the handler.
  CancelToken cancel;
  std::string peer;  // the client's address without port
  std::string key;   // name of the API key that came with it; empty: none
  // Of a handler that may stream: once it has called Begin, the Response that it returns is not
  // sent any more. Null in `quick` handlers. Lives as long as the handler runs.
  ResponseStream* stream = nullptr;

  // The first value of `lower_case_name`; empty when absent.
  absl::string_view field(absl::string_view lower_case_name) const;
};

struct Response {
  int status = 200;
  std::string content_type;  // empty: no body is announced
  Fields fields;             // besides those the server adds itself
  std::string body;
};

// Takes the request as its own: the connection keeps nothing that the handler works on.
using Handler = std::function<Response(Request)>;

// One address. A path that ends in "/*" takes everything under it. Method "" takes any.
struct Route {
  std::string method;
  std::string path;
  Handler handler = nullptr;
  int64_t body_limit = 0;  // bytes; more is refused before it is read
  // Names of the query parameters it takes; others are refused unless `any_query`.
  std::vector<std::string> query = {};
  bool any_query = false;
  // Runs on an I/O thread without queueing: answers while all handler threads are busy. Such a
  // handler must not block.
  bool quick = false;
  // Asked after the header and before the body (which is empty yet): a refusal costs no body memory
  // and waits for no handler thread. Must not block. May be null.
  std::function<absl::Status(const Request&)> admit = nullptr;
};

}  // namespace chord::http
