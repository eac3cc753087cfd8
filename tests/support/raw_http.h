// A plain TCP client for tests: says exactly what it is told, also what no decent client would.
#pragma once

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace chord::test {

struct RawResponse {
  int status = 0;  // 0: the connection ended or the time was up before an answer
  std::map<std::string, std::string> fields;  // names in lower case
  std::string body;
  bool closed = false;  // the server ended the connection after it
};

class RawHttp {
 public:
  explicit RawHttp(int port);  // connects to 127.0.0.1; aborts the test program when it cannot
  ~RawHttp();
  RawHttp(const RawHttp&) = delete;
  RawHttp& operator=(const RawHttp&) = delete;

  // False when the server has ended the connection.
  bool Send(absl::string_view bytes);
  // Reads one answer; answers with status 1xx are skipped unless `informational`.
  RawResponse Read(absl::Duration timeout = absl::Seconds(10), bool head = false,
                   bool informational = false);
  // True when the server ends the connection within `timeout`; what it sends until then is dropped.
  bool WaitClosed(absl::Duration timeout = absl::Seconds(10));
  void EndSending();  // half-closes: nothing more comes, answers are still read
  void Close();
  void Reset();  // closes so that the server sees a reset

 private:
  bool Fill(absl::Time deadline);
  int fd_ = -1;
  std::string in_;
  bool eof_ = false;
};

// One request on a connection of its own.
RawResponse Fetch(int port, absl::string_view request, absl::Duration timeout = absl::Seconds(10));

}  // namespace chord::test
