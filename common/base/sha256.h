// SHA-256 (FIPS 180-4, by OpenSSL) for fingerprints and cache keys. Full digests everywhere.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace chord {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(absl::string_view bytes);
  // Length first, so that ("ab","c") and ("a","bc") differ.
  void UpdateField(absl::string_view bytes);
  std::string HexDigest();  // 64 lower-case hex digits; call once
  std::string Digest();     // the same as 32 bytes; call once, instead

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chord
