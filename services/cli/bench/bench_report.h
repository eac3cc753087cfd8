// What `chord bench` prints and draws.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/image/image.h"
#include "services/cli/bench/bench_stats.h"

namespace chord::cli {

// What all runs of one command share.
struct BenchSetting {
  std::string transport;  // "grpc" or "http"
  std::string server;
  std::string data;
  int images = 0;
  int prompts = 0;
  double reuse = 0;
  uint64_t seed = 0;
  bool stream = false;  // where times to the first token come from
  double warmup_seconds = 0;
  double slo_seconds = 0;  // <= 0: none
  double timeout_seconds = 0;
  int max_outstanding = 0;
};

struct BenchRun {
  double rate = 0;      // of an open loop
  int concurrency = 0;  // of a closed loop
  bool interrupted = false;
  bool full = false;
  Window window;
  std::vector<Sample> samples;
  Summary summary;
};

// For people. One run in full, several as one line each.
std::string BenchText(const BenchSetting& setting, absl::Span<const BenchRun> runs);
// For tools: one run is one object; several are {"runs": [...]}. Ends with a line feed.
std::string BenchJson(const BenchSetting& setting, absl::Span<const BenchRun> runs);
// One run: distribution of latencies, and rates over time. Several: rates and latencies over the
// offered rate.
image::RgbImage BenchPlot(const BenchSetting& setting, absl::Span<const BenchRun> runs);

}  // namespace chord::cli
