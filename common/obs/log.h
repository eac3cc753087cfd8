// Structured logs: one JSON object a line, on stderr or in a file. Bounded, asynchronous, and lossy
// rather than slow: when the reader of stderr stalls, lines are dropped and counted, requests go
// on.
//
// Never log what a user sent: no prompt, no image, no answer text. Ids, sizes, codes and times
// are enough; texts of libraries belong here and not into answers.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/obs/metrics.h"
#include "common/obs/rotating_file.h"
#include "common/obs/trace.h"

namespace chord::obs {

struct LogOptions {
  Role role = Role::kGateway;
  LogLevel level = LogLevel::kInfo;              // lines below are not made
  int queue_lines = 8192;                        // waiting for the writer; 1 to 1,000,000
  int fd = 2;                                    // not owned
  std::shared_ptr<RotatingFile> file = nullptr;  // in place of fd, when set
  Metrics* metrics = nullptr;                    // may be null; must outlive StopLog()
};

// "debug", "info", "warning" or "error"; empty: info. CONFIG_INVALID otherwise.
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text);

// Starts the writer of this process. Before it, and after StopLog, lines go straight to stderr
// without a role. A second Start replaces the first.
void StartLog(const LogOptions& options);
// Writes what is queued, for at most a second, and stops the writer.
void StopLog();
int64_t LogLinesDropped();  // since StartLog

// A value of a line. Texts are cut after 512 bytes; bytes that are not UTF-8 become U+FFFD.
class LogField {
 public:
  LogField(absl::string_view key, absl::string_view text);
  LogField(absl::string_view key, const char* text) : LogField(key, absl::string_view(text)) {}
  LogField(absl::string_view key, const std::string& text)
      : LogField(key, absl::string_view(text)) {}
  LogField(absl::string_view key, bool value) : key_(key), json_(value ? "true" : "false") {}
  LogField(absl::string_view key, double value);  // null when not finite
  LogField(absl::string_view key, absl::Duration milliseconds);
  template <typename Int, std::enable_if_t<std::is_integral_v<Int>, int> = 0>
  LogField(absl::string_view key, Int value) : key_(key), json_(absl::StrCat(value)) {}

  absl::string_view key() const { return key_; }
  const std::string& json() const { return json_; }

 private:
  absl::string_view key_;  // a literal
  std::string json_;
};

// {"ts":…,"level":…,"role":…,"pid":…,"event":…, fields…}. `event` is a literal in snake_case;
// `request_id` (may be empty) is what one request has in all processes.
void Log(LogLevel level, absl::string_view event, absl::string_view request_id,
         std::initializer_list<LogField> fields);
inline void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  Log(level, event, "", fields);
}

// The one line of a request, written when it ends. Its level follows the code: what is our fault is
// an error, what is the client's is information.
struct RequestLog {
  std::string request_id;
  Method method = Method::kGround;
  absl::Status status;  // reason always; text only when it is not of the catalogue (common/base)
  absl::Duration took;
  std::vector<std::pair<Stage, absl::Duration>> stages;
  int64_t image_tokens = 0;
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  int64_t boxes = -1;                          // -1: not an answer with boxes
  absl::string_view cache;                     // a literal: which cache served, or ""
  std::string language_worker, vision_worker;  // which workers took part; empty: none
  std::string api_key;                         // its name; empty: none
  SpanIds span;  // of a sampled trace its span and those of its stages go to the sink (trace.h)
};
void LogRequest(const RequestLog& request);

// `text` as a JSON string with its quotes, valid UTF-8 and without raw control characters.
std::string JsonQuote(absl::string_view text);

}  // namespace chord::obs
