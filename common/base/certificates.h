// A certificate, its key and the authorities that it trusts, from PEM files that may change while
// the process runs.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace chord {

struct CertificatePaths {
  std::string certificate;  // and those that signed it
  std::string key;
  std::string authorities;  // empty: none
};

// The content of the files, checked.
struct Certificates {
  std::string certificate_pem, key_pem, authorities_pem;
  absl::Time expires;
};

// CONFIG_INVALID names the file and what is wrong: not readable, not PEM, a key that is not the
// certificate's, a certificate that has expired or is not valid yet, no authority.
absl::StatusOr<Certificates> ReadCertificates(const CertificatePaths& paths, absl::Time now);

// Thread-safe.
class CertificateFiles {
 public:
  static absl::StatusOr<std::shared_ptr<CertificateFiles>> Open(const CertificatePaths& paths,
                                                                absl::Time now);
  std::shared_ptr<const Certificates> current() const;

  enum class Change { kNone, kRead, kRefused };
  // Reads the files again when one has changed. What is broken is refused, for the reason in
  // `*why`, and the certificates that are in use stay.
  Change Refresh(absl::Time now, std::string* why);

 private:
  explicit CertificateFiles(CertificatePaths paths) : paths_(std::move(paths)) {}
  std::string Version() const;

  const CertificatePaths paths_;
  mutable absl::Mutex mu_;
  std::string version_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const Certificates> current_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord
