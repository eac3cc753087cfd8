// `chord bench`: offers a load to a running server and reports how it answered. See docs/bench.md.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/cli/bench/bench_client.h"
#include "services/cli/bench/bench_report.h"
#include "services/cli/bench/bench_run.h"
#include "services/cli/bench/bench_stats.h"
#include "services/cli/bench/workload.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

constexpr char kSummary[] =
    "Offers a load to a running server and measures how it answers. DATA is a folder with images "
    "and\n"
    "a .json or .jsonl file of prompts (as demo/), such a file alone (rows {\"file\", \"prompt\"}, "
    "COCO\n"
    "or RefCOCO), or, with --prompt, images.";
constexpr char kEpilog[] =
    "Ctrl-C ends the load; what was measured until then is printed.\n"
    "Exit code: 0 when it measured, 1 when it could not, 2 wrong command line.";

struct Options {
  bool json = false;
  bool http = false;
  std::string plot, prompt, images;
  std::vector<double> rates;  // empty: closed loop
  BenchLoad load;
  BenchClient::Options client;
  BenchSetting setting;
};

// As given, before they are checked against each other.
struct RawOptions {
  std::string data, rate, server, grammar;
  double duration = 30, warmup = 2, timeout = 60, slo = 0;
  int connections = 0, max_outstanding = 0;  // 0: chosen by the load
};

void DeclareLoad(CommandLine& line, Options& o, RawOptions& raw) {
  line.Positional("DATA", &raw.data, "Images and prompts");
  line.Text("images", &o.images, "DIR",
            "The images of a data file (default: beside it, or in its images/)");
  line.Group("Load");
  line.Text("rate", &raw.rate, "R",
            "Open loop: Poisson arrivals, R requests a second whatever the server does; a list "
            "2,4,8 or a sweep FROM:TO:COUNT measures one after another");
  line.Integer("concurrency", &o.load.concurrency, 1, 4096,
               "Closed loop: N requests outstanding at any time, 1 to 4096");
  line.Number("duration", &raw.duration, 0.1, 86'400, "SECONDS",
              "Measured time of each rate (default 30)");
  line.Number("warmup", &raw.warmup, 0, 3600, "SECONDS",
              "Load before it that is not measured (default 2)");
  line.Number("reuse", &o.load.reuse, 0, 1, "SHARE",
              "0 to 1: share of requests that name an uploaded image by its image_id instead of "
              "sending it (default 0)");
  line.Text("prompt", &o.prompt, "TEXT", "Use this prompt for every image");
  line.Integer("max-new-tokens", &o.client.max_new_tokens, 1, limits::kCeilingNewTokens,
               "Longest answer, 1 to 4096");
  line.Choice("grammar", &raw.grammar, {"auto", "off"}, "Box grammar");
  line.Unsigned("seed", &o.load.seed, "Of arrivals and prompts (default 1)");
  line.Number("timeout", &raw.timeout, 0.001, 3600, "SECONDS",
              "Of each request, from its arrival (default 60)");
  line.Integer("max-outstanding", &raw.max_outstanding, 1, 16'384,
               "An arrival over it is not sent but counted as dropped_by_bench (default 512, at "
               "most 16384)");
}

void DeclareServerAndResult(CommandLine& line, Options& o, RawOptions& raw) {
  line.Group("Server");
  line.Text("server", &raw.server, "ADDR",
            "HOST:PORT or unix:PATH of gRPC (default 127.0.0.1:50051), or HOST:PORT of HTTP with "
            "--http (default 127.0.0.1:8080)");
  line.Switch("http", &o.http, "Use HTTP");
  line.Integer("connections", &raw.connections, 1, 256,
               "gRPC connections (default: one for each 64 outstanding, at least 4)");
  line.Switch("stream", &o.client.stream,
              "Streamed answers: the time to the first token is measured here; otherwise it is the "
              "answer's timing.ttft_ms");
  line.Group("Result");
  line.Number("slo", &raw.slo, 0.001, 3600, "SECONDS",
              "Goodput counts answers that took no longer (default: every answer)");
  line.Switch("json", &o.json, "Everything as JSON on standard output");
  line.Text("plot", &o.plot, "OUT.png", "Latencies and rates as an image");
}

absl::Status FinishLoad(const CommandLine& line, const RawOptions& raw, Options& o) {
  if (line.Has("rate") == line.Has("concurrency")) {
    return errors::ConfigInvalid("Give either --rate or --concurrency; see --help.");
  }
  if (line.Has("prompt") && o.prompt.empty()) return errors::PromptEmpty();
  if (line.Has("rate")) {
    CHORD_ASSIGN_OR_RETURN(o.rates, ParseRates(raw.rate));
  }
  BenchLoad& load = o.load;
  load.max_outstanding =
      raw.max_outstanding > 0 ? raw.max_outstanding : std::max(512, load.concurrency);
  if (load.concurrency > load.max_outstanding) {
    return errors::ParameterInvalid("--max-outstanding", "at least --concurrency");
  }
  load.duration = absl::Seconds(raw.duration);
  load.warmup = absl::Seconds(raw.warmup);
  load.timeout = absl::Seconds(raw.timeout);
  return absl::OkStatus();
}

void FinishClient(const CommandLine& line, const RawOptions& raw, Options& o) {
  BenchClient::Options& client = o.client;
  client.address = !raw.server.empty() ? raw.server
                   : o.http            ? "127.0.0.1:8080"
                                       : kDefaultGrpcAddress;
  // A connection carries limits::kMaxConcurrentStreams calls at most; further ones would wait
  // inside the client, where no figure shows it.
  const int outstanding = o.load.concurrency > 0 ? o.load.concurrency : o.load.max_outstanding;
  client.connections = raw.connections > 0 ? raw.connections : std::max(4, outstanding / 64);
  if (line.Has("grammar")) {
    client.grammar = raw.grammar == "off" ? v1::GRAMMAR_OFF : v1::GRAMMAR_AUTO;
  }
}

void FillSetting(const RawOptions& raw, Options& o) {
  BenchSetting& setting = o.setting;
  setting.transport = o.http ? "http" : "grpc";
  setting.server = o.client.address;
  setting.data = raw.data;
  setting.reuse = o.load.reuse;
  setting.seed = o.load.seed;
  setting.stream = o.client.stream;
  setting.warmup_seconds = raw.warmup;
  setting.slo_seconds = raw.slo;
  setting.timeout_seconds = raw.timeout;
  setting.max_outstanding = o.load.max_outstanding;
}

absl::Status WritePlot(const image::RgbImage& plot, const std::string& path) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<uint8_t> png, image::EncodePng(plot));
  return WriteWhole(path, {reinterpret_cast<const char*>(png.data()), png.size()});
}

// What the load did, or why there was none.
absl::StatusOr<std::vector<BenchRun>> Measure(const Options& options,
                                              std::shared_ptr<const Dataset> dataset) {
  CHORD_ASSIGN_OR_RETURN(const std::unique_ptr<BenchClient> client,
                         options.http ? BenchClient::Http(options.client, dataset)
                                      : BenchClient::Grpc(options.client, dataset));
  BenchWaker waker;
  waker.CatchSignals();
  std::vector<std::string> image_ids(dataset->images.size());
  for (size_t i = 0; options.load.reuse > 0 && i < image_ids.size() && !waker.interrupted(); ++i) {
    absl::StatusOr<std::string> id = client->Upload(static_cast<int>(i), options.load.timeout);
    if (!id.ok()) {
      return absl::Status(id.status().code(),
                          absl::StrCat("The server did not take an image for --reuse: ",
                                       ErrorReason(id.status()), ". ", id.status().message()));
    }
    image_ids[i] = *std::move(id);
  }
  const bool show = isatty(STDERR_FILENO);
  const size_t count = std::max<size_t>(1, options.rates.size());
  std::vector<BenchRun> out;
  for (size_t i = 0; i < count && !waker.interrupted(); ++i) {
    BenchLoad load = options.load;
    if (!options.rates.empty()) load.rate = options.rates[i];
    std::function<void(double, int64_t)> progress;
    if (show) {
      progress = [&](double seconds, int64_t answered) {
        std::fprintf(stderr, "\r%zu of %zu: %.0f of %.0f s, %lld answers ", i + 1, count, seconds,
                     absl::ToDoubleSeconds(load.warmup + load.duration),
                     static_cast<long long>(answered));
        std::fflush(stderr);
      };
    }
    BenchResult result = RunBench(*client, *dataset, load, image_ids, waker, progress);
    if (show) std::fprintf(stderr, "\r\033[K");
    BenchRun run;
    run.rate = load.rate;
    run.concurrency = load.concurrency;
    run.interrupted = result.interrupted;
    run.full = result.full;
    run.window = result.window;
    run.summary = Summarize(result.samples, result.window, options.setting.slo_seconds);
    // A sweep's plot needs the summaries only.
    if (count == 1) run.samples = std::move(result.samples);
    // An interrupted rate of a sweep is worth a row when it has begun to measure.
    if (out.empty() || run.summary.offered > 0) out.push_back(std::move(run));
  }
  return out;
}

bool HasMeasured(const std::vector<BenchRun>& runs) {
  return std::any_of(runs.begin(), runs.end(), [](const BenchRun& run) {
    return run.summary.offered > 0 || run.summary.completed_rps > 0;
  });
}

// The load and its report. The options are valid.
int Run(Options& options, const CommandLine& line) {
  absl::StatusOr<Dataset> read = LoadDataset(options.setting.data, options.prompt, options.images);
  if (!read.ok()) return line.Fail(read.status().message(), kExitUsage);
  const auto dataset = std::make_shared<const Dataset>(*std::move(read));
  options.setting.images = static_cast<int>(dataset->images.size());
  options.setting.prompts = static_cast<int>(dataset->prompts.size());

  const absl::StatusOr<std::vector<BenchRun>> runs = Measure(options, dataset);
  if (!runs.ok()) return line.Fail(runs.status().message(), kExitFailed);
  if (!HasMeasured(*runs)) {
    return line.Fail(
        "Nothing was measured: nothing arrived and nothing ended after the warm-up. Offer more, or "
        "for longer.",
        kExitFailed);
  }
  const auto report = options.json ? BenchJson : BenchText;
  std::fputs(report(options.setting, *runs).c_str(), stdout);
  if (std::fflush(stdout) != 0) return kExitFailed;
  if (options.plot.empty()) return kExitOk;
  const absl::Status status = WritePlot(BenchPlot(options.setting, *runs), options.plot);
  return status.ok() ? kExitOk : line.Fail(status.message(), kExitFailed);
}

}  // namespace

int RunBenchCommand(const std::vector<std::string>& args) {
  Options options;
  RawOptions raw;
  CommandLine line("chord bench", kSummary, kEpilog);
  DeclareLoad(line, options, raw);
  DeclareServerAndResult(line, options, raw);
  if (const std::optional<int> code = line.Parse(args)) return *code;
  if (const absl::Status status = FinishLoad(line, raw, options); !status.ok()) {
    return line.Fail(status.message(), kExitUsage);
  }
  FinishClient(line, raw, options);
  FillSetting(raw, options);
  if (!options.plot.empty()) {  // better now than after the load
    if (const auto status = CheckWritable(options.plot); !status.ok()) {
      return line.Fail(status.message(), kExitUsage);
    }
  }
  return Run(options, line);
}

}  // namespace chord::cli
