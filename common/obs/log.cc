#include "common/obs/log.h"

#include <poll.h>
#include <signal.h>
#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <memory>
#include <mutex>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"

namespace chord::obs {
namespace {

constexpr size_t kMaxTextBytes = 512;
// A pipe takes a write of this size whole or not at all, so lines of several processes on one
// stderr never mix, and poll() tells beforehand whether the write will block.
constexpr size_t kMaxLineBytes = 4096;
constexpr absl::Duration kDrainTime = absl::Seconds(1);

// Length of the well-formed UTF-8 character at the start of `text`, or 0; then *bad is the length
// of the maximal subpart to replace.
size_t CharacterLength(absl::string_view text, size_t* bad) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  *bad = 1;
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                        : first >= 0xE0 && first <= 0xEF ? 3
                        : first >= 0xF0 && first <= 0xF4 ? 4
                                                         : 0;
  if (length == 0) return 0;
  for (size_t i = 1; i < length; ++i) {
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1) {
      if (first == 0xE0) low = 0xA0;   // overlong
      if (first == 0xED) high = 0x9F;  // surrogates
      if (first == 0xF0) low = 0x90;   // overlong
      if (first == 0xF4) high = 0x8F;  // beyond U+10FFFF
    }
    if (i >= text.size() || byte(i) < low || byte(i) > high) return 0;
    *bad = i + 1;
  }
  return length;
}

class FdSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  FdSink(int fd, std::shared_ptr<RotatingFile> file) : fd_(fd), file_(std::move(file)) {}
  // From now on a reader that takes nothing is waited for at most until `deadline` in all.
  void StopBy(absl::Time deadline) { stop_by_.store(absl::ToUnixNanos(deadline)); }
  int64_t dropped() const { return dropped_.load(); }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    absl::string_view rest(message.payload.data(), message.payload.size());
    if (file_ != nullptr) {
      if (!file_->Write(rest, absl::Now())) ++dropped_;
      return;
    }
    while (!rest.empty()) {
      pollfd slot{fd_, POLLOUT, 0};
      const bool late = absl::ToUnixNanos(absl::Now()) > stop_by_.load();
      const int ready = poll(&slot, 1, late ? 0 : 50);
      if (ready < 0 && errno != EINTR) break;
      if (ready <= 0) {
        if (late) break;
        continue;
      }
      const ssize_t n = write(fd_, rest.data(), rest.size());
      if (n > 0) {
        rest.remove_prefix(static_cast<size_t>(n));
      } else if (errno != EINTR && errno != EAGAIN) {
        break;  // the reader has closed, or its disk is full
      }
    }
    if (!rest.empty()) ++dropped_;
  }
  void flush_() override {}

  const int fd_;
  const std::shared_ptr<RotatingFile> file_;  // used by the writer's thread alone
  std::atomic<int64_t> stop_by_{INT64_MAX};
  std::atomic<int64_t> dropped_{0};
};

struct Writer {
  LogOptions options;
  std::shared_ptr<FdSink> sink;
  std::shared_ptr<spdlog::details::thread_pool> pool;
  std::shared_ptr<spdlog::async_logger> logger;

  int64_t dropped() const {
    return static_cast<int64_t>(pool->overrun_counter()) + sink->dropped();
  }
};

ABSL_CONST_INIT absl::Mutex writer_mutex(absl::kConstInit);
std::shared_ptr<Writer>& CurrentWriter() {  // under writer_mutex; leaked: other threads may log
  static auto& writer = *new std::shared_ptr<Writer>;
  return writer;
}
std::shared_ptr<Writer> GetWriter() {
  const absl::MutexLock lock(&writer_mutex);
  return CurrentWriter();
}

void Write(LogLevel level, absl::string_view event, absl::string_view request_id,
           absl::Span<const LogField> fields) {
  const std::shared_ptr<Writer> writer = GetWriter();
  if (writer != nullptr && level < writer->options.level) return;
  std::string line = absl::StrCat(
      "{\"ts\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
      "\",\"level\":\"", Name(level), "\"");
  if (writer != nullptr) absl::StrAppend(&line, ",\"role\":\"", Name(writer->options.role), "\"");
  absl::StrAppend(&line, ",\"pid\":", getpid(), ",\"event\":", JsonQuote(event));
  if (!request_id.empty()) {
    absl::StrAppend(&line, ",\"request_id\":", JsonQuote(request_id.substr(0, 64)));
  }
  constexpr absl::string_view kCut = ",\"cut\":true";
  for (const LogField& field : fields) {
    const std::string pair = absl::StrCat(",", JsonQuote(field.key()), ":", field.json());
    if (line.size() + pair.size() + kCut.size() + 2 > kMaxLineBytes) {
      absl::StrAppend(&line, kCut);
      break;
    }
    line += pair;
  }
  line += "}\n";
  if (writer == nullptr) {
    (void)!write(STDERR_FILENO, line.data(), line.size());
    return;
  }
  writer->logger->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
  if (writer->options.metrics != nullptr) {
    writer->options.metrics->LogLine(level);
    writer->options.metrics->SetLogDropped(writer->dropped());
  }
}

LogLevel LevelOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
      return LogLevel::kError;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
      return LogLevel::kWarning;
    default:
      return LogLevel::kInfo;
  }
}

}  // namespace

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text) {
  if (text.empty()) return LogLevel::kInfo;
  for (size_t i = 0; i <= static_cast<size_t>(LogLevel::kMaxValue); ++i) {
    if (text == Name(static_cast<LogLevel>(i))) return static_cast<LogLevel>(i);
  }
  return errors::ConfigInvalid("The setting log.level must be debug, info, warning or error.");
}

void StartLog(const LogOptions& options) {
  StopLog();
  auto writer = std::make_shared<Writer>();
  writer->options = options;
  writer->sink = std::make_shared<FdSink>(options.fd, options.file);
  writer->pool = std::make_shared<spdlog::details::thread_pool>(
      static_cast<size_t>(std::clamp(options.queue_lines, 1, 1'000'000)), 1, [] {
        // Signals are for other threads, and a reader that went away must not kill the process.
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, nullptr);
      });
  writer->logger = std::make_shared<spdlog::async_logger>(
      "chord", writer->sink, writer->pool, spdlog::async_overflow_policy::overrun_oldest);
  const absl::MutexLock lock(&writer_mutex);
  CurrentWriter() = std::move(writer);
}

void StopLog() {
  std::shared_ptr<Writer> writer;
  {
    const absl::MutexLock lock(&writer_mutex);
    writer.swap(CurrentWriter());
  }
  if (writer == nullptr) return;
  writer->sink->StopBy(absl::Now() + kDrainTime);
  const std::shared_ptr<FdSink> sink = writer->sink;
  const auto overrun = static_cast<int64_t>(writer->pool->overrun_counter());
  Metrics* const metrics = writer->options.metrics;
  writer.reset();  // the last owner joins the writer's thread once the queue is empty
  if (metrics != nullptr) metrics->SetLogDropped(overrun + sink->dropped());
}

int64_t LogLinesDropped() {
  const std::shared_ptr<Writer> writer = GetWriter();
  return writer == nullptr ? 0 : writer->dropped();
}

std::string JsonQuote(absl::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    size_t bad = 0;
    const size_t length = CharacterLength(text, &bad);
    const auto c = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += text[0];
    } else if (c < 0x20 || c == 0x7F) {
      absl::StrAppendFormat(&out, "\\u%04x", c);
    } else {
      out.append(text.data(), length);
    }
    text.remove_prefix(length == 0 ? bad : length);
  }
  return out + "\"";
}

LogField::LogField(absl::string_view key, absl::string_view text) : key_(key) {
  if (text.size() <= kMaxTextBytes) {
    json_ = JsonQuote(text);
    return;
  }
  // Not inside a character.
  size_t end = kMaxTextBytes;
  while (end > kMaxTextBytes - 4 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  json_ = JsonQuote(absl::StrCat(text.substr(0, end), "\xE2\x80\xA6"));
}

LogField::LogField(absl::string_view key, double value)
    : key_(key), json_(std::isfinite(value) ? absl::StrFormat("%.6g", value) : "null") {}

LogField::LogField(absl::string_view key, absl::Duration milliseconds)
    : LogField(key, std::round(absl::ToDoubleMilliseconds(milliseconds) * 1000) / 1000) {}

void Log(LogLevel level, absl::string_view event, absl::string_view request_id,
         std::initializer_list<LogField> fields) {
  Write(level, event, request_id, absl::MakeConstSpan(fields.begin(), fields.size()));
}

namespace {

// The stages are laid end to end, in their order: their durations are measured, their beginnings
// follow from them.
std::vector<Span> SpansOf(const RequestLog& request) {
  Span whole;
  whole.name = std::string(Name(request.method));
  whole.trace_id = request.span.own.trace_id;
  whole.span_id = request.span.own.span_id;
  whole.parent_id = request.span.parent_id;
  whole.server = true;
  whole.end = absl::Now();
  whole.start = whole.end - request.took;
  whole.code = request.status.code();
  whole.attributes.emplace_back("chord.request_id", request.request_id);
  if (!request.status.ok()) {
    whole.attributes.emplace_back("error.type", ErrorReason(request.status));
  }
  std::vector<Span> out = {whole};
  absl::Time at = whole.start;
  const bool gateway = request.method < Method::kEncode;
  for (const auto& [stage, took] : request.stages) {
    // The gateway's line also has the workers' stages, which are spans of theirs.
    if (gateway && stage != Stage::kQueue) continue;
    Span part;
    part.name = std::string(Name(stage));
    part.trace_id = whole.trace_id;
    part.span_id = NewSpanId();
    part.parent_id = whole.span_id;
    part.start = at;
    at = part.end = std::min(at + took, whole.end);
    out.push_back(std::move(part));
  }
  return out;
}

}  // namespace

void LogRequest(const RequestLog& request) {
  std::vector<LogField> fields;
  fields.emplace_back("method", Name(request.method));
  fields.emplace_back("code", absl::StatusCodeToString(request.status.code()));
  if (!request.status.ok()) {
    fields.emplace_back("reason", ErrorReason(request.status));
    if (!IsCatalogued(request.status)) fields.emplace_back("error", request.status.message());
  }
  fields.emplace_back("ms", request.took);
  if (request.image_tokens > 0) fields.emplace_back("image_tokens", request.image_tokens);
  if (request.prompt_tokens > 0) fields.emplace_back("prompt_tokens", request.prompt_tokens);
  if (request.new_tokens > 0) fields.emplace_back("new_tokens", request.new_tokens);
  if (request.boxes >= 0) fields.emplace_back("boxes", request.boxes);
  if (!request.cache.empty()) fields.emplace_back("cache", request.cache);
  if (!request.api_key.empty()) fields.emplace_back("api_key", request.api_key);
  if (request.span.own) fields.emplace_back("trace_id", request.span.own.trace_id);
  if (!request.language_worker.empty()) fields.emplace_back("language", request.language_worker);
  if (!request.vision_worker.empty()) fields.emplace_back("vision", request.vision_worker);
  std::vector<std::string> keys;
  keys.reserve(request.stages.size());
  for (const auto& [stage, took] : request.stages) {
    keys.push_back(absl::StrCat(Name(stage), "_ms"));
    fields.emplace_back(keys.back(), took);
  }
  Write(LevelOf(request.status.code()), "request", request.request_id, fields);
  if (request.span.own.sampled && IsTracing()) EmitSpans(SpansOf(request));
}

}  // namespace chord::obs
