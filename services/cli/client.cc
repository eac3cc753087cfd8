#include "services/cli/client.h"

#include <fcntl.h>
#include <grpcpp/client_context.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"

namespace chord::cli {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxAnswerBytes = 16 << 20;

class GrpcClient final : public Client {
 public:
  explicit GrpcClient(const std::string& address)
      : stub_(v1::Grounding::NewStub(rpc::MakeChannel(address))) {}

  absl::StatusOr<v1::GroundResponse> Ask(const Question& question) override {
    v1::GroundRequest request;
    request.set_image(question.picture.data(), question.picture.size());
    request.set_prompt(question.prompt);
    request.set_grammar(question.grammar);
    request.set_want_evidence(question.want_evidence);
    if (question.max_new_tokens > 0) request.set_max_new_tokens(question.max_new_tokens);
    grpc::ClientContext context;
    rpc::SetDeadline(context, absl::Now() + question.timeout);
    v1::GroundResponse answer;
    const absl::Status status = rpc::FromGrpc(stub_->Ground(&context, request, &answer));
    if (status.ok()) return answer;
    const bool lost = !IsCatalogued(status) && status.code() == absl::StatusCode::kUnavailable;
    return lost ? NoServer() : status;
  }

 private:
  const std::unique_ptr<v1::Grounding::Stub> stub_;
};

// One exchange over a socket of its own, within a deadline.
class HttpExchange {
 public:
  explicit HttpExchange(absl::Time deadline) : deadline_(deadline) {}
  ~HttpExchange() {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Connect(const std::string& host, const std::string& port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return NoServer();
    const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
    for (addrinfo* at = found; at != nullptr; at = at->ai_next) {
      fd_ = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (fd_ < 0) continue;
      if (connect(fd_, at->ai_addr, at->ai_addrlen) == 0) return absl::OkStatus();
      int error = 0;
      socklen_t size = sizeof(error);
      if (errno == EINPROGRESS && Wait(POLLOUT).ok() &&
          getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0) {
        return absl::OkStatus();
      }
      close(fd_);
      fd_ = -1;
    }
    return NoServer();
  }

  absl::Status Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent > 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        CHORD_RETURN_IF_ERROR(Wait(POLLOUT));
      } else if (errno != EINTR) {
        return absl::OkStatus();  // the server may have answered before it read all: look
      }
    }
    return absl::OkStatus();
  }

  // Until the server closes.
  absl::StatusOr<std::string> Receive() {
    std::string out;
    char buffer[16 << 10];
    while (true) {
      const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
      if (got > 0) {
        out.append(buffer, static_cast<size_t>(got));
        if (out.size() > kMaxAnswerBytes) return Garbled();
      } else if (got == 0) {
        return out;
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        CHORD_RETURN_IF_ERROR(Wait(POLLIN));
      } else if (errno != EINTR) {
        if (!out.empty()) return out;
        return NoServer();
      }
    }
  }

  static absl::Status Garbled() {
    return absl::UnavailableError("What answered is no Chord, or was cut off.");
  }

 private:
  absl::Status Wait(short events) {
    pollfd fd{fd_, events, 0};
    while (true) {
      const int64_t left = absl::ToInt64Milliseconds(deadline_ - absl::Now());
      if (left <= 0) return errors::DeadlineExceeded();
      const int ready = poll(&fd, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return NoServer();
    }
  }

  const absl::Time deadline_;
  int fd_ = -1;
};

class HttpClient final : public Client {
 public:
  HttpClient(std::string host, std::string port) : host_(std::move(host)), port_(std::move(port)) {}

  absl::StatusOr<v1::GroundResponse> Ask(const Question& question) override {
    std::string boundary = NewTicketId();
    while (absl::StrContains(question.picture, boundary)) boundary = NewTicketId();
    const std::string body = MultipartBody(question, boundary);
    HttpExchange exchange(absl::Now() + question.timeout);
    CHORD_RETURN_IF_ERROR(exchange.Connect(host_, port_));
    CHORD_RETURN_IF_ERROR(exchange.Send(absl::StrCat(
        "POST /api/ground HTTP/1.1\r\nHost: ", host_, ":", port_,
        "\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=", boundary,
        "\r\nContent-Length: ", body.size(), "\r\n\r\n")));
    CHORD_RETURN_IF_ERROR(exchange.Send(body));
    CHORD_ASSIGN_OR_RETURN(const std::string answer, exchange.Receive());
    const size_t head = answer.find("\r\n\r\n");
    int status = 0;
    if (!absl::StartsWith(answer, "HTTP/1.1 ") || head == std::string::npos ||
        !absl::SimpleAtoi(answer.substr(9, 3), &status)) {
      return HttpExchange::Garbled();
    }
    return ParseHttpAnswer(status, absl::string_view(answer).substr(head + 4));
  }

 private:
  const std::string host_, port_;
};

std::optional<v1::Box> ReadBox(const Json& json) {
  if (!json.is_array() || json.size() != 4) return std::nullopt;
  int64_t side[4];
  for (size_t i = 0; i < 4; ++i) {
    if (!json[i].is_number_integer()) return std::nullopt;
    side[i] = json[i].get<int64_t>();
    if (side[i] < 0 || side[i] > INT32_MAX) return std::nullopt;
  }
  v1::Box out;
  out.set_x1(static_cast<int32_t>(side[0]));
  out.set_y1(static_cast<int32_t>(side[1]));
  out.set_x2(static_cast<int32_t>(side[2]));
  out.set_y2(static_cast<int32_t>(side[3]));
  return out;
}

const Json& Field(const Json& json, const char* name) {
  static const Json kNull;
  const auto found = json.find(name);
  return found == json.end() ? kNull : *found;
}

double NumberOf(const Json& json) { return json.is_number() ? json.get<double>() : std::nan(""); }
std::string TextOf(const Json& json) { return json.is_string() ? json.get<std::string>() : ""; }

}  // namespace

absl::Status NoServer() {
  return absl::UnavailableError(
      "No Chord answers at the server's address. Start one with \"chord serve\", or name its gRPC "
      "address with --server.");
}

absl::StatusOr<std::string> GrpcAddress(const Args& args) {
  const std::string address = args.Get("server", "127.0.0.1:50051");
  absl::string_view path = address;
  if (absl::ConsumePrefix(&path, "unix:") && !path.empty()) return address;
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 || absl::StrContains(address, "//") ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return errors::ConfigInvalid("--server must be HOST:PORT or unix:PATH.");
  }
  return address;
}

std::unique_ptr<Client> MakeGrpcClient(const std::string& address) {
  return std::make_unique<GrpcClient>(address);
}

absl::StatusOr<std::unique_ptr<Client>> MakeHttpClient(const std::string& address) {
  absl::string_view rest = address;
  absl::ConsumePrefix(&rest, "http://");
  absl::ConsumeSuffix(&rest, "/");
  const size_t colon = rest.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(rest.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return errors::ConfigInvalid("--http must be HOST:PORT.");
  }
  absl::string_view host = rest.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return std::unique_ptr<Client>(
      std::make_unique<HttpClient>(std::string(host), absl::StrCat(port)));
}

std::string MultipartBody(const Question& question, absl::string_view boundary) {
  std::string out;
  const auto field = [&](absl::string_view name, absl::string_view value) {
    absl::StrAppend(&out, "--", boundary, "\r\nContent-Disposition: form-data; name=\"", name,
                    "\"\r\n\r\n", value, "\r\n");
  };
  field("prompt", question.prompt);
  if (question.grammar == v1::GRAMMAR_OFF) field("grammar", "off");
  if (question.max_new_tokens > 0) field("max_new_tokens", absl::StrCat(question.max_new_tokens));
  absl::StrAppend(&out, "--", boundary,
                  "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"picture\"\r\n"
                  "Content-Type: application/octet-stream\r\n\r\n",
                  question.picture, "\r\n--", boundary, "--\r\n");
  return out;
}

absl::StatusOr<v1::GroundResponse> ParseHttpAnswer(int status, absl::string_view body) {
  const Json json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return HttpExchange::Garbled();
  if (status != 200) {
    const std::string detail = TextOf(Field(json, "detail"));
    const std::string message = detail.empty() ? absl::StrCat("HTTP status ", status) : detail;
    switch (status) {
      case 429:
        return absl::ResourceExhaustedError(message);
      case 503:
        return absl::UnavailableError(message);
      case 504:
        return absl::DeadlineExceededError(message);
      default:
        return absl::InvalidArgumentError(message);
    }
  }
  v1::GroundResponse out;
  const Json& objects = Field(json, "objects");
  const double confidence = NumberOf(Field(json, "confidence"));
  if (!objects.is_array() || !std::isfinite(confidence)) return HttpExchange::Garbled();
  for (const Json& item : objects) {
    const auto box = item.is_object() ? ReadBox(Field(item, "box")) : std::nullopt;
    const double sure = box ? NumberOf(Field(item, "confidence")) : std::nan("");
    if (!std::isfinite(sure)) return HttpExchange::Garbled();
    v1::Object& object = *out.add_objects();
    *object.mutable_box() = *box;
    object.set_label(TextOf(Field(item, "label")));
    object.set_confidence(sure);
    object.set_needs_review(Field(item, "needs_review") == true);
    *out.add_boxes() = *box;
  }
  out.set_confidence(confidence);
  out.set_calibrated(Field(json, "calibrated") == true);
  out.set_text(TextOf(Field(json, "text")));
  out.set_model(TextOf(Field(json, "model")));
  out.set_advice(TextOf(Field(json, "advice")));
  return out;
}

}  // namespace chord::cli
