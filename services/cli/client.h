// Requests to a running server over gRPC or HTTP, shared by the subcommands.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/v1/grounding.pb.h"

namespace chord::cli {

struct GroundCall {
  absl::string_view image;               // the file; must outlive the call
  std::string prompt;                    // empty with labels
  std::vector<std::string> labels = {};  // instead of a prompt: classes to look for
  int max_new_tokens = 0;                // 0: the server's default
  v1::Grammar grammar = v1::GRAMMAR_AUTO;
  bool want_evidence = false;  // gRPC only
  absl::Duration timeout = absl::Seconds(60);
};

// Thread-safe. Blocks for at most the call's timeout. Errors are the server's own (catalogued), or
// NoServer.
class Client {
 public:
  virtual ~Client() = default;
  virtual absl::StatusOr<v1::GroundResponse> Ground(const GroundCall& call) = 0;
};

// UNAVAILABLE, not catalogued: there is no server at the address, or it is not Chord.
absl::Status NoServer();
// Whether a call failed because no server was reached, rather than by a server's refusal.
bool IsNoServer(const absl::Status& status);

// The default of --server.
inline constexpr char kDefaultGrpcAddress[] = "127.0.0.1:50051";
// CONFIG_INVALID unless `address` is HOST:PORT or unix:PATH with a port above 0.
absl::Status CheckGrpcAddress(absl::string_view address);

// `address`: HOST:PORT or unix:PATH.
std::unique_ptr<Client> MakeGrpcClient(const std::string& address);
// `address`: HOST:PORT or http://HOST:PORT; answers up to 16 MiB. CONFIG_INVALID otherwise.
absl::StatusOr<std::unique_ptr<Client>> MakeHttpClient(const std::string& address);

// The multipart form of POST /api/ground. Pure; exposed for tests. `boundary` must not occur in the
// image.
std::string MultipartBody(const GroundCall& call, absl::string_view boundary);
// The answer of POST /api/ground: HTTP status and body. Whatever the body holds, the result is an
// answer whose objects have boxes, or an error.
absl::StatusOr<v1::GroundResponse> ParseHttpAnswer(int status, absl::string_view body);

}  // namespace chord::cli
