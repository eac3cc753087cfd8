// `chord bench`: offers a load to a running Chord and says how it fared. See docs/bench.md.
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/cli/args.h"
#include "services/cli/bench/bench_client.h"
#include "services/cli/bench/bench_report.h"
#include "services/cli/bench/bench_run.h"
#include "services/cli/bench/bench_stats.h"
#include "services/cli/bench/workload.h"
#include "services/cli/commands.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

constexpr char kHelp[] =
    "chord bench DATA (--rate R | --concurrency N) [--server ADDR] [--json] [--plot OUT.png]\n"
    "  Asks a running Chord prompts at a given rate and measures how it answers.\n"
    "  DATA is a folder with images and a .json or .jsonl file of prompts (as demo/), such a\n"
    "  file alone (rows {\"file\", \"prompt\"}, COCO or RefCOCO), or, with --prompt, images.\n"
    "  --images DIR         the images of a data file (default: beside it, or in its images/)\n"
    "the load\n"
    "  --rate R             open loop: Poisson arrivals, R requests a second whatever the server\n"
    "                       does; a list 2,4,8 or a sweep FROM:TO:COUNT measures one after "
    "another\n"
    "  --concurrency N      closed loop: N requests outstanding at any time, 1 to 4096\n"
    "  --duration SECONDS   measured time of each rate (default 30)\n"
    "  --warmup SECONDS     load before it that is not measured (default 2)\n"
    "  --reuse SHARE        0 to 1: share of requests that name an uploaded image by its\n"
    "                       image_id instead of sending it (default 0)\n"
    "  --prompt TEXT        ask this of every image\n"
    "  --max-new-tokens N   longest answer, 1 to 4096\n"
    "  --grammar G          auto or off\n"
    "  --seed N             of arrivals and prompts (default 1)\n"
    "  --timeout SECONDS    of each request, from its arrival (default 60)\n"
    "  --max-outstanding N  an arrival over it is not sent but counted as dropped_by_bench\n"
    "                       (default 512, at most 16384)\n"
    "the server\n"
    "  --server ADDR        HOST:PORT or unix:PATH of gRPC (default 127.0.0.1:50051), or "
    "HOST:PORT\n"
    "                       of HTTP with --http (default 127.0.0.1:8080)\n"
    "  --http               ask over HTTP\n"
    "  --connections N      gRPC connections (default: one for each 64 outstanding, at least 4)\n"
    "  --stream             streamed answers: the time to the first token is measured here;\n"
    "                       otherwise it is the answer's timing.ttft_ms\n"
    "the result\n"
    "  --slo SECONDS        goodput counts answers that took no longer (default: every answer)\n"
    "  --json               everything as JSON on stdout\n"
    "  --plot OUT.png       latencies and rates as an image\n"
    "Ctrl-C ends the load; what was measured until then is printed.\n"
    "Exit code: 0 when it measured, 1 when it could not, 2 for a wrong command line.\n";

struct Options {
  bool help = false;
  bool json = false;
  bool http = false;
  std::string plot, prompt, images;
  std::vector<double> rates;  // empty: closed loop
  BenchLoad load;
  BenchClient::Options client;
  BenchSetting setting;
};

absl::Status Seconds(const Args& args, const char* name, double fallback, double low, double high,
                     double& out) {
  out = fallback;
  if (!args.Has(name)) return absl::OkStatus();
  if (absl::SimpleAtod(args.Get(name), &out) && out >= low && out <= high) return absl::OkStatus();
  return errors::ParameterInvalid(absl::StrCat("--", name),
                                  absl::StrFormat("a number from %g to %g", low, high));
}

template <class Int>
absl::Status Integer(const Args& args, const char* name, Int fallback, Int low, Int high,
                     Int& out) {
  out = fallback;
  if (!args.Has(name)) return absl::OkStatus();
  if (absl::SimpleAtoi(args.Get(name), &out) && out >= low && out <= high) return absl::OkStatus();
  return errors::ParameterInvalid(absl::StrCat("--", name),
                                  absl::StrCat("an integer from ", low, " to ", high));
}

absl::StatusOr<Options> Parse(const std::vector<std::string>& raw) {
  const std::vector<FlagSpec> specs = {{"rate"},          {"concurrency"},
                                       {"duration"},      {"warmup"},
                                       {"reuse"},         {"prompt"},
                                       {"seed"},          {"max-new-tokens"},
                                       {"grammar"},       {"timeout"},
                                       {"server"},        {"http", false},
                                       {"connections"},   {"max-outstanding"},
                                       {"stream", false}, {"json", false},
                                       {"plot"},          {"slo"},
                                       {"images"},        {"help", false}};
  CHORD_ASSIGN_OR_RETURN(const Args args, ParseArgs(raw, specs));
  Options out;
  out.help = args.Has("help");
  if (out.help) return out;
  if (args.positional.size() != 1) {
    return errors::ConfigInvalid("Give one folder or file of prompts; see --help.");
  }
  if (args.Has("rate") == args.Has("concurrency")) {
    return errors::ConfigInvalid("Give either --rate or --concurrency; see --help.");
  }
  out.json = args.Has("json");
  out.http = args.Has("http");
  out.plot = args.Get("plot");
  out.prompt = args.Get("prompt");
  out.images = args.Get("images");
  if (args.Has("prompt") && out.prompt.empty()) return errors::PromptEmpty();
  if (args.Has("rate")) {
    CHORD_ASSIGN_OR_RETURN(out.rates, ParseRates(args.Get("rate")));
  }
  BenchLoad& load = out.load;
  CHORD_RETURN_IF_ERROR(Integer(args, "concurrency", 0, 1, 4096, load.concurrency));
  double duration = 0, warmup = 0, timeout = 0, slo = 0;
  CHORD_RETURN_IF_ERROR(Seconds(args, "duration", 30, 0.1, 86'400, duration));
  CHORD_RETURN_IF_ERROR(Seconds(args, "warmup", 2, 0, 3600, warmup));
  CHORD_RETURN_IF_ERROR(Seconds(args, "timeout", 60, 0.001, 3600, timeout));
  CHORD_RETURN_IF_ERROR(Seconds(args, "slo", 0, 0.001, 3600, slo));
  CHORD_RETURN_IF_ERROR(Seconds(args, "reuse", 0, 0, 1, load.reuse));
  CHORD_RETURN_IF_ERROR(Integer<int>(args, "max-outstanding", std::max(512, load.concurrency), 1,
                                     16'384, load.max_outstanding));
  if (load.concurrency > load.max_outstanding) {
    return errors::ParameterInvalid("--max-outstanding", "at least --concurrency");
  }
  CHORD_RETURN_IF_ERROR(
      Integer<uint64_t>(args, "seed", 1, 0, std::numeric_limits<uint64_t>::max(), load.seed));
  load.duration = absl::Seconds(duration);
  load.warmup = absl::Seconds(warmup);
  load.timeout = absl::Seconds(timeout);
  BenchClient::Options& client = out.client;
  client.address = args.Get("server", out.http ? "127.0.0.1:8080" : "127.0.0.1:50051");
  client.stream = args.Has("stream");
  // A connection carries limits::kMaxConcurrentStreams calls at most; further ones would wait
  // inside the client, where no figure shows it.
  const int usual =
      std::max(4, (load.concurrency > 0 ? load.concurrency : load.max_outstanding) / 64);
  CHORD_RETURN_IF_ERROR(Integer(args, "connections", usual, 1, 256, client.connections));
  CHORD_RETURN_IF_ERROR(
      Integer(args, "max-new-tokens", 0, 1, limits::kCeilingNewTokens, client.max_new_tokens));
  if (args.Has("grammar")) {
    const std::string grammar = args.Get("grammar");
    if (grammar != "auto" && grammar != "off") {
      return errors::ParameterInvalid("--grammar", "\"auto\" or \"off\"");
    }
    client.grammar = grammar == "off" ? v1::GRAMMAR_OFF : v1::GRAMMAR_AUTO;
  }
  BenchSetting& setting = out.setting;
  setting.transport = out.http ? "http" : "grpc";
  setting.server = client.address;
  setting.data = args.positional[0];
  setting.reuse = load.reuse;
  setting.seed = load.seed;
  setting.stream = client.stream;
  setting.warmup_seconds = warmup;
  setting.slo_seconds = slo;
  setting.timeout_seconds = timeout;
  setting.max_outstanding = load.max_outstanding;
  return out;
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

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "chord bench: %s\n", std::string(status.message()).c_str());
  return code;
}

}  // namespace

int RunBenchCommand(const std::vector<std::string>& args) {
  absl::StatusOr<Options> options = Parse(args);
  if (!options.ok()) return Fail(options.status(), 2);
  if (options->help) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (!options->plot.empty()) {  // better now than after the load
    if (const auto status = CheckWritable(options->plot); !status.ok()) return Fail(status, 2);
  }
  absl::StatusOr<Dataset> read =
      LoadDataset(options->setting.data, options->prompt, options->images);
  if (!read.ok()) return Fail(read.status(), 2);
  const auto dataset = std::make_shared<const Dataset>(*std::move(read));
  options->setting.images = static_cast<int>(dataset->images.size());
  options->setting.prompts = static_cast<int>(dataset->prompts.size());

  const absl::StatusOr<std::vector<BenchRun>> runs = Measure(*options, dataset);
  if (!runs.ok()) return Fail(runs.status(), 1);
  bool measured = false;
  for (const BenchRun& run : *runs) {
    if (run.summary.offered > 0 || run.summary.completed_rps > 0) measured = true;
  }
  if (!measured) {
    return Fail(
        absl::FailedPreconditionError("Nothing was measured: nothing arrived and nothing "
                                      "ended after the warm-up. Offer more, or for longer."),
        1);
  }
  std::fputs(
      (options->json ? BenchJson(options->setting, *runs) : BenchText(options->setting, *runs))
          .c_str(),
      stdout);
  if (std::fflush(stdout) != 0) return 1;
  if (!options->plot.empty()) {
    const absl::Status status = WritePlot(BenchPlot(options->setting, *runs), options->plot);
    if (!status.ok()) return Fail(status, 1);
  }
  return 0;
}

}  // namespace chord::cli
