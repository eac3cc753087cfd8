// Asking a running Chord, over either of its doors: shared by the subcommands that ask.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/v1/grounding.pb.h"
#include "services/cli/args.h"

namespace chord::cli {

struct GroundRequestData {
  absl::string_view image;  // the file; must outlive the call
  std::string prompt;
  int max_new_tokens = 0;  // 0: the server's default
  v1::Grammar grammar = v1::GRAMMAR_AUTO;
  bool want_evidence = false;  // gRPC only
  absl::Duration timeout = absl::Seconds(60);
};

// Thread-safe. Blocks for at most the prompt's timeout. Errors are the server's own, catalogued
// ones, or say in one sentence that there is no server.
class Client {
 public:
  virtual ~Client() = default;
  virtual absl::StatusOr<v1::GroundResponse> Ask(const GroundRequestData& prompt) = 0;
};

// UNAVAILABLE, not catalogued: nobody answers, or no Chord.
absl::Status NoServer();

// --server of the subcommands that ask over gRPC. CONFIG_INVALID when it has not the form.
absl::StatusOr<std::string> GrpcAddress(const Args& args);

// `address`: HOST:PORT or unix:PATH.
std::unique_ptr<Client> MakeGrpcClient(const std::string& address);
// `address`: HOST:PORT, or http://HOST:PORT. A connection for each prompt; answers up to 16 MiB.
// CONFIG_INVALID when it is neither.
absl::StatusOr<std::unique_ptr<Client>> MakeHttpClient(const std::string& address);

// The form of POST /api/ground. Pure; exposed for tests. `boundary` must not occur in the image.
std::string MultipartBody(const GroundRequestData& prompt, absl::string_view boundary);
// The answer of POST /api/ground: `status` of HTTP and the body. Whatever the body holds, it is an
// answer whose objects have boxes, or an error.
absl::StatusOr<v1::GroundResponse> ParseHttpAnswer(int status, absl::string_view body);

}  // namespace chord::cli
