#include "common/base/certificates.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

absl::Status Wrong(absl::string_view path, absl::string_view what) {
  ERR_clear_error();
  return errors::ConfigInvalid(absl::StrCat("The file ", path, " ", what, "."));
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Wrong(path, "cannot be read");
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) return Wrong(path, "is too large for certificates");
  return text;
}

Bio Open(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Certificate ParseCertificate(const std::string& pem) {
  return Certificate(PEM_read_bio_X509(Open(pem).get(), nullptr, nullptr, nullptr));
}

// A key behind a passphrase is refused, not asked about.
int NoPassphrase(char*, int, int, void*) { return -1; }

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm fields{};
  return ASN1_TIME_to_tm(time, &fields) == 1 ? absl::FromTimeT(timegm(&fields))
                                             : absl::InfinitePast();
}

}  // namespace

absl::StatusOr<Certificates> ReadCertificates(const CertificatePaths& paths, absl::Time now) {
  Certificates out;
  CHORD_ASSIGN_OR_RETURN(out.certificate_pem, ReadText(paths.certificate));
  CHORD_ASSIGN_OR_RETURN(out.key_pem, ReadText(paths.key));
  const Certificate certificate = ParseCertificate(out.certificate_pem);
  if (certificate == nullptr) return Wrong(paths.certificate, "holds no PEM certificate");
  const Key key(PEM_read_bio_PrivateKey(Open(out.key_pem).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) return Wrong(paths.key, "holds no PEM private key without a passphrase");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Wrong(paths.key,
                 absl::StrCat("is not the key of the certificate in ", paths.certificate));
  }
  out.expires = ToTime(X509_get0_notAfter(certificate.get()));
  if (now >= out.expires) {
    return Wrong(paths.certificate,
                 absl::StrCat("holds a certificate that expired on ",
                              absl::FormatTime("%Y-%m-%d", out.expires, absl::UTCTimeZone())));
  }
  if (now < ToTime(X509_get0_notBefore(certificate.get()))) {
    return Wrong(paths.certificate, "holds a certificate that is not valid yet; check the clock");
  }
  if (paths.authorities.empty()) return out;
  CHORD_ASSIGN_OR_RETURN(out.authorities_pem, ReadText(paths.authorities));
  if (ParseCertificate(out.authorities_pem) == nullptr) {
    return Wrong(paths.authorities, "holds no PEM certificate");
  }
  return out;
}

// Links are followed: a mounted secret is changed by one.
std::string CertificateFiles::Version() const {
  std::string out;
  for (const std::string* path : {&paths_.certificate, &paths_.key, &paths_.authorities}) {
    struct stat info {};
    if (path->empty() || stat(path->c_str(), &info) != 0) continue;
    absl::StrAppend(&out, info.st_dev, ".", info.st_ino, ".", info.st_size, ".",
                    info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ";");
  }
  return out;
}

absl::StatusOr<std::shared_ptr<CertificateFiles>> CertificateFiles::Open(
    const CertificatePaths& paths, absl::Time now) {
  std::shared_ptr<CertificateFiles> out(new CertificateFiles(paths));
  std::string version = out->Version();
  CHORD_ASSIGN_OR_RETURN(Certificates certificates, ReadCertificates(paths, now));
  absl::MutexLock lock(&out->mu_);
  out->version_ = std::move(version);
  out->current_ = std::make_shared<const Certificates>(std::move(certificates));
  return out;
}

std::shared_ptr<const Certificates> CertificateFiles::current() const {
  absl::MutexLock lock(&mu_);
  return current_;
}

CertificateFiles::Change CertificateFiles::Refresh(absl::Time now, std::string* why) {
  std::string version = Version();
  absl::MutexLock lock(&mu_);
  if (version == version_) return Change::kNone;
  version_ = std::move(version);
  absl::StatusOr<Certificates> certificates = ReadCertificates(paths_, now);
  if (!certificates.ok()) {
    *why = std::string(certificates.status().message());
    return Change::kRefused;
  }
  current_ = std::make_shared<const Certificates>(*std::move(certificates));
  return Change::kRead;
}

}  // namespace chord
