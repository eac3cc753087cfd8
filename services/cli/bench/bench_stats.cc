#include "services/cli/bench/bench_stats.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <utility>

namespace chord::cli {
namespace {

bool Inside(double time, const Window& window) { return time >= window.begin && time < window.end; }

bool IsGood(const Sample& sample, double slo_seconds) {
  return slo_seconds <= 0 || sample.end - sample.arrival <= slo_seconds;
}

}  // namespace

double Percentile(absl::Span<const double> sorted, double q) {
  const double rank = std::ceil(q * static_cast<double>(sorted.size()));
  const auto index = static_cast<size_t>(std::max(0.0, rank - 1));
  return sorted[std::min(index, sorted.size() - 1)];
}

Quantiles MakeQuantiles(std::vector<double> values) {
  Quantiles out;
  if (values.empty()) return out;
  std::sort(values.begin(), values.end());
  out.count = static_cast<int64_t>(values.size());
  out.mean =
      std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  out.p50 = Percentile(values, 0.5);
  out.p90 = Percentile(values, 0.9);
  out.p99 = Percentile(values, 0.99);
  out.max = values.back();
  return out;
}

namespace {

// Collects the samples that arrived inside the window.
class Summarizer {
 public:
  void Add(const Sample& sample, bool good) {
    ++out_.offered;
    if (sample.outcome != Outcome::kDropped) lag_.push_back(sample.sent - sample.arrival);
    switch (sample.outcome) {
      case Outcome::kDropped:
        ++out_.dropped;
        break;
      case Outcome::kUnfinished:
        ++out_.unfinished;
        break;
      case Outcome::kFailed:
        ++out_.failed;
        ++out_.errors[sample.reason];
        failures_.push_back(sample.end - sample.arrival);
        by_reason_[sample.reason].push_back(failures_.back());
        break;
      case Outcome::kAnswered:
        if (good) ++out_.good;
        AddAnswer(sample);
        break;
    }
  }

  Summary Finish() && {
    out_.ttft = MakeQuantiles(std::move(ttft_));
    out_.total = MakeQuantiles(std::move(total_));
    out_.failures = MakeQuantiles(std::move(failures_));
    for (auto& [reason, values] : by_reason_) {
      out_.failures_by_reason[reason] = MakeQuantiles(std::move(values));
    }
    out_.lag = MakeQuantiles(std::move(lag_));
    out_.queue = MakeQuantiles(std::move(queue_));
    out_.vision = MakeQuantiles(std::move(vision_));
    out_.prefill = MakeQuantiles(std::move(prefill_));
    out_.decode = MakeQuantiles(std::move(decode_));
    out_.server_total = MakeQuantiles(std::move(server_total_));
    return std::move(out_);
  }

 private:
  void AddAnswer(const Sample& sample) {
    ++out_.answered;
    if (sample.by_id) ++out_.by_id;
    ++out_.caches[sample.served_by];
    if (sample.ttft >= 0) ttft_.push_back(sample.ttft);
    total_.push_back(sample.end - sample.arrival);
    queue_.push_back(sample.times.queue_ms / 1e3);
    vision_.push_back(sample.times.vision_ms / 1e3);
    prefill_.push_back(sample.times.prefill_ms / 1e3);
    decode_.push_back(sample.times.decode_ms / 1e3);
    server_total_.push_back(sample.times.total_ms / 1e3);
    out_.completion_tokens += sample.completion_tokens;
    out_.decode_steps += sample.decode_steps;
    out_.boxes += sample.boxes;
  }

  Summary out_;
  std::vector<double> ttft_, total_, failures_, lag_, queue_, vision_, prefill_, decode_,
      server_total_;
  std::map<std::string, std::vector<double>> by_reason_;
};

}  // namespace

Summary Summarize(absl::Span<const Sample> samples, const Window& window, double slo_seconds) {
  Summarizer summarizer;
  int64_t completed = 0, good_completed = 0;
  for (const Sample& sample : samples) {
    const bool answered = sample.outcome == Outcome::kAnswered;
    const bool good = answered && IsGood(sample, slo_seconds);
    if (answered && Inside(sample.end, window)) {
      ++completed;
      if (good) ++good_completed;
    }
    if (Inside(sample.arrival, window)) summarizer.Add(sample, good);
  }
  Summary out = std::move(summarizer).Finish();
  out.seconds = window.seconds();
  if (window.seconds() > 0) {
    out.offered_rps = static_cast<double>(out.offered) / window.seconds();
    out.completed_rps = static_cast<double>(completed) / window.seconds();
    out.goodput_rps = static_cast<double>(good_completed) / window.seconds();
  }
  return out;
}

Timeline MakeTimeline(absl::Span<const Sample> samples, const Window& window, double slo_seconds,
                      int bins) {
  Timeline out;
  if (bins < 1 || !(window.seconds() > 0)) return out;
  const double width = window.seconds() / bins;
  const auto size = static_cast<size_t>(bins);
  out.at.resize(size);
  for (size_t i = 0; i < size; ++i) out.at[i] = (static_cast<double>(i) + 0.5) * width;
  for (auto* series : {&out.offered, &out.answered, &out.good, &out.failed}) series->resize(size);
  const auto add = [&](std::vector<double>& series, double time) {
    if (!Inside(time, window)) return;
    const auto bin = static_cast<size_t>((time - window.begin) / width);
    series[std::min(bin, size - 1)] += 1 / width;
  };
  for (const Sample& sample : samples) {
    add(out.offered, sample.arrival);
    if (sample.outcome == Outcome::kAnswered) {
      add(out.answered, sample.end);
      if (IsGood(sample, slo_seconds)) add(out.good, sample.end);
    } else if (sample.outcome == Outcome::kFailed) {
      add(out.failed, sample.end);
    }
  }
  return out;
}

std::vector<std::pair<double, double>> Cumulative(std::vector<double> values, size_t points) {
  std::vector<std::pair<double, double>> out;
  if (values.empty() || points == 0) return out;
  std::sort(values.begin(), values.end());
  const size_t all = values.size();
  const size_t steps = std::min(points, all);
  for (size_t i = 1; i <= steps; ++i) {
    const size_t rank = (i * all + steps - 1) / steps;  // the last one is the largest value
    out.emplace_back(values[rank - 1], static_cast<double>(rank) / static_cast<double>(all));
  }
  return out;
}

}  // namespace chord::cli
