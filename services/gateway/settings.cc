#include "services/gateway/settings.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/http/cors.h"
#include "common/rpc/peers.h"

namespace chord::gateway {
namespace {

absl::Status Must(absl::string_view name, absl::string_view what) {
  return errors::ConfigInvalid(absl::StrCat("The setting ", name, " must be ", what, "."));
}

// proto3 does not tell 0 from absent: 0 is the default.
template <typename T>
absl::StatusOr<T> InRange(absl::string_view name, T value, T fallback, T low, T high) {
  if (value == 0) return fallback;
  if (!(value >= low && value <= high)) {
    return Must(name, absl::StrCat("between ", low, " and ", high));
  }
  return value;
}

absl::StatusOr<absl::Duration> Seconds(absl::string_view name, double value, double fallback) {
  CHORD_ASSIGN_OR_RETURN(const double seconds, InRange(name, value, fallback, 0.001, 86'400.0));
  return absl::Seconds(seconds);
}

absl::StatusOr<std::vector<Peer>> Peers(
    absl::string_view name, const google::protobuf::RepeatedPtrField<config::v1::Peer>& peers,
    std::set<std::string>& names) {
  if (peers.empty()) return Must(name, "given at least once, as NAME=ADDRESS");
  std::vector<Peer> out;
  for (const config::v1::Peer& peer : peers) {
    const bool plain = !peer.name().empty() &&
                       std::all_of(peer.name().begin(), peer.name().end(), [](unsigned char c) {
                         return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
                       });
    if (!plain) return Must(name, "NAME=ADDRESS with a name of [a-z0-9-]");
    if (peer.address().empty()) {
      return Must(name, "NAME=ADDRESS with host:port, unix:path or dns:host:port");
    }
    if (absl::StartsWith(peer.address(), "dns:") && !rpc::SplitDnsAddress(peer.address())) {
      return Must(name, "NAME=dns:HOST:PORT with a port from 1 to 65535");
    }
    if (!names.insert(peer.name()).second) return Must(name, "unique in its names");
    out.push_back({peer.name(), peer.address()});
  }
  return out;
}

}  // namespace

absl::StatusOr<Settings> CheckSettings(const config::v1::Gateway& config) {
  Settings out;
  if (config.model_dir().empty()) return Must("model_dir", "a folder with a model");
  out.model_dir = config.model_dir();
  out.http_address = config.http_address().empty() ? "127.0.0.1:8080" : config.http_address();
  out.grpc_address = config.grpc_address().empty() ? "127.0.0.1:50051" : config.grpc_address();
  std::set<std::string> names;
  CHORD_ASSIGN_OR_RETURN(out.vision_workers,
                         Peers("vision_workers", config.vision_workers(), names));
  names.clear();
  CHORD_ASSIGN_OR_RETURN(out.language_workers,
                         Peers("language_workers", config.language_workers(), names));
  CHORD_ASSIGN_OR_RETURN(
      out.max_image_bytes,
      InRange<int64_t>("max_image_bytes", config.max_image_bytes(), limits::kDefaultImageBytes, 1,
                       limits::kCeilingImageBytes));
  CHORD_ASSIGN_OR_RETURN(
      out.max_image_pixels,
      InRange<int64_t>("max_image_pixels", config.max_image_pixels(), limits::kDefaultImagePixels,
                       1, limits::kCeilingImagePixels));
  CHORD_ASSIGN_OR_RETURN(
      out.max_image_metadata_bytes,
      InRange<int64_t>("max_image_metadata_bytes", config.max_image_metadata_bytes(),
                       limits::kDefaultImageMetadataBytes, 1, limits::kCeilingImageMetadataBytes));
  CHORD_ASSIGN_OR_RETURN(
      out.max_prompt_bytes,
      InRange<int64_t>("max_prompt_bytes", config.max_prompt_bytes(), limits::kDefaultPromptBytes,
                       1, limits::kCeilingPromptBytes));
  CHORD_ASSIGN_OR_RETURN(out.max_new_tokens,
                         InRange<int>("max_new_tokens", config.max_new_tokens(),
                                      limits::kCeilingNewTokens, 1, limits::kCeilingNewTokens));
  CHORD_ASSIGN_OR_RETURN(
      out.default_new_tokens,
      InRange<int>("default_new_tokens", config.default_new_tokens(),
                   std::min(limits::kDefaultNewTokens, out.max_new_tokens), 1, out.max_new_tokens));
  CHORD_ASSIGN_OR_RETURN(out.max_deadline,
                         Seconds("max_deadline_seconds", config.max_deadline_seconds(), 600));
  CHORD_ASSIGN_OR_RETURN(out.default_deadline, Seconds("default_deadline_seconds",
                                                       config.default_deadline_seconds(), 60));
  out.default_deadline = std::min(out.default_deadline, out.max_deadline);
  CHORD_ASSIGN_OR_RETURN(out.max_in_flight,
                         InRange<int>("max_in_flight", config.max_in_flight(), 64, 1, 1024));
  CHORD_ASSIGN_OR_RETURN(
      out.max_http_connections,
      InRange<int>("max_http_connections", config.max_http_connections(), 512, 1, 65'536));
  CHORD_ASSIGN_OR_RETURN(out.worker_wait,
                         Seconds("worker_wait_seconds", config.worker_wait_seconds(), 5));
  CHORD_ASSIGN_OR_RETURN(out.advice_threshold,
                         InRange("advice_threshold", config.advice_threshold(), 0.75, 1e-9, 1.0));
  CHORD_ASSIGN_OR_RETURN(out.review_threshold,
                         InRange("review_threshold", config.review_threshold(), 0.7, 1e-9, 1.0));
  CHORD_ASSIGN_OR_RETURN(out.drain, Seconds("drain_seconds", config.drain_seconds(), 10));
  CHORD_ASSIGN_OR_RETURN(out.lame_duck,
                         Seconds("lame_duck_seconds", config.lame_duck_seconds(),
                                 std::min(1.0, absl::ToDoubleSeconds(out.drain) / 4)));
  out.worker_metrics = config.worker_metrics();
  out.metrics_file = config.metrics_file();
  out.local_address = config.local_address();
  if (!out.local_address.empty() && !absl::StartsWith(out.local_address, "unix:/")) {
    return Must("local_address", "of the form unix:/path");
  }
  CHORD_ASSIGN_OR_RETURN(out.image_store_bytes,
                         InRange<int64_t>("image_store_bytes", config.image_store_bytes(),
                                          256LL << 20, 1, int64_t{1} << 40));
  CHORD_ASSIGN_OR_RETURN(out.image_ttl,
                         Seconds("image_ttl_seconds", config.image_ttl_seconds(), 600));
  CHORD_ASSIGN_OR_RETURN(out.max_sessions, InRange<int>("max_sessions", config.max_sessions(), 1000,
                                                        1, limits::kCeilingSessions));
  CHORD_ASSIGN_OR_RETURN(out.client_requests,
                         InRange<int>("client_requests", config.client_requests(),
                                      std::min(32, out.max_in_flight), 1, out.max_in_flight));
  CHORD_ASSIGN_OR_RETURN(
      out.max_batch, InRange<int>("max_batch", config.max_batch(), 64, 1, limits::kCeilingBatch));
  CHORD_ASSIGN_OR_RETURN(out.dns_every, Seconds("dns_seconds", config.dns_seconds(), 5));
  for (const std::string& origin : config.cors_allowed_origins()) {
    if (!http::IsCorsOrigin(origin)) {
      return Must("cors_allowed_origins",
                  "\"*\" or origins as browsers send them: https://app.example, without a path");
    }
    out.cors_origins.push_back(origin);
  }
  auto trusted = IpSet::Parse({config.trusted_proxies().begin(), config.trusted_proxies().end()});
  if (!trusted.ok()) {
    return errors::ConfigInvalid(
        absl::StrCat("The setting trusted_proxies: ", trusted.status().message(), "."));
  }
  out.trusted_proxies = *std::move(trusted);
  out.api_keys_file = config.api_keys_file();
  out.tls_cert_file = config.tls_cert_file();
  out.tls_key_file = config.tls_key_file();
  out.tls_client_ca_file = config.tls_client_ca_file();
  if (out.tls_cert_file.empty() != out.tls_key_file.empty()) {
    return Must("tls_cert_file", "given together with tls_key_file");
  }
  if (out.tls_cert_file.empty() && !out.tls_client_ca_file.empty()) {
    return Must("tls_client_ca_file", "given with tls_cert_file and tls_key_file");
  }
  out.model_name = config.model_name();
  out.prompt_wrapper = config.prompt_wrapper().empty() ? "auto" : config.prompt_wrapper();
  if (out.prompt_wrapper != "auto" && out.prompt_wrapper != "none" &&
      out.prompt_wrapper != "json") {
    return Must("prompt_wrapper", "\"auto\", \"none\" or \"json\"");
  }
  return out;
}

}  // namespace chord::gateway
