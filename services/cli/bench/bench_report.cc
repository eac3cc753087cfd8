#include "services/cli/bench/bench_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/plot/chart.h"

namespace chord::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kPlotWidth = 900, kPlotHeight = 360;  // px of each chart
constexpr size_t kCurvePoints = 400;

const char* CacheName(ServedBy cache) {
  switch (cache) {
    case ServedBy::kNone:
      return "none";
    case ServedBy::kEmbeddings:
      return "embeddings";
    case ServedBy::kKv:
      return "kv";
    case ServedBy::kUnknown:
      break;
  }
  return "unknown";
}

// Absent summary are null, never 0: a tool must not take "nothing was answered" for "at once".
Json QuantilesJson(const Quantiles& q) {
  if (q.count == 0) {
    return {{"count", 0},     {"mean", nullptr}, {"p50", nullptr},
            {"p90", nullptr}, {"p99", nullptr},  {"max", nullptr}};
  }
  return {{"count", q.count}, {"mean", q.mean}, {"p50", q.p50},
          {"p90", q.p90},     {"p99", q.p99},   {"max", q.max}};
}

Json RunJson(const BenchSetting& setting, const BenchRun& run) {
  const Summary& s = run.summary;
  Json out;
  out["loop"] = run.rate > 0 ? "open" : "closed";
  if (run.rate > 0) {
    out["rate"] = run.rate;
  } else {
    out["concurrency"] = run.concurrency;
  }
  out["offered_rps"] = s.offered_rps;
  out["completed_rps"] = s.completed_rps;
  out["goodput_rps"] = s.goodput_rps;
  out["slo_seconds"] = setting.slo_seconds > 0 ? Json(setting.slo_seconds) : Json(nullptr);
  out["duration_seconds"] = s.seconds;
  out["count"] = {
      {"offered", s.offered}, {"answered", s.answered},        {"good", s.good},
      {"failed", s.failed},   {"dropped_by_bench", s.dropped}, {"unfinished", s.unfinished}};
  out["ttft_source"] = setting.stream ? "stream" : "timing";
  out["ttft_seconds"] = QuantilesJson(s.ttft);
  out["total_seconds"] = QuantilesJson(s.total);
  out["failure_seconds"] = QuantilesJson(s.failures);
  out["failure_seconds_by_code"] = Json::object();
  for (const auto& [reason, q] : s.failures_by_reason) {
    out["failure_seconds_by_code"][reason] = QuantilesJson(q);
  }
  out["lag_seconds"] = QuantilesJson(s.lag);
  out["stages_seconds"] = {{"queue", QuantilesJson(s.queue)},
                           {"vision", QuantilesJson(s.vision)},
                           {"prefill", QuantilesJson(s.prefill)},
                           {"decode", QuantilesJson(s.decode)},
                           {"server_total", QuantilesJson(s.server_total)}};
  out["errors"] = Json::object();
  for (const auto& [reason, count] : s.errors) out["errors"][reason] = count;
  out["dropped_by_bench"] = s.dropped;
  out["cache"] = Json::object();
  for (const auto& [cache, count] : s.caches) out["cache"][CacheName(cache)] = count;
  out["by_image_id"] = s.by_id;
  out["completion_tokens"] = s.completion_tokens;
  out["decode_steps"] = s.decode_steps;
  out["boxes"] = s.boxes;
  out["interrupted"] = run.interrupted;
  return out;
}

Json SettingJson(const BenchSetting& setting) {
  return {{"transport", setting.transport},
          {"server", setting.server},
          {"data", setting.data},
          {"pictures", setting.images},
          {"questions", setting.prompts},
          {"reuse", setting.reuse},
          {"seed", setting.seed},
          {"warmup_seconds", setting.warmup_seconds},
          {"timeout_seconds", setting.timeout_seconds},
          {"max_outstanding", setting.max_outstanding},
          {"retries", 0}};
}

std::string QuantilesLine(const char* name, const Quantiles& q) {
  if (q.count == 0) return absl::StrFormat("  %-20s       –\n", name);
  return absl::StrFormat("  %-20s%8.3f%9.3f%9.3f%9.3f%9.3f\n", name, q.p50, q.p90, q.p99, q.mean,
                         q.max);
}

std::string ErrorsText(const Summary& s) {
  std::string out;
  for (const auto& [reason, count] : s.errors) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", reason, " ", count);
  }
  return out;
}

std::string LoopText(const BenchRun& run) {
  return run.rate > 0 ? absl::StrFormat("open loop (Poisson), %g/s", run.rate)
                      : absl::StrFormat("closed loop, %d at once", run.concurrency);
}

std::string Notes(const BenchRun& run) {
  const Summary& s = run.summary;
  std::string out;
  if (run.interrupted)
    absl::StrAppend(&out, "  Interrupted: summary are of the time until then.\n");
  if (run.full) absl::StrAppend(&out, "  Ended early: no more samples fit into memory.\n");
  if (s.dropped > 0) {
    absl::StrAppendFormat(
        &out, "  %d arrivals were not sent, because --max-outstanding was reached.\n", s.dropped);
  }
  // A late generator is not the server's fault, but it is in the latencies.
  if (s.lag.count > 0 && s.lag.p99 > 0.01) {
    absl::StrAppendFormat(&out,
                          "  The bench itself was late: %.0f ms at p99. Give it a processor, or "
                          "offer less.\n",
                          s.lag.p99 * 1e3);
  }
  return out;
}

std::string OneRun(const BenchSetting& setting, const BenchRun& run) {
  const Summary& s = run.summary;
  std::string out = absl::StrFormat("\n%s; %.1f s measured\n\n", LoopText(run), s.seconds);
  absl::StrAppendFormat(&out, "  %-14s%9.2f /s%8d requests\n", "offered", s.offered_rps, s.offered);
  absl::StrAppendFormat(&out, "  %-14s%9.2f /s%8d answers\n", "completed", s.completed_rps,
                        s.answered);
  absl::StrAppendFormat(
      &out, "  %-14s%9.2f /s%8d %s\n", "goodput", s.goodput_rps, s.good,
      setting.slo_seconds > 0 ? absl::StrFormat("within %g s", setting.slo_seconds) : "(no --slo)");
  absl::StrAppendFormat(&out, "  %-14s%20d%s\n", "failed", s.failed,
                        s.failed > 0 ? absl::StrCat("  ", ErrorsText(s)) : "");
  if (s.unfinished > 0) absl::StrAppendFormat(&out, "  %-14s%20d\n", "unfinished", s.unfinished);
  absl::StrAppendFormat(&out, "\n  %-20s%8s%9s%9s%9s%9s\n", "seconds", "p50", "p90", "p99", "mean",
                        "max");
  absl::StrAppend(&out, QuantilesLine("first token", s.ttft), QuantilesLine("total", s.total));
  for (const auto& [reason, q] : s.failures_by_reason) {
    absl::StrAppend(&out, QuantilesLine(reason.c_str(), q));
  }
  absl::StrAppend(&out, "  by the server's own account\n", QuantilesLine("  queue", s.queue),
                  QuantilesLine("  vision", s.vision), QuantilesLine("  prefill", s.prefill),
                  QuantilesLine("  decode", s.decode), QuantilesLine("  total", s.server_total));
  if (s.answered > 0) {
    absl::StrAppendFormat(
        &out, "\n  %.2f boxes, %.1f tokens and %.1f decode steps an answer; cache:",
        static_cast<double>(s.boxes) / static_cast<double>(s.answered),
        static_cast<double>(s.completion_tokens) / static_cast<double>(s.answered),
        static_cast<double>(s.decode_steps) / static_cast<double>(s.answered));
    for (const auto& [cache, count] : s.caches) {
      absl::StrAppend(&out, " ", CacheName(cache), " ", count);
    }
    out += "\n";
  }
  return out + Notes(run);
}

plot::ChartSeries Curve(const char* name, std::vector<double> values) {
  plot::ChartSeries out;
  out.name = name;
  out.points = Cumulative(std::move(values), kCurvePoints);
  return out;
}

void AddNotEmpty(plot::Chart& chart, plot::ChartSeries series) {
  if (!series.points.empty()) chart.series.push_back(std::move(series));
}

std::vector<plot::Chart> PlotOne(const BenchSetting& setting, const BenchRun& run) {
  std::vector<double> ttft, total, failures;
  for (const Sample& sample : run.samples) {
    if (sample.arrival < run.window.begin || sample.arrival >= run.window.end) continue;
    if (sample.outcome == Outcome::kAnswered) {
      total.push_back(sample.end - sample.arrival);
      if (sample.ttft >= 0) ttft.push_back(sample.ttft);
    } else if (sample.outcome == Outcome::kFailed) {
      failures.push_back(sample.end - sample.arrival);
    }
  }
  plot::Chart latency;
  latency.title = absl::StrCat("Latency: ", LoopText(run));
  latency.x_label = "seconds from the intended arrival";
  latency.y_label = "share at or below";
  latency.log_x = true;
  latency.y_max = 1.02;
  AddNotEmpty(latency, Curve("first token", std::move(ttft)));
  AddNotEmpty(latency, Curve("total", std::move(total)));
  AddNotEmpty(latency, Curve("refusals", std::move(failures)));
  if (setting.slo_seconds > 0) latency.x_marks.emplace_back(setting.slo_seconds, "SLO");

  const int bins = std::clamp(static_cast<int>(run.window.seconds()), 1, 120);
  const Timeline timeline = MakeTimeline(run.samples, run.window, setting.slo_seconds, bins);
  plot::Chart rates;
  rates.title = "Rates over time";
  rates.x_label = "seconds";
  rates.y_label = "per second";
  const auto add = [&](const char* name, const std::vector<double>& values, bool dashed) {
    plot::ChartSeries series;
    series.name = name;
    series.dashed = dashed;
    series.markers = values.size() == 1;
    for (size_t i = 0; i < values.size(); ++i)
      series.points.emplace_back(timeline.at[i], values[i]);
    rates.series.push_back(std::move(series));
  };
  add("offered", timeline.offered, true);
  add("answered", timeline.answered, false);
  if (setting.slo_seconds > 0) add("within the SLO", timeline.good, false);
  if (run.summary.failed > 0) add("refused or failed", timeline.failed, false);
  return {std::move(latency), std::move(rates)};
}

std::vector<plot::Chart> PlotSweep(const BenchSetting& setting, absl::Span<const BenchRun> runs) {
  plot::Chart rates, latency;
  rates.title = "Throughput over offered load";
  rates.x_label = latency.x_label = "offered, requests per second";
  rates.y_label = "per second";
  latency.title = "Latency over offered load";
  latency.y_label = "seconds";
  const auto add = [&](plot::Chart& chart, const char* name, bool dashed, auto value) {
    plot::ChartSeries series;
    series.name = name;
    series.dashed = dashed;
    series.markers = true;
    for (const BenchRun& run : runs) {
      series.points.emplace_back(run.summary.offered_rps, value(run.summary));
    }
    std::sort(series.points.begin(), series.points.end());
    chart.series.push_back(std::move(series));
  };
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  add(rates, "offered", true, [](const Summary& s) { return s.offered_rps; });
  add(rates, "completed", false, [](const Summary& s) { return s.completed_rps; });
  if (setting.slo_seconds > 0) {
    add(rates, absl::StrFormat("within %g s", setting.slo_seconds).c_str(), false,
        [](const Summary& s) { return s.goodput_rps; });
  }
  add(latency, "first token p50", true,
      [](const Summary& s) { return s.ttft.count > 0 ? s.ttft.p50 : kNone; });
  add(latency, "total p50", false,
      [](const Summary& s) { return s.total.count > 0 ? s.total.p50 : kNone; });
  add(latency, "total p90", false,
      [](const Summary& s) { return s.total.count > 0 ? s.total.p90 : kNone; });
  add(latency, "total p99", false,
      [](const Summary& s) { return s.total.count > 0 ? s.total.p99 : kNone; });
  return {std::move(rates), std::move(latency)};
}

}  // namespace

std::string BenchText(const BenchSetting& setting, absl::Span<const BenchRun> runs) {
  std::string out = absl::StrFormat(
      "%s at %s; %d prompts on %d images, %g%% by image_id, seed %d; first token from the "
      "%s\n",
      setting.transport, setting.server, setting.prompts, setting.images, setting.reuse * 100,
      setting.seed, setting.stream ? "stream" : "answer's timing.ttft_ms");
  if (runs.size() == 1) return out + OneRun(setting, runs[0]);
  absl::StrAppendFormat(&out, "\n%10s%11s%10s%9s%9s%9s%9s%9s  %s\n", "offered/s", "completed",
                        "goodput", "ttft p50", "ttft p99", "p50 s", "p90 s", "p99 s", "errors");
  const auto cell = [](const Quantiles& q, double value) {
    return q.count == 0 ? std::string("–") : absl::StrFormat("%.3f", value);
  };
  for (const BenchRun& run : runs) {
    const Summary& s = run.summary;
    absl::StrAppendFormat(&out, "%10.2f%11.2f%10.2f%9s%9s%9s%9s%9s  %s\n", s.offered_rps,
                          s.completed_rps, s.goodput_rps, cell(s.ttft, s.ttft.p50),
                          cell(s.ttft, s.ttft.p99), cell(s.total, s.total.p50),
                          cell(s.total, s.total.p90), cell(s.total, s.total.p99), ErrorsText(s));
    out += Notes(run);
  }
  return out;
}

std::string BenchJson(const BenchSetting& setting, absl::Span<const BenchRun> runs) {
  Json out;
  if (runs.size() == 1) {
    out = RunJson(setting, runs[0]);
    out.update(SettingJson(setting));
  } else {
    out = SettingJson(setting);
    out["runs"] = Json::array();
    for (const BenchRun& run : runs) out["runs"].push_back(RunJson(setting, run));
  }
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

image::RgbImage BenchPlot(const BenchSetting& setting, absl::Span<const BenchRun> runs) {
  if (runs.empty()) return plot::DrawCharts({}, kPlotWidth, kPlotHeight);
  return plot::DrawCharts(runs.size() == 1 ? PlotOne(setting, runs[0]) : PlotSweep(setting, runs),
                          kPlotWidth, kPlotHeight);
}

}  // namespace chord::cli
