#include "common/obs/trace.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"

namespace chord::obs {
namespace {

constexpr size_t kTraceDigits = 32, kSpanDigits = 16;

struct Sink {
  SpanSink take;
  double sample_ratio = 0;
};

std::atomic<bool> tracing{false};
ABSL_CONST_INIT absl::Mutex sink_mutex(absl::kConstInit);
std::shared_ptr<const Sink>& CurrentSink() {  // under sink_mutex; leaked: other threads may ask
  static auto& sink = *new std::shared_ptr<const Sink>;
  return sink;
}
std::shared_ptr<const Sink> GetSink() {
  const absl::MutexLock lock(&sink_mutex);
  return CurrentSink();
}

uint64_t Random() {
  thread_local std::mt19937_64 generator{(uint64_t{std::random_device{}()} << 32) |
                                         std::random_device{}()};
  return generator();
}

// Lower-case hex digits, not all zero.
bool IsId(absl::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of('0') != absl::string_view::npos &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

int HexDigit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

// 00-<trace-id>-<parent-id>-<flags>
TraceContext ParseTraceparent(absl::string_view text) {
  constexpr size_t kLength = 2 + 1 + kTraceDigits + 1 + kSpanDigits + 1 + 2;
  if (text.size() < kLength || text[2] != '-' || text[35] != '-' || text[52] != '-') return {};
  const absl::string_view version = text.substr(0, 2);
  if (HexDigit(version[0]) < 0 || HexDigit(version[1]) < 0 || version == "ff") return {};
  if (text.size() > kLength && (version == "00" || text[kLength] != '-')) return {};
  const int flags_high = HexDigit(text[53]), flags_low = HexDigit(text[54]);
  if (flags_high < 0 || flags_low < 0) return {};
  TraceContext out;
  if (!IsId(text.substr(3, kTraceDigits), kTraceDigits) ||
      !IsId(text.substr(36, kSpanDigits), kSpanDigits)) {
    return {};
  }
  out.trace_id = std::string(text.substr(3, kTraceDigits));
  out.span_id = std::string(text.substr(36, kSpanDigits));
  out.sampled = (flags_low & 1) != 0;
  return out;
}

std::string ToTraceparent(const TraceContext& context) {
  if (!context) return "";
  return absl::StrCat("00-", context.trace_id, "-", context.span_id,
                      context.sampled ? "-01" : "-00");
}

std::string NewSpanId() {
  uint64_t id = 0;
  while (id == 0) id = Random();
  return absl::StrFormat("%016x", id);
}

SpanIds BeginSpan(const TraceContext& parent) {
  SpanIds out;
  if (parent) {
    out.own = parent;
    out.own.span_id = NewSpanId();
    out.parent_id = parent.span_id;
    return out;
  }
  if (!IsTracing()) return out;
  const std::shared_ptr<const Sink> sink = GetSink();
  if (sink == nullptr) return out;
  out.own.trace_id = absl::StrCat(NewSpanId(), NewSpanId());
  out.own.span_id = NewSpanId();
  out.own.sampled = static_cast<double>(Random() >> 11) * 0x1p-53 < sink->sample_ratio;
  return out;
}

void SetSpanSink(SpanSink sink, double sample_ratio) {
  auto next = sink ? std::make_shared<const Sink>(Sink{std::move(sink), sample_ratio}) : nullptr;
  const absl::MutexLock lock(&sink_mutex);
  tracing = next != nullptr;
  CurrentSink() = std::move(next);
}

bool IsTracing() { return tracing.load(std::memory_order_relaxed); }

void EmitSpans(std::vector<Span> spans) {
  if (const auto sink = GetSink()) sink->take(std::move(spans));
}

}  // namespace chord::obs
