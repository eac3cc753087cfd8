#include "tests/support/raw_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace chord::test {

RawHttp::RawHttp(int port) {
  fd_ = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    std::perror("connect");
    std::abort();
  }
}

RawHttp::~RawHttp() { Close(); }

void RawHttp::EndSending() { shutdown(fd_, SHUT_WR); }

void RawHttp::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void RawHttp::Reset() {
  const linger hard = {1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  Close();
}

bool RawHttp::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawHttp::Fill(absl::Time deadline) {
  if (eof_) return false;
  pollfd poller = {fd_, POLLIN, 0};
  const int64_t ms = absl::ToInt64Milliseconds(deadline - absl::Now());
  if (ms <= 0 || poll(&poller, 1, static_cast<int>(ms)) <= 0) return false;
  char chunk[16384];
  const ssize_t got = recv(fd_, chunk, sizeof(chunk), 0);
  if (got <= 0) {
    eof_ = true;
    return false;
  }
  in_.append(chunk, static_cast<size_t>(got));
  return true;
}

RawResponse RawHttp::Read(absl::Duration timeout, bool head, bool informational) {
  const absl::Time deadline = absl::Now() + timeout;
  RawResponse out;
  size_t end;
  while ((end = in_.find("\r\n\r\n")) == std::string::npos) {
    if (!Fill(deadline)) {
      out.closed = eof_;
      return out;
    }
  }
  const std::vector<std::string> lines = absl::StrSplit(in_.substr(0, end), "\r\n");
  in_.erase(0, end + 4);
  const std::vector<std::string> words = absl::StrSplit(lines[0], absl::MaxSplits(' ', 2));
  if (words.size() < 2 || !absl::SimpleAtoi(words[1], &out.status)) return out;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string> field = absl::StrSplit(lines[i], absl::MaxSplits(": ", 1));
    if (field.size() == 2) out.fields[absl::AsciiStrToLower(field[0])] = field[1];
  }
  if (out.status < 200) {
    return informational ? out : Read(deadline - absl::Now(), head, informational);
  }
  size_t length = 0;
  if (!head && out.fields.count("content-length") > 0 &&
      !absl::SimpleAtoi(out.fields["content-length"], &length)) {
    return out;
  }
  while (in_.size() < length && Fill(deadline)) {
  }
  out.body = in_.substr(0, length);
  in_.erase(0, length);
  return out;
}

bool RawHttp::WaitClosed(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (Fill(deadline)) in_.clear();
  return eof_;
}

RawResponse Fetch(int port, absl::string_view request, absl::Duration timeout) {
  RawHttp client(port);
  client.Send(request);
  return client.Read(timeout);
}

}  // namespace chord::test
