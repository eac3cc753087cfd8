#include "common/http/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "common/base/errors.h"
#include "common/http/server.h"

namespace chord::http {
namespace {

ClientRequest Post(const std::string& path, std::vector<std::string> parts) {
  ClientRequest out;
  out.path = path;
  for (std::string& part : parts) {
    out.body.push_back(std::make_shared<const std::string>(std::move(part)));
  }
  out.timeout = absl::Seconds(10);
  return out;
}

absl::StatusOr<Response> Ask(Client& client, ClientRequest request, std::string* seen = nullptr) {
  absl::StatusOr<Response> out = absl::UnknownError("");
  absl::Notification done;
  std::function<void(absl::string_view)> on_body;
  if (seen != nullptr) {
    on_body = [seen](absl::string_view part) { seen->append(part.data(), part.size()); };
  }
  client.Send(std::move(request), std::move(on_body), [&](absl::StatusOr<Response> response) {
    out = std::move(response);
    done.Notify();
  });
  done.WaitForNotification();
  return out;
}

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<Route> routes(3);
    routes[0] = {"POST", "/echo", [](const Request& request) {
                   Response out;
                   out.content_type = "text/plain";
                   out.body = request.body + "|" + std::string(request.field("x-word"));
                   return out;
                 }};
    routes[0].body_limit = 8 << 20;
    routes[1] = {"POST", "/slow", [](const Request& request) {
                   // Until the client goes away.
                   absl::Notification cancelled;
                   const auto hook = request.cancel.OnCancel([&] { cancelled.Notify(); });
                   cancelled.WaitForNotificationWithTimeout(absl::Seconds(20));
                   return Response();
                 }};
    routes[1].body_limit = 1 << 10;
    routes[2] = {"POST", "/small", [](const Request&) { return Response(); }};
    routes[2].body_limit = 10;
    Server::Options options;
    options.address = "127.0.0.1:0";
    options.handler_threads = 16;
    options.max_queued = 64;
    options.on_exchange = [this](const Server::Exchange&) { ++exchanges_; };
    server_ = *Server::Start(options, std::move(routes));
    client_ = *Client::Start({.address = server_->address()});
  }

  std::atomic<int> exchanges_{0};
  std::unique_ptr<Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, SendsThePartsInOrderAndReadsTheAnswer) {
  ClientRequest request = Post("/echo", {"one,", "", "two,", std::string(3 << 20, 'x')});
  request.fields = {{"X-Word", "hello"}};
  const auto answer = Ask(*client_, std::move(request));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->content_type, "text/plain");
  EXPECT_EQ(answer->body, "one,two," + std::string(3 << 20, 'x') + "|hello");
}

TEST_F(ClientTest, ManyAtOnceAllGetTheirOwnAnswer) {
  constexpr int kCount = 60;
  std::vector<std::string> got(kCount);
  absl::BlockingCounter left(kCount);
  for (int i = 0; i < kCount; ++i) {
    client_->Send(Post("/echo", {absl::StrCat(i)}), nullptr,
                  [&, i](const absl::StatusOr<Response>& answer) {
                    got[static_cast<size_t>(i)] = answer.ok() ? answer->body : "failed";
                    left.DecrementCount();
                  });
  }
  left.Wait();
  for (int i = 0; i < kCount; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], absl::StrCat(i, "|"));
}

TEST_F(ClientTest, ARefusalIsAnAnswerAlsoWhenItComesBeforeTheBodyIsSent) {
  for (int i = 0; i < 5; ++i) {
    const auto answer = Ask(*client_, Post("/small", {std::string(4 << 20, 'x')}));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 413);
  }
  // The next exchange is not disturbed by what was left over.
  EXPECT_TRUE(Ask(*client_, Post("/echo", {"a"})).ok());
}

TEST_F(ClientTest, TheTimeoutEndsAnExchange) {
  ClientRequest request = Post("/slow", {"x"});
  request.timeout = absl::Milliseconds(50);
  EXPECT_EQ(Ask(*client_, std::move(request)).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClientTest, CancelAllEndsWhatIsUnderWayAndNothingElse) {
  absl::Notification done;
  absl::Status status;
  client_->Send(Post("/slow", {"x"}), nullptr, [&](const absl::StatusOr<Response>& answer) {
    status = answer.status();
    done.Notify();
  });
  client_->CancelAll();
  done.WaitForNotification();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(Ask(*client_, Post("/echo", {"a"})).ok());
}

TEST_F(ClientTest, ItsEndEndsWhatIsUnderWay) {
  std::atomic<int> ended{0};
  for (int i = 0; i < 3; ++i) {
    client_->Send(Post("/slow", {"x"}), nullptr, [&](const absl::StatusOr<Response>&) { ++ended; });
  }
  client_.reset();
  EXPECT_EQ(ended, 3);
}

TEST(ClientStartTest, RefusesAnAddressItCannotRead) {
  EXPECT_FALSE(Client::Start({.address = "nonsense"}).ok());
  EXPECT_FALSE(Client::Start({.address = "no.such.host.invalid:80"}).ok());
}

// A server that says exactly what the test wants, once.
class Scripted {
 public:
  // Each of `writes` is sent when `may_send` (of its index) says so; the first refusal ends it.
  explicit Scripted(
      std::vector<std::string> writes,
      std::function<bool(size_t)> may_send = [](size_t) { return true; }) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, writes = std::move(writes), may_send = std::move(may_send)] {
      const int fd = accept(listener_, nullptr, nullptr);
      std::string in;
      char chunk[4096];
      while (in.find("\r\n\r\n") == std::string::npos) {
        const ssize_t got = recv(fd, chunk, sizeof(chunk), 0);
        if (got <= 0) break;
        in.append(chunk, static_cast<size_t>(got));
      }
      for (size_t i = 0; i < writes.size() && may_send(i); ++i) {
        send(fd, writes[i].data(), writes[i].size(), MSG_NOSIGNAL);
      }
      close(fd);
    });
  }
  ~Scripted() {
    thread_.join();
    close(listener_);
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
};

TEST(ClientWireTest, ReadsChunksAndShowsThemAsTheyCome) {
  Scripted server({"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n",
                   "5\r\nhello\r\n", "1\r\n \r\n5\r\nworld\r\n", "0\r\n\r\n"});
  auto client = *Client::Start({.address = server.address()});
  std::string seen;
  const auto answer = Ask(*client, Post("/", {}), &seen);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(seen, "hello world");
  EXPECT_EQ(answer->body, "hello world");
}

// The server goes on only when the client has shown what it has: one that holds parts back until
// the end never gets there.
TEST(ClientWireTest, ShowsAPartBeforeTheServerSendsTheNext) {
  std::vector<absl::Notification> shown(3);
  Scripted server({"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "1\r\nb\r\n",
                   "1\r\nc\r\n", "0\r\n\r\n"},
                  [&shown](size_t write) {
                    return write == 0 ||
                           shown[write - 1].WaitForNotificationWithTimeout(absl::Seconds(30));
                  });
  auto client = *Client::Start({.address = server.address()});
  std::string seen;
  absl::Notification done;
  absl::StatusOr<Response> answer = absl::UnknownError("");
  client->Send(
      Post("/", {}),
      [&](absl::string_view part) {
        seen.append(part.data(), part.size());
        shown[seen.size() - 1].Notify();
      },
      [&](absl::StatusOr<Response> response) {
        answer = std::move(response);
        done.Notify();
      });
  done.WaitForNotification();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(seen, "abc");
}

TEST(ClientWireTest, AnAnswerThatIsCutOrNoHttpIsUnavailable) {
  const std::vector<std::string> kBad[] = {
      {},
      {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"},
      {"SSH-2.0-whatever\r\n\r\n"},
      {"HTTP/1.1 200 OK\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"}};
  for (const auto& writes : kBad) {
    Scripted server(writes);
    auto client = *Client::Start({.address = server.address()});
    EXPECT_EQ(Ask(*client, Post("/", {})).status().code(), absl::StatusCode::kUnavailable);
  }
}

}  // namespace
}  // namespace chord::http
