#include "services/cli/eval/dataset_run.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxAttempts = 8;
constexpr size_t kFailuresShown = 5;
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(200);
constexpr absl::Duration kMaxBackoff = absl::Seconds(5);

// What all threads know of the server.
struct ServerState {
  std::atomic<bool> reached{false};  // it has answered or refused at least once
  std::atomic<bool> lost{false};     // it does not come back: nothing more is sent
};

absl::StatusOr<v1::GroundResponse> GroundWithRetries(Client& client, const GroundCall& call,
                                                     ServerState& server) {
  absl::Duration backoff = kFirstBackoff;
  for (int attempt = 1;; ++attempt) {
    absl::StatusOr<v1::GroundResponse> answer = client.Ground(call);
    const absl::Status& status = answer.status();
    const bool lost = IsNoServer(status);
    if (!lost) server.reached = true;
    if (status.ok()) return answer;
    // Results must not depend on whether the server was full or being restarted at that moment.
    const bool retry =
        absl::IsUnavailable(status) ? server.reached.load() : absl::IsResourceExhausted(status);
    if (!retry || attempt == kMaxAttempts) {
      if (lost) server.lost = true;
      return answer;
    }
    if (server.lost) return answer;
    absl::SleepFor(backoff);
    backoff = std::min(backoff * 2, kMaxBackoff);
  }
}

absl::StatusOr<DatasetAnswer> RunItem(Client& client, const EvalData& data, const EvalItem& item,
                                      const DatasetRunOptions& options, bool want_evidence,
                                      ServerState& server) {
  DatasetAnswer out;
  CHORD_ASSIGN_OR_RETURN(
      const std::string image,
      ReadWhole((fs::path(data.images) / item.file).string(), limits::kCeilingImageBytes));
  Sha256 hash;
  hash.Update(image);
  out.image_sha256 = hash.HexDigest();
  const GroundCall call{.image = image,
                        .prompt = item.prompt,
                        .max_new_tokens = options.max_new_tokens,
                        .want_evidence = want_evidence,
                        .timeout = absl::Seconds(options.timeout_seconds)};
  CHORD_ASSIGN_OR_RETURN(out.answer, GroundWithRetries(client, call, server));
  return out;
}

// Thread-safe.
class Report {
 public:
  explicit Report(size_t total) : total_(total), terminal_(isatty(STDERR_FILENO) != 0) {}

  void Add(const std::string& file, const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    ++done_;
    if (!status.ok() && ++failed_ <= kFailuresShown) {
      std::fprintf(stderr, "%s%s: %s\n", terminal_ ? "\r" : "", file.c_str(),
                   std::string(status.message()).c_str());
    }
    if (terminal_) std::fprintf(stderr, "\r%zu of %zu prompts", done_, total_);
  }
  void End() {
    absl::MutexLock lock(&mu_);
    if (terminal_) std::fputs("\n", stderr);
    if (failed_ > 0) std::fprintf(stderr, "%zu of %zu prompts failed\n", failed_, total_);
    if (done_ < total_) {
      std::fprintf(stderr, "%zu prompts were not sent: the server went away\n", total_ - done_);
    }
  }

 private:
  const size_t total_;
  const bool terminal_;
  absl::Mutex mu_;
  size_t done_ ABSL_GUARDED_BY(mu_) = 0;
  size_t failed_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

void DeclareDatasetOptions(CommandLine& line, DatasetRunOptions& options) {
  line.Positional("DATA", &options.data,
                  "Scenes, COCO or RefCOCO as JSON: the file, or a folder that holds it");
  line.Text("server", &options.server, "ADDR",
            "HOST:PORT or unix:PATH of the gateway's gRPC (default 127.0.0.1:50051)");
  line.Text("images", &options.images, "DIR", "The images (default: beside the file)");
  line.Text("split", &options.format.split, "NAME", "RefCOCO: this split alone");
  line.Integer("absent", &options.format.absent_per_image, 0, 10,
               "COCO without prompts: absent things for each image, 0 to 10 (default 1)");
  line.Integer("limit", &options.limit, 1, 2'000'000, "The first N prompts alone");
  line.Integer("parallel", &options.parallel, 1, 64, "Prompts in flight, 1 to 64 (default 4)");
  line.Number("timeout", &options.timeout_seconds, 1e-3, 3600, "SECONDS",
              "For each prompt (default 60)");
  line.Integer("max-new-tokens", &options.max_new_tokens, 1, limits::kCeilingNewTokens,
               "Longest answer, 1 to 4096");
}

absl::StatusOr<EvalData> OpenEvalData(const DatasetRunOptions& options) {
  CHORD_ASSIGN_OR_RETURN(EvalData data, LoadEvalData(options.data, options.images, options.format));
  if (options.limit > 0 && static_cast<size_t>(options.limit) < data.items.size()) {
    data.items.resize(static_cast<size_t>(options.limit));
  }
  return data;
}

std::vector<absl::StatusOr<DatasetAnswer>> RunDataset(Client& client, const EvalData& data,
                                                      const DatasetRunOptions& options,
                                                      bool want_evidence) {
  std::vector<absl::StatusOr<DatasetAnswer>> out(data.items.size(), absl::UnknownError("not sent"));
  std::atomic<size_t> next{0};
  ServerState server;
  Report report(data.items.size());
  const auto work = [&] {
    for (size_t i; !server.lost && (i = next++) < data.items.size();) {
      out[i] = RunItem(client, data, data.items[i], options, want_evidence, server);
      report.Add(data.items[i].file, out[i].status());
    }
  };
  std::vector<std::thread> threads;
  const size_t count = std::min<size_t>(options.parallel, data.items.size());
  for (size_t i = 0; i < count; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  report.End();
  return out;
}

Scored Score(const EvalItem& item, const v1::GroundResponse& answer) {
  Scored out;
  out.truth = item.truth;
  out.first_box_only = item.first_box_only;
  out.confidence = answer.confidence();
  for (const v1::Object& object : answer.objects()) {
    const v1::Box& box = object.box();
    out.predicted.push_back({static_cast<double>(box.x1()), static_cast<double>(box.y1()),
                             static_cast<double>(box.x2()), static_cast<double>(box.y2())});
    out.confidences.push_back(object.confidence());
  }
  return out;
}

}  // namespace chord::cli
