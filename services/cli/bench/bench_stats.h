// What the samples of a load say. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace chord::cli {

enum class Outcome {
  kAnswered,
  kFailed,      // the server refused, or the transport failed; `reason` says how
  kDropped,     // never sent: the generator already had its limit of requests outstanding
  kUnfinished,  // ended by the generator itself (Ctrl-C, or no end long after the deadline)
};

// Which cache served the image's share of the work, as the answer says.
enum class ServedBy { kUnknown, kNone, kEmbeddings, kKv };

// The server's own account of one answer.
struct ServerTimes {
  double queue_ms = 0;
  double vision_ms = 0;
  double prefill_ms = 0;
  double ttft_ms = 0;
  double decode_ms = 0;
  double total_ms = 0;
};

// One arrival. Times are seconds on one clock whose zero is the start of the load.
struct Sample {
  double arrival = 0;  // when it was due; latencies count from here
  double sent = 0;     // when the generator came to it; later than `arrival` when it fell behind
  double end = 0;
  double ttft = -1;  // seconds from arrival to the first token; < 0: not known
  Outcome outcome = Outcome::kUnfinished;
  std::string reason;  // of a failure: the catalogue's, else the name of the code
  bool by_id = false;  // the image was named by its image_id
  ServerTimes times;
  int completion_tokens = 0;
  int decode_steps = 0;
  int boxes = 0;
  ServedBy served_by = ServedBy::kUnknown;
};

struct Quantiles {
  int64_t count = 0;  // 0: the others mean nothing
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

// The smallest value with at least the share `q` of all values at or below it (nearest rank), so a
// percentile is always a time that was measured. `sorted` ascending, not empty; q in [0, 1].
double Percentile(absl::Span<const double> sorted, double q);
Quantiles MakeQuantiles(std::vector<double> values);

// The part of a load that is measured: [begin, end) in seconds of the samples' clock.
struct Window {
  double begin = 0;
  double end = 0;
  double seconds() const { return end - begin; }
};

// Rates count events inside the window: arrivals that fell due, answers that came. An answer that
// comes after the window does not count towards a rate, so an emptying queue cannot flatter; one
// that was asked before it does. Counts, percentiles and errors are those of the requests that
// arrived in the window, whenever they ended.
struct Summary {
  double seconds = 0;        // length of the window
  double offered_rps = 0;    // arrivals, whether sent or dropped by the bench
  double completed_rps = 0;  // answers
  double goodput_rps = 0;    // answers within the SLO, from arrival to end
  int64_t offered = 0;
  int64_t answered = 0;
  int64_t good = 0;
  int64_t failed = 0;
  int64_t dropped = 0;
  int64_t unfinished = 0;
  int64_t by_id = 0;                                    // of the answered
  std::map<std::string, int64_t> errors;                // by reason
  Quantiles ttft;                                       // of the answered, seconds
  Quantiles total;                                      // of the answered, seconds from arrival
  Quantiles failures;                                   // of the failed, seconds from arrival
  std::map<std::string, Quantiles> failures_by_reason;  // how long each kind of refusal takes
  Quantiles lag;  // of all that were sent, seconds: how far the generator fell behind
  Quantiles queue, vision, prefill, decode, server_total;  // of the answered, seconds
  std::map<ServedBy, int64_t> caches;                      // of the answered
  int64_t completion_tokens = 0;
  int64_t decode_steps = 0;
  int64_t boxes = 0;
};

// `slo_seconds` <= 0: every answer is good.
Summary Summarize(absl::Span<const Sample> samples, const Window& window, double slo_seconds);

// Events per second in `bins` equal parts of the window.
struct Timeline {
  std::vector<double> at;  // middle of the bin, seconds since the window began
  std::vector<double> offered, answered, good, failed;
};
Timeline MakeTimeline(absl::Span<const Sample> samples, const Window& window, double slo_seconds,
                      int bins);

// The share of values at or below each value, thinned to at most `points` of them, for a curve.
std::vector<std::pair<double, double>> Cumulative(std::vector<double> values, size_t points);

}  // namespace chord::cli
