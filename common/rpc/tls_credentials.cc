#include "common/rpc/tls_credentials.h"

namespace chord::rpc {

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(const Certificates& certificates) {
  grpc::SslServerCredentialsOptions options(
      certificates.authorities_pem.empty()
          ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = certificates.authorities_pem;
  options.pem_key_cert_pairs.push_back({certificates.key_pem, certificates.certificate_pem});
  return grpc::SslServerCredentials(options);
}

}  // namespace chord::rpc
