#include "services/gateway/access/access.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/obs/log.h"

namespace chord::gateway {
namespace {

constexpr absl::string_view kBearer = "bearer ";

// Changes whenever the file does. Links are followed: a mounted secret is changed by one.
std::string VersionOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return "";
  return absl::StrCat(info.st_dev, ".", info.st_ino, ".", info.st_size, ".", info.st_mtim.tv_sec,
                      ".", info.st_mtim.tv_nsec);
}

absl::string_view KeyOf(const Credentials& credentials) {
  const absl::string_view authorization = credentials.authorization;
  if (absl::StartsWithIgnoreCase(authorization, kBearer)) {
    return absl::StripAsciiWhitespace(authorization.substr(kBearer.size()));
  }
  return credentials.api_key;
}

obs::AuthOutcome OutcomeOf(const absl::Status& status) {
  if (errors::Is(status, Reason::kApiKeyMissing)) return obs::AuthOutcome::kMissing;
  if (errors::Is(status, Reason::kApiKeyUnknown)) return obs::AuthOutcome::kUnknown;
  if (errors::Is(status, Reason::kApiKeyBlocked)) return obs::AuthOutcome::kBlocked;
  if (errors::Is(status, Reason::kApiKeyLimit)) return obs::AuthOutcome::kLimited;
  return obs::AuthOutcome::kOk;
}

}  // namespace

std::string ClientAddress(const IpSet& trusted, absl::string_view peer,
                          absl::string_view forwarded_for) {
  if (!trusted.Contains(peer) || forwarded_for.empty()) return std::string(peer);
  const std::vector<absl::string_view> hops = absl::StrSplit(forwarded_for, ',');
  absl::string_view client = peer;
  for (auto hop = hops.rbegin(); hop != hops.rend(); ++hop) {
    const absl::string_view address = absl::StripAsciiWhitespace(*hop);
    const auto is_address = IpSet::Parse({std::string(address)});
    // What no trusted proxy can have written counts for the last hop that is known.
    if (!is_address.ok() || absl::StrContains(address, "/")) break;
    client = address;
    if (!trusted.Contains(client)) break;
  }
  return std::string(client);
}

absl::StatusOr<std::unique_ptr<Access>> Access::Create(const Options& options,
                                                       obs::Metrics& metrics) {
  std::unique_ptr<Access> out(new Access(options, metrics));
  if (options.api_keys_file.empty()) return out;
  std::string version = VersionOf(options.api_keys_file);
  CHORD_ASSIGN_OR_RETURN(auto entries, config::ReadApiKeysFile(options.api_keys_file));
  out->keys_ = std::make_unique<ApiKeys>(std::move(entries));
  absl::MutexLock lock(&out->mu_);
  out->version_ = std::move(version);
  return out;
}

std::string Access::AddressOf(const Credentials& credentials) const {
  return ClientAddress(options_.trusted_proxies, credentials.peer, credentials.forwarded_for);
}

absl::StatusOr<Client> Access::Identify(const Credentials& credentials) const {
  Client out;
  out.id = AddressOf(credentials);
  if (keys_ == nullptr) return out;
  absl::StatusOr<std::string> name = keys_->Check(KeyOf(credentials), out.id, absl::Now());
  metrics_.Authenticated(OutcomeOf(name.status()));
  if (!name.ok()) return name.status();
  out.key = *std::move(name);
  out.id = absl::StrCat("key:", out.key);
  return out;
}

void Access::Maintain() {
  if (keys_ == nullptr) return;
  absl::MutexLock lock(&mu_);
  std::string version = VersionOf(options_.api_keys_file);
  if (version == version_) return;
  version_ = std::move(version);
  auto entries = config::ReadApiKeysFile(options_.api_keys_file);
  if (!entries.ok()) {
    obs::Log(obs::LogLevel::kError, "api_keys_refused", {{"why", entries.status().message()}});
    return;
  }
  obs::Log(obs::LogLevel::kInfo, "api_keys_read", {{"keys", entries->size()}});
  keys_->Replace(*std::move(entries));
}

}  // namespace chord::gateway
