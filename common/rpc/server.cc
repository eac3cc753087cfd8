#include "common/rpc/server.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/rpc/channel.h"
#include "common/rpc/fallback_service.h"
#include "common/rpc/health.h"
#include "common/rpc/tls_credentials.h"

namespace chord::rpc {
namespace {

class ServerImpl : public Server {
 public:
  ServerImpl(std::unique_ptr<Health> health, std::unique_ptr<Fallback> fallback,
             std::unique_ptr<grpc::Server> server, int port, std::string ready_service)
      : health_(std::move(health)),
        fallback_(std::move(fallback)),
        server_(std::move(server)),
        port_(port),
        ready_service_(std::move(ready_service)) {}
  ~ServerImpl() override { Shutdown(absl::Now()); }

  int port() const override { return port_; }

  void SetReady(bool ready) override {
    if (!ready_service_.empty()) health_->Set(ready_service_, ready);
  }

  void Shutdown(absl::Time deadline) override {
    std::call_once(shut_down_, [&] {
      health_->Close();
      server_->Shutdown(absl::ToChronoTime(deadline));
      server_->Wait();
    });
  }

 private:
  const std::unique_ptr<Health> health_;  // both outlive the server
  const std::unique_ptr<Fallback> fallback_;
  std::unique_ptr<grpc::Server> server_;
  const int port_;
  const std::string ready_service_;
  std::once_flag shut_down_;
};

// A socket file that a dead process left would prevent binding. A file that is not a socket stays.
absl::Status RemoveStaleSocket(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return errors::ConfigInvalid(
        absl::StrCat("Cannot listen on unix:", path, ": a file that is not a socket is there."));
  }
  unlink(path.c_str());
  return absl::OkStatus();
}

std::vector<std::string> WithStandardServices(std::vector<std::string> names) {
  if (names.empty()) return names;
  for (const char* name : {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                           "grpc.reflection.v1alpha.ServerReflection"}) {
    names.push_back(name);
  }
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options,
                                                      const std::vector<grpc::Service*>& services) {
  QuietGrpcLogs();
  for (absl::string_view address : {options.address, options.local_address}) {
    if (!absl::ConsumePrefix(&address, "unix:")) continue;
    if (auto status = RemoveStaleSocket(std::string(address)); !status.ok()) return status;
  }

  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.address,
                           options.tls == nullptr ? grpc::InsecureServerCredentials()
                                                  : TlsCredentials(*options.tls->current()),
                           &port);
  if (!options.local_address.empty()) {
    builder.AddListeningPort(options.local_address, grpc::InsecureServerCredentials());
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  auto health = std::make_unique<Health>();
  health->Set("", true);
  if (!options.ready_service.empty()) health->Set(options.ready_service, false);
  builder.RegisterService(health.get());
  auto fallback = std::make_unique<Fallback>(WithStandardServices(options.reflect));
  builder.RegisterCallbackGenericService(fallback.get());
  if (options.max_receive_bytes > 0) {
    builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_receive_bytes));
  }
  // A compressed message is inflated before its size is checked: take none.
  for (int algorithm = 0; algorithm < GRPC_COMPRESS_ALGORITHMS_COUNT; ++algorithm) {
    builder.SetCompressionAlgorithmSupportStatus(static_cast<grpc_compression_algorithm>(algorithm),
                                                 algorithm == GRPC_COMPRESS_NONE);
  }
  builder.SetDefaultCompressionAlgorithm(GRPC_COMPRESS_NONE);
  grpc::ResourceQuota quota("chord");
  quota.Resize(options.buffer_quota_bytes > 0 ? options.buffer_quota_bytes : 256LL << 20);
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits::kMaxConcurrentStreams);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || (port == 0 && !absl::StartsWith(options.address, "unix:"))) {
    return errors::ConfigInvalid(absl::StrCat(
        "Cannot listen on ", options.address,
        ": the address is in use, not of this host, or malformed. Choose another one."));
  }
  return std::make_unique<ServerImpl>(std::move(health), std::move(fallback), std::move(server),
                                      absl::StartsWith(options.address, "unix:") ? 0 : port,
                                      options.ready_service);
}

}  // namespace chord::rpc
