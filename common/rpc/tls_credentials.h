// TLS of our gRPC servers.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "common/base/certificates.h"

namespace chord::rpc {

// With authorities, clients must show a certificate that one of them signed. The certificates are
// those of this moment: a server keeps them until it ends.
std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const Certificates& certificates);

}  // namespace chord::rpc
