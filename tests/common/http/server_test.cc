#include "common/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/http/operational.h"
#include "tests/support/has_reason.h"
#include "tests/support/raw_http.h"

namespace chord::http {
namespace {

using test::Fetch;
using test::RawHttp;
using test::RawResponse;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr absl::string_view kTail = " HTTP/1.1\r\nHost: x\r\n\r\n";

std::string Get(absl::string_view path) { return absl::StrCat("GET ", path, kTail); }
std::string Post(absl::string_view path, absl::string_view body, absl::string_view fields = "") {
  return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\n", fields,
                      "Content-Length: ", body.size(), "\r\n\r\n", body);
}

class ServerTest : public ::testing::Test {
 protected:
  void StartServer(Server::Options options = {}) {
    options.address = "127.0.0.1:0";
    options.on_exchange = [this](const Server::Exchange& exchange) {
      absl::MutexLock lock(&mu_);
      exchanges_.push_back(exchange);
    };
    std::vector<Route> routes =
        OperationalHandler([] { return std::string("chord_up 1\n"); }, [this] { return ready_; });
    routes.push_back({.method = "POST",
                      .path = "/echo",
                      .handler =
                          [](const Request& request) {
                            Response out;
                            out.content_type = "text/plain";
                            out.body = request.body;
                            return out;
                          },
                      .body_limit = 100'000});
    routes.push_back({.method = "POST",
                      .path = "/wait",
                      .handler =
                          [this](const Request& request) {
                            ++waiting_;
                            while (!release_.HasBeenNotified() && !request.cancel.cancelled()) {
                              (void)request.cancel.WaitUntil(absl::Now() + absl::Milliseconds(5));
                            }
                            if (request.cancel.cancelled()) ++cancelled_;
                            --waiting_;
                            Response out;
                            out.content_type = "text/plain";
                            out.body = "done";
                            return out;
                          },
                      .body_limit = 1000});
    routes.push_back(
        {.method = "POST", .path = "/throw", .handler = [](const Request&) -> Response {
           throw std::runtime_error("secret at 0x1234");
         }});
    routes.push_back({.method = "",
                      .path = "/tree/*",
                      .handler =
                          [](const Request& request) {
                            Response out;
                            out.content_type = "text/plain";
                            out.body =
                                absl::StrCat(request.method, " ", request.path, " ", request.query);
                            return out;
                          },
                      .query = {"milk"}});
    routes.push_back({.method = "POST",
                      .path = "/stream",
                      .handler =
                          [this](const Request& request) {
                            request.stream->Begin({200, "text/event-stream"});
                            request.stream->Write("first");
                            (void)request.cancel.WaitUntil(absl::Now() + absl::Milliseconds(20));
                            // More than one client may leave unread, when it asks for that.
                            for (int64_t left = request.body.size() > 4 ? 1 << 14 : 0;
                                 left > 0 && request.stream->Write(std::string(1 << 14, 'x'));
                                 --left) {
                              (void)request.cancel.WaitUntil(absl::Now() + absl::Microseconds(50));
                            }
                            request.stream->Write(absl::StrCat(" ", request.peer));
                            if (request.cancel.cancelled()) ++cancelled_;
                            return Response();
                          },
                      .body_limit = 1000});
    routes.push_back(
        {.method = "POST",
         .path = "/busy",
         .handler = [](const Request&) { return Response(); },
         .body_limit = 1'000'000'000,
         .admit = [](const Request&) { return errors::Overloaded(absl::Milliseconds(1500)); }});
    auto server = Server::Start(options, std::move(routes));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  template <typename F>
  bool Eventually(F condition, absl::Duration timeout = absl::Seconds(20)) {
    const absl::Time end = absl::Now() + timeout;
    while (!condition()) {
      if (absl::Now() > end) return false;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }

  void ExpectProblem(const RawResponse& response, int status, absl::string_view code) {
    EXPECT_EQ(response.status, status) << code;
    ASSERT_TRUE(response.fields.count("content-type")) << code;
    EXPECT_EQ(response.fields.at("content-type"), "application/problem+json");
    EXPECT_THAT(response.body, HasSubstr(absl::StrCat("\"code\":\"", code, "\"")));
    EXPECT_THAT(response.body, HasSubstr(absl::StrCat("\"status\":", status)));
    EXPECT_THAT(response.body,
                HasSubstr(absl::StrCat("\"request_id\":\"", response.fields.at("x-request-id"))));
    for (const char* part : {"\"type\":\"", "\"title\":\"", "\"detail\":\""}) {
      EXPECT_THAT(response.body, HasSubstr(part));
    }
  }

  int port() const { return server_->port(); }

  absl::Mutex mu_;
  std::vector<Server::Exchange> exchanges_;
  absl::Status ready_;
  std::atomic<int> waiting_{0}, cancelled_{0};
  absl::Notification release_;
  std::unique_ptr<Server> server_;
};

// Everything until the server ends the connection.
std::string ReadAll(int port, absl::string_view request) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string out;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      out.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  return out;
}

TEST_F(ServerTest, StreamsAnAnswerInChunksAndKeepsTheConnection) {
  StartServer();
  const std::string text = ReadAll(port(), absl::StrCat(Post("/stream", "a"),
                                                        "GET /healthz HTTP/1.1\r\nHost: x\r\n"
                                                        "Connection: close\r\n\r\n"));
  EXPECT_THAT(text, HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(text, Not(HasSubstr("HTTP/1.1 200 OK\r\nContent-Length")));
  EXPECT_THAT(text, HasSubstr("\r\n\r\n5\r\nfirst\r\na\r\n 127.0.0.1\r\n0\r\n\r\nHTTP/1.1 200 OK"));
  ASSERT_TRUE(Eventually([&] {
    absl::MutexLock lock(&mu_);
    return exchanges_.size() == 2;
  }));
  absl::MutexLock lock(&mu_);
  EXPECT_EQ(exchanges_[0].route, "/stream");
  EXPECT_EQ(exchanges_[0].response_bytes, 15);
}

TEST_F(ServerTest, StreamsToAnOldClientUntilTheEndOfTheConnection) {
  StartServer();
  const std::string text = ReadAll(port(), "POST /stream HTTP/1.0\r\nContent-Length: 1\r\n\r\na");
  EXPECT_THAT(text, HasSubstr("Connection: close"));
  EXPECT_THAT(text, ::testing::EndsWith("\r\n\r\nfirst 127.0.0.1"));
}

TEST_F(ServerTest, AStreamWhoseClientLeavesFiresItsToken) {
  StartServer();
  {
    RawHttp client(port());
    ASSERT_TRUE(client.Send(Post("/stream", "plenty")));
    client.Reset();
  }
  EXPECT_TRUE(Eventually([&] { return cancelled_ == 1; }));
}

TEST_F(ServerTest, AStreamThatIsNotReadIsCutOff) {
  Server::Options options;
  options.max_stream_bytes = 1 << 20;
  StartServer(options);
  RawHttp client(port());
  ASSERT_TRUE(client.Send(Post("/stream", "plenty")));
  EXPECT_TRUE(Eventually([&] { return cancelled_ == 1; }));
}

TEST_F(ServerTest, AnswersTheOperationalAddresses) {
  StartServer();
  EXPECT_THAT(Fetch(port(), Get("/healthz")).body, HasSubstr("ok"));
  const RawResponse metrics = Fetch(port(), Get("/metrics"));
  EXPECT_EQ(metrics.body, "chord_up 1\n");
  EXPECT_THAT(metrics.fields.at("content-type"), StartsWith("text/plain; version=0.0.4"));
  EXPECT_EQ(Fetch(port(), Get("/readyz")).status, 200);
  ready_ = errors::WorkerUnavailable("vision");
  const RawResponse unready = Fetch(port(), Get("/readyz"));
  ExpectProblem(unready, 503, "WORKER_UNAVAILABLE");
  EXPECT_EQ(unready.fields.at("retry-after"), "1");
}

TEST_F(ServerTest, KeepsAConnectionForManyRequests) {
  StartServer();
  RawHttp client(port());
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(client.Send(Post("/echo", absl::StrCat("body ", i))));
    EXPECT_EQ(client.Read().body, absl::StrCat("body ", i));
  }
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  StartServer();
  RawHttp client(port());
  std::string all;
  for (int i = 0; i < 40; ++i)
    all += Post("/echo", absl::StrCat("body ", i)) + "\r\n" + Get("/healthz");
  ASSERT_TRUE(client.Send(all));
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(client.Read().body, absl::StrCat("body ", i));
    EXPECT_THAT(client.Read().body, HasSubstr("ok"));
  }
}

TEST_F(ServerTest, ReadsABodyThatComesByteByByte) {
  StartServer();
  RawHttp client(port());
  for (char c : Post("/echo", "slow but steady")) ASSERT_TRUE(client.Send(std::string(1, c)));
  EXPECT_EQ(client.Read().body, "slow but steady");
}

TEST_F(ServerTest, ReadsChunkedBodiesAndBoundsThem) {
  StartServer();
  const std::string head = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(Fetch(port(), head + "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n").body, "hello world");
  std::string big = head;
  for (int i = 0; i < 30; ++i) big += "1000\r\n" + std::string(4096, 'x') + "\r\n";
  ExpectProblem(Fetch(port(), big + "0\r\n\r\n"), 413, "BODY_TOO_LARGE");
  ExpectProblem(Fetch(port(), head + "zz\r\n"), 400, "REQUEST_MALFORMED");
  ExpectProblem(Fetch(port(), head + "FFFFFFFFFFFFFFFFF\r\nx"), 400, "REQUEST_MALFORMED");
}

TEST_F(ServerTest, RefusesALargeBodyFromItsHeaderAlone) {
  StartServer();
  RawHttp client(port());
  ASSERT_TRUE(client.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n"));
  const RawResponse refused = client.Read();
  ExpectProblem(refused, 413, "BODY_TOO_LARGE");
  EXPECT_EQ(refused.fields.at("connection"), "close");
}

TEST_F(ServerTest, AClientThatSendsAllOfATooLargeBodyStillFindsTheAnswer) {
  StartServer();
  RawHttp client(port());
  EXPECT_TRUE(client.Send(Post("/echo", std::string(30 << 20, 'x'))));
  ExpectProblem(client.Read(), 413, "BODY_TOO_LARGE");
}

TEST_F(ServerTest, AsksForTheBodyWhenTheClientExpectsIt) {
  StartServer();
  RawHttp client(port());
  ASSERT_TRUE(client.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_EQ(client.Read(absl::Seconds(10), false, true).status, 100);
  ASSERT_TRUE(client.Send("hi"));
  EXPECT_EQ(client.Read().body, "hi");
  ExpectProblem(Fetch(port(),
                      "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                      "Content-Length: 999999\r\n\r\n"),
                413, "BODY_TOO_LARGE");
  ExpectProblem(Fetch(port(), Post("/echo", "x", "Expect: tea\r\n")), 417,
                "EXPECTATION_UNSUPPORTED");
}

TEST_F(ServerTest, AdmissionIsAskedBeforeTheBody) {
  StartServer();
  RawHttp client(port());
  ASSERT_TRUE(client.Send("POST /busy HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n"));
  const RawResponse refused = client.Read();
  ExpectProblem(refused, 429, "OVERLOADED");
  EXPECT_EQ(refused.fields.at("retry-after"), "2");
}

TEST_F(ServerTest, BodiesInMemoryAreBoundedOverAllConnections) {
  Server::Options options;
  options.max_body_memory = 150'000;
  StartServer(options);
  const std::string body(90'000, 'x');
  const std::string request = Post("/echo", body);
  RawHttp first(port());
  ASSERT_TRUE(first.Send(request.substr(0, request.size() - 10)));
  RawResponse refused;
  ASSERT_TRUE(Eventually([&] { return (refused = Fetch(port(), request)).status != 200; }))
      << "until what came of the first body is counted";
  ExpectProblem(refused, 429, "OVERLOADED");
  ASSERT_TRUE(first.Send(request.substr(request.size() - 10)));
  EXPECT_EQ(first.Read().body, body);
  EXPECT_EQ(Fetch(port(), request).body, body);
}

TEST_F(ServerTest, ABodyThatIsOnlyAnnouncedTakesNoRoomFromOthers) {
  Server::Options options;
  options.max_body_memory = 150'000;
  StartServer(options);
  std::vector<std::unique_ptr<RawHttp>> silent;
  for (int i = 0; i < 8; ++i) {
    silent.push_back(std::make_unique<RawHttp>(port()));
    // The go-ahead says that its header has been read.
    ASSERT_TRUE(
        silent.back()->Send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                            "Content-Length: 90000\r\n\r\n"));
    ASSERT_EQ(silent.back()->Read(absl::Seconds(10), false, true).status, 100);
  }
  EXPECT_EQ(Fetch(port(), Post("/echo", "room")).body, "room");
}

TEST_F(ServerTest, SeveralBodiesOfOneClientHaveHalfOfTheRoom) {
  Server::Options options;
  options.max_body_memory = 400'000;
  StartServer(options);
  // In steps of 64 KiB one of them takes 128 KiB, so that two are more than the half.
  const std::string request = Post("/echo", std::string(90'000, 'x'));
  RawHttp first(port());
  ASSERT_TRUE(first.Send(request.substr(0, request.size() - 1)));
  RawResponse refused;
  ASSERT_TRUE(Eventually([&] { return (refused = Fetch(port(), request)).status != 200; }));
  ExpectProblem(refused, 429, "OVERLOADED");
  ASSERT_TRUE(first.Send("x"));
  EXPECT_EQ(first.Read().status, 200);
}

TEST_F(ServerTest, ABodyThatStopsIsCutOffHoweverFastItBegan) {
  Server::Options options;
  options.body_grace = absl::Milliseconds(200);
  options.min_bytes_per_second = 1000;  // 90 s for all of it, far longer than Read waits
  StartServer(options);
  RawHttp client(port());
  ASSERT_TRUE(client.Send(absl::StrCat("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 90001",
                                       "\r\n\r\n", std::string(90'000, 'x'))));
  ExpectProblem(client.Read(), 408, "REQUEST_TIMEOUT");
}

TEST_F(ServerTest, TellsUnknownRoutesAndMethodsApart) {
  StartServer();
  ExpectProblem(Fetch(port(), Get("/nothing")), 404, "ROUTE_UNKNOWN");
  ExpectProblem(Fetch(port(), Get("/echo/")), 404, "ROUTE_UNKNOWN");
  const RawResponse wrong = Fetch(port(), Get("/echo"));
  ExpectProblem(wrong, 405, "METHOD_NOT_ALLOWED");
  EXPECT_EQ(wrong.fields.at("allow"), "POST, OPTIONS");
  const RawResponse options = Fetch(port(), absl::StrCat("OPTIONS /healthz", kTail));
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.fields.at("allow"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(Fetch(port(), absl::StrCat("OPTIONS *", kTail)).status, 204);
  EXPECT_EQ(Fetch(port(), absl::StrCat("BREW /tree/pot?milk=1", kTail)).body,
            "BREW /tree/pot milk=1");
  EXPECT_EQ(Fetch(port(), Get("http://example.org/tree/x")).body, "GET /tree/x ");
}

TEST_F(ServerTest, HeadHasTheHeaderOfGetAndNoBody) {
  StartServer();
  RawHttp client(port());
  ASSERT_TRUE(client.Send(absl::StrCat("HEAD /metrics", kTail)));
  const RawResponse head = client.Read(absl::Seconds(10), /*head=*/true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.fields.at("content-length"), "11");
  ASSERT_TRUE(client.Send(Get("/healthz")));
  EXPECT_THAT(client.Read().body, HasSubstr("ok"));
}

TEST_F(ServerTest, MalformedRequestsGetAProblemAndAreCut) {
  StartServer();
  struct Case {
    std::string bytes;
    int status;
    absl::string_view code;
  };
  const Case cases[] = {
      {"nonsense\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "HTTP_VERSION_UNSUPPORTED"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP_VERSION_UNSUPPORTED"},
      {"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505, "HTTP_VERSION_UNSUPPORTED"},
      {"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"GET /healthz HTTP/1.1\nHost: x\n\n", 400, "REQUEST_MALFORMED"},
      {"GET /healthz HTTP/1.1\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"GET healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"GET /healthz HTTP/1.1\r\nHost: a\r\nbad line\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400,
       "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400,
       "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
       "0\r\n\r\n",
       400, "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400,
       "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400,
       "REQUEST_MALFORMED"},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400,
       "REQUEST_MALFORMED"},
      {"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400, "REQUEST_MALFORMED"},
      {absl::StrCat("GET /", std::string(17'000, 'x'), " HTTP/1.1\r\nHost: a\r\n\r\n"), 431,
       "HEADERS_TOO_LARGE"},
      {absl::StrCat("GET / HTTP/1.1\r\nHost: a\r\nX: ", std::string(17'000, 'x'), "\r\n\r\n"), 431,
       "HEADERS_TOO_LARGE"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.bytes.substr(0, 80));
    RawHttp client(port());
    client.Send(c.bytes);
    ExpectProblem(client.Read(), c.status, c.code);
    client.Close();
    EXPECT_EQ(Fetch(port(), Get("/healthz")).status, 200);
  }
}

TEST_F(ServerTest, ARequestThatEndsTooEarlyIsToldSo) {
  StartServer();
  for (absl::string_view bytes :
       {"GET /healthz HTT", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nxx",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"}) {
    SCOPED_TRACE(bytes);
    RawHttp client(port());
    client.Send(bytes);
    client.EndSending();
    const auto answer = client.Read();
    ExpectProblem(answer, 400, "REQUEST_MALFORMED");
    EXPECT_TRUE(client.WaitClosed());
  }
  RawHttp silent(port());  // asked for nothing, is told nothing
  silent.EndSending();
  EXPECT_EQ(silent.Read().status, 0);
}

TEST_F(ServerTest, AnsweredIdsAreOursAndUniqueWhileTheClientsOwnIsEchoed) {
  StartServer();
  const std::string request =
      "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: trace-12345\r\n\r\n";
  const RawResponse first = Fetch(port(), request), second = Fetch(port(), request);
  EXPECT_THAT(first.fields.at("x-request-id"), StartsWith("req_"));
  EXPECT_NE(first.fields.at("x-request-id"), second.fields.at("x-request-id"));
  EXPECT_EQ(first.fields.at("x-client-request-id"), "trace-12345");
  const RawResponse forged =
      Fetch(port(), "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: <script>alert\r\n\r\n");
  EXPECT_EQ(forged.fields.count("x-client-request-id"), 0);
}

TEST_F(ServerTest, AClientThatGoesAwayCancelsItsRequest) {
  StartServer();
  for (const bool reset : {false, true}) {
    cancelled_ = 0;
    RawHttp client(port());
    ASSERT_TRUE(client.Send(Post("/wait", "x")));
    ASSERT_TRUE(Eventually([&] { return waiting_ == 1; }));
    reset ? client.Reset() : client.Close();
    EXPECT_TRUE(Eventually([&] { return cancelled_ == 1 && waiting_ == 0; }));
  }
}

TEST_F(ServerTest, AClientThatEndsItsSendingSideGetsItsResponse) {
  StartServer();
  RawHttp waiting(port());
  ASSERT_TRUE(waiting.Send(Post("/wait", "x")));
  waiting.EndSending();
  ASSERT_TRUE(Eventually([&] { return waiting_ == 1; }));
  // Its first byte comes early, which no reader can tell from a slow response.
  EXPECT_EQ(waiting.Read(absl::Milliseconds(200)).status, 0);
  EXPECT_EQ(cancelled_, 0);
  release_.Notify();
  const RawResponse response = waiting.Read();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "done");
  EXPECT_EQ(response.fields.at("connection"), "close");
  EXPECT_TRUE(waiting.WaitClosed());
  EXPECT_EQ(cancelled_, 0);

  RawHttp pipelined(port());
  ASSERT_TRUE(pipelined.Send(
      absl::StrCat(Post("/wait", "x"), Post("/echo", "two"), "\r\n", Get("/healthz"))));
  pipelined.EndSending();
  EXPECT_EQ(pipelined.Read().body, "done");
  EXPECT_EQ(pipelined.Read().body, "two");
  EXPECT_EQ(pipelined.Read().status, 200);
  EXPECT_TRUE(pipelined.WaitClosed());

  RawHttp streamed(port());
  ASSERT_TRUE(streamed.Send(Post("/stream", "a")));
  streamed.EndSending();
  EXPECT_EQ(streamed.Read().status, 200);
  EXPECT_TRUE(streamed.WaitClosed());
  EXPECT_EQ(cancelled_, 0);
}

TEST_F(ServerTest, AStreamIsCancelledWhenItsHalfClosedClientCloses) {
  StartServer();
  {
    RawHttp client(port());
    ASSERT_TRUE(client.Send(Post("/stream", "plenty")));
    client.EndSending();
  }
  EXPECT_TRUE(Eventually([&] { return cancelled_ == 1; }));
}

TEST_F(ServerTest, RefusesQueryParametersThatNoRouteTakes) {
  StartServer();
  ExpectProblem(Fetch(port(), Get("/tree/pot?sugar=1")), 400, "FIELD_UNKNOWN");
  ExpectProblem(Fetch(port(), Get("/tree/pot?milk=1&sugar")), 400, "FIELD_UNKNOWN");
  EXPECT_THAT(Fetch(port(), Get("/tree/pot?sugar=1")).body, HasSubstr("sugar"));
  EXPECT_EQ(Fetch(port(), Get("/tree/pot?")).status, 200);
  EXPECT_EQ(Fetch(port(), Get("/healthz?probe=1")).status, 200);
}

TEST_F(ServerTest, PagesOfAllowedOriginsMayReadResponses) {
  Server::Options options;
  options.cors_origins = {"https://app.example"};
  StartServer(options);
  const auto ask = [&](absl::string_view method, absl::string_view path, absl::string_view origin,
                       absl::string_view fields = "") {
    return Fetch(port(), absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: x\r\nOrigin: ", origin,
                                      "\r\n", fields, "\r\n"));
  };
  const char* allow = "access-control-allow-origin";
  EXPECT_EQ(ask("GET", "/healthz", "https://app.example").fields.at(allow), "https://app.example");
  // A refusal can be read, too.
  EXPECT_EQ(ask("GET", "/nothing", "https://app.example").fields.at(allow), "https://app.example");
  const RawResponse foreign = ask("GET", "/healthz", "https://evil.example");
  EXPECT_EQ(foreign.fields.count(allow), 0);
  EXPECT_EQ(foreign.fields.at("vary"), "Origin");

  const char* preflight = "Access-Control-Request-Method: POST\r\n";
  const RawResponse allowed = ask("OPTIONS", "/echo", "https://app.example", preflight);
  EXPECT_EQ(allowed.status, 204);
  EXPECT_EQ(allowed.fields.at(allow), "https://app.example");
  EXPECT_EQ(allowed.fields.at("access-control-allow-methods"), "POST, OPTIONS");
  EXPECT_THAT(allowed.fields.at("access-control-allow-headers"), HasSubstr("Content-Type"));
  const RawResponse refused = ask("OPTIONS", "/echo", "https://evil.example", preflight);
  EXPECT_EQ(refused.fields.count(allow), 0);
  EXPECT_EQ(refused.fields.count("access-control-allow-methods"), 0);
}

TEST_F(ServerTest, WithoutTheSettingNoOriginIsAllowed) {
  StartServer();
  const RawResponse response =
      Fetch(port(),
            "OPTIONS /echo HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\n"
            "Access-Control-Request-Method: POST\r\n\r\n");
  EXPECT_EQ(response.fields.count("access-control-allow-origin"), 0);
  EXPECT_EQ(response.fields.count("vary"), 0);
}

TEST_F(ServerTest, AnExceptionOfAHandlerShowsNothing) {
  StartServer();
  const RawResponse response = Fetch(port(), Post("/throw", ""));
  ExpectProblem(response, 500, "INTERNAL");
  EXPECT_THAT(response.body, Not(HasSubstr("secret")));
}

TEST_F(ServerTest, OverloadIsToldWhileProbesStillAnswer) {
  Server::Options options;
  options.handler_threads = 2;
  options.max_queued = 1;
  StartServer(options);
  std::vector<std::unique_ptr<RawHttp>> clients;
  for (int i = 0; i < 2; ++i) {
    clients.push_back(std::make_unique<RawHttp>(port()));
    ASSERT_TRUE(clients.back()->Send(Post("/wait", "x")));
    ASSERT_TRUE(Eventually([&] { return waiting_ == i + 1; }));
  }
  // Of two more, one waits in the queue and one is refused, whichever came first.
  RawHttp third(port()), fourth(port());
  ASSERT_TRUE(third.Send(Post("/wait", "x")) && fourth.Send(Post("/wait", "x")));
  const bool third_refused = third.Read(absl::Milliseconds(500)).status == 429;
  RawHttp& queued = third_refused ? fourth : third;
  if (!third_refused) {
    const RawResponse refused = fourth.Read();
    ExpectProblem(refused, 429, "OVERLOADED");
    EXPECT_EQ(refused.fields.at("retry-after"), "1");
  }
  EXPECT_EQ(Fetch(port(), Get("/healthz")).status, 200);
  release_.Notify();
  EXPECT_EQ(queued.Read().body, "done");
  for (auto& client : clients) EXPECT_EQ(client->Read().body, "done");
}

TEST_F(ServerTest, ASlowHeaderIsCutOff) {
  Server::Options options;
  options.header_timeout = absl::Milliseconds(200);
  StartServer(options);
  RawHttp silent(port()), dribbling(port());
  ASSERT_TRUE(dribbling.Send("GET /healthz HTTP/1.1\r\n"));
  EXPECT_TRUE(silent.WaitClosed());
  ExpectProblem(dribbling.Read(), 408, "REQUEST_TIMEOUT");
}

TEST_F(ServerTest, ABodyThatDribblesIsCutOffThoughItNeverStops) {
  Server::Options options;
  options.body_grace = absl::Milliseconds(300);
  StartServer(options);
  RawHttp client(port());
  ASSERT_TRUE(client.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n"));
  RawResponse response;
  const absl::Time begun = absl::Now();
  while (response.status == 0 && absl::Now() - begun < absl::Seconds(20)) {
    if (!client.Send("x")) break;
    response = client.Read(absl::Milliseconds(10));
  }
  ExpectProblem(response, 408, "REQUEST_TIMEOUT");
}

TEST_F(ServerTest, AnIdleConnectionMakesRoomForANewOne) {
  Server::Options options;
  options.max_connections = 8;
  StartServer(options);
  std::vector<std::unique_ptr<RawHttp>> idle;
  for (int i = 0; i < 200; ++i) {
    idle.push_back(std::make_unique<RawHttp>(port()));
    idle.back()->Send("GET /");
  }
  EXPECT_TRUE(Eventually([&] { return Fetch(port(), Get("/healthz")).status == 200; }));
}

TEST_F(ServerTest, ConnectionsOverTheCapAreToldSoWhenAllOthersAreBusy) {
  Server::Options options;
  options.max_connections = 2;
  StartServer(options);
  RawHttp first(port()), second(port());
  ASSERT_TRUE(first.Send(Post("/wait", "x")));
  ASSERT_TRUE(second.Send(Post("/wait", "x")));
  ASSERT_TRUE(Eventually([&] { return waiting_ == 2; }));
  ExpectProblem(Fetch(port(), Get("/healthz")), 503, "CONNECTION_LIMIT");
  release_.Notify();
  EXPECT_EQ(first.Read().status, 200);
}

TEST_F(ServerTest, ShutdownLetsRequestsFinishAndTakesNoNewOnes) {
  StartServer();
  RawHttp busy(port()), idle(port());
  ASSERT_TRUE(idle.Send(Get("/healthz")));
  EXPECT_EQ(idle.Read().status, 200);
  ASSERT_TRUE(busy.Send(Post("/wait", "x")));
  ASSERT_TRUE(Eventually([&] { return waiting_ == 1; }));
  std::thread shutdown([&] { server_->Shutdown(absl::Now() + absl::Seconds(30)); });
  EXPECT_TRUE(idle.WaitClosed());
  release_.Notify();
  const RawResponse done = busy.Read();
  EXPECT_EQ(done.body, "done");
  EXPECT_EQ(done.fields.at("connection"), "close");
  shutdown.join();
  EXPECT_EQ(cancelled_, 0);
}

TEST_F(ServerTest, ShutdownCancelsWhatDoesNotFinishInTime) {
  StartServer();
  RawHttp client(port());
  ASSERT_TRUE(client.Send(Post("/wait", "x")));
  ASSERT_TRUE(Eventually([&] { return waiting_ == 1; }));
  server_->Shutdown(absl::Now() + absl::Milliseconds(50));
  EXPECT_EQ(cancelled_, 1);
}

TEST_F(ServerTest, RefusesAnAddressThatIsTaken) {
  StartServer();
  Server::Options options;
  options.address = absl::StrCat("127.0.0.1:", port());
  const auto second = Server::Start(options, {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.status(), HasReason(Reason::kConfigInvalid));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  for (const char* bad : {"", "nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "[::1:80",
                          "203.0.113.1:80"}) {
    options.address = bad;
    EXPECT_FALSE(Server::Start(options, {}).ok()) << bad;
  }
}

TEST_F(ServerTest, EveryExchangeIsToldWithClosedLabels) {
  StartServer();
  Fetch(port(), Post("/echo", "12345"));
  Fetch(port(), absl::StrCat("EVIL /some/secret/path", kTail));
  Fetch(port(), "\x16\x03\x01garbage\r\n\r\n");
  absl::MutexLock lock(&mu_);
  ASSERT_EQ(exchanges_.size(), 3);
  EXPECT_EQ(exchanges_[0].route, "/echo");
  EXPECT_EQ(exchanges_[0].request_bytes, 5);
  EXPECT_EQ(exchanges_[0].response_bytes, 5);
  EXPECT_EQ(exchanges_[1].method, "OTHER");
  EXPECT_EQ(exchanges_[1].route, "");
  EXPECT_TRUE(errors::Is(exchanges_[1].refusal, Reason::kRouteUnknown));
  EXPECT_TRUE(errors::Is(exchanges_[2].refusal, Reason::kRequestMalformed));
}

}  // namespace
}  // namespace chord::http
