// One way to open a channel between our processes.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

namespace chord::rpc {

// `address`: "host:port" or "unix:/path". No compression, no retries, gRPC's default receive limit,
// keepalive, quick reconnect (100 ms growing to 1 s) because a peer that died is restarted at once.
// Each call makes a channel with its own connection.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// gRPC and protobuf print lines of their own to stderr, in their own form, some with addresses of
// peers. They would break structured logs, and what matters in them reaches us as a status. Silent
// unless GRPC_VERBOSITY is set. Called by MakeChannel and Server::Start.
void QuietGrpcLogs();

}  // namespace chord::rpc
