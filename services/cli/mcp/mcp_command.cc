// `chord mcp`: the tools of this folder for agents, over standard input and output.
#include "services/cli/mcp/mcp_command.h"

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/mcp/session.h"
#include "services/cli/mcp/tools.h"

namespace chord::cli {
namespace {

constexpr char kSummary[] =
    "A server of the Model Context Protocol on standard input and output, started by an agent's "
    "host.\n"
    "It offers the tools locate, annotate and zoom and forwards them to a running server.";

struct McpOptions {
  std::string server = kDefaultGrpcAddress;
  std::string http;
  std::string root;
  double timeout_seconds = 60;
};

// An image of the default limit in base64, and the rest of its message.
constexpr size_t kMaxLineBytes = (limits::kDefaultImageBytes + 2) / 3 * 4 + (1 << 20);
// Decoding and drawing take memory by the call: 150 MB for an image of 50 megapixels.
constexpr int kCallsAtOnce = 4;
constexpr int kCallsWaiting = 12;

// Whole lines, from any thread.
class Output {
 public:
  void Write(const mcp::Json& message) {
    const std::string line = mcp::ToLine(message) + "\n";
    absl::MutexLock lock(&mu_);
    if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() ||
        std::fflush(stdout) != 0) {
      failed_ = true;
    }
  }
  bool failed() {
    absl::MutexLock lock(&mu_);
    return failed_;
  }

 private:
  absl::Mutex mu_;
  bool failed_ ABSL_GUARDED_BY(mu_) = false;
};

// Until the host closes the input; the calls under way are answered first. The exit code.
int Serve(int input, const mcp::Tools& tools, const std::string& version) {
  Output output;
  auto executor = std::make_unique<Executor>(kCallsAtOnce, kCallsWaiting);
  mcp::Session session({
      .version = version,
      .tools = mcp::ToolList(),
      .has_tool = &mcp::Tools::Has,
      .call_tool = [&](const std::string& name,
                       const mcp::Json& arguments) { return tools.Call(name, arguments); },
      .run = [&](std::function<void()> task) { return executor->TryRun(std::move(task)); },
      .send = [&](const mcp::Json& message) { output.Write(message); },
  });
  mcp::LineReader lines(input, kMaxLineBytes);
  while (!output.failed()) {
    const absl::StatusOr<std::optional<std::string>> line = lines.Next();
    if (absl::IsResourceExhausted(line.status())) {
      output.Write(mcp::ErrorMessage(nullptr, mcp::RpcError::kParse,
                                     absl::StrCat("A message has at most ", kMaxLineBytes,
                                                  " bytes. Send a smaller image, or its path.")));
      continue;
    }
    if (!line.ok() || !line->has_value()) break;
    if ((*line)->find_first_not_of(" \t") == std::string::npos) continue;
    const std::optional<mcp::Json> message = mcp::ParseMessage(**line, kMaxLineBytes);
    if (message) {
      session.Handle(*message);
    } else {
      output.Write(mcp::ErrorMessage(nullptr, mcp::RpcError::kParse, "The line is not JSON."));
    }
  }
  executor.reset();
  return output.failed() ? 1 : 0;
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const McpOptions& options) {
  if (!options.http.empty()) return MakeHttpClient(options.http);
  CHORD_RETURN_IF_ERROR(CheckGrpcAddress(options.server));
  return MakeGrpcClient(options.server);
}

absl::StatusOr<int> Mcp(const McpOptions& options, const std::string& version) {
  CHORD_ASSIGN_OR_RETURN(mcp::ImageSource images, mcp::ImageSource::Create(options.root));
  CHORD_ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Connect(options));
  const mcp::Tools tools(*client, std::move(images), absl::Seconds(options.timeout_seconds));
  return Serve(fileno(stdin), tools, version);
}

}  // namespace

int RunMcp(const std::vector<std::string>& args, const std::string& version) {
  McpOptions options;
  CommandLine line("chord mcp", kSummary);
  line.Text("server", &options.server, "ADDR",
            "HOST:PORT or unix:PATH of the gateway's gRPC (default 127.0.0.1:50051)");
  line.Text("http", &options.http, "ADDR", "HOST:PORT of the gateway's HTTP, instead of gRPC");
  line.Text("root", &options.root, "DIR",
            "Read image files of this folder alone, and of what lies below it");
  line.Number("timeout", &options.timeout_seconds, 1e-3, 3600, "SECONDS",
              "For each call (default 60)");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  if (line.Has("server") && line.Has("http")) {
    return line.Fail("give --server or --http, not both; see --help.", kExitUsage);
  }
  const absl::StatusOr<int> code = Mcp(options, version);
  return code.ok() ? *code : line.Fail(code.status().message(), kExitUsage);
}

}  // namespace chord::cli
