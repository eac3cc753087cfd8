#include "common/base/sha256.h"

#include <openssl/evp.h>

#include <cstdint>
#include <cstring>

#include "absl/strings/escaping.h"

namespace chord {

struct Sha256::Impl {
  EVP_MD_CTX* ctx = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(ctx); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  EVP_DigestInit_ex(impl_->ctx, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;

void Sha256::Update(absl::string_view bytes) {
  EVP_DigestUpdate(impl_->ctx, bytes.data(), bytes.size());
}

void Sha256::UpdateField(absl::string_view bytes) {
  const uint64_t size = bytes.size();
  char prefix[sizeof(size)];
  std::memcpy(prefix, &size, sizeof(size));
  Update(absl::string_view(prefix, sizeof(prefix)));
  Update(bytes);
}

std::string Sha256::Digest() {
  std::string out(32, '\0');
  EVP_DigestFinal_ex(impl_->ctx, reinterpret_cast<unsigned char*>(out.data()), nullptr);
  return out;
}

std::string Sha256::HexDigest() { return absl::BytesToHexString(Digest()); }

}  // namespace chord
