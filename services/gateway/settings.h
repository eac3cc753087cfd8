// The gateway's settings, checked and with their defaults filled in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/config/v1/config.pb.h"
#include "common/base/ip_set.h"

namespace chord::gateway {

struct Peer {
  std::string name;
  std::string address;  // host:port, unix:path or dns:host:port
};

struct Settings {
  std::string model_dir;
  std::string http_address;
  std::string grpc_address;
  std::vector<Peer> vision_workers;
  std::vector<Peer> language_workers;
  int64_t max_image_bytes = 0;
  int64_t max_image_pixels = 0;
  int64_t max_image_metadata_bytes = 0;
  int64_t max_prompt_bytes = 0;
  int default_new_tokens = 0;
  int max_new_tokens = 0;
  absl::Duration default_deadline;
  absl::Duration max_deadline;
  int max_in_flight = 0;
  int max_http_connections = 0;
  absl::Duration worker_wait;
  double advice_threshold = 0;
  double review_threshold = 0;
  absl::Duration drain;
  absl::Duration lame_duck;
  bool worker_metrics = false;
  std::string metrics_file;   // or empty
  std::string local_address;  // unix:path, or empty
  int64_t image_store_bytes = 0;
  absl::Duration image_ttl;
  int max_sessions = 0;
  int client_requests = 0;  // at most max_in_flight
  int max_batch = 0;
  absl::Duration dns_every;
  std::vector<std::string> cors_origins;
  IpSet trusted_proxies;
  std::string api_keys_file;  // or empty
  // Of both public endpoints; all empty: no TLS.
  std::string tls_cert_file, tls_key_file;
  std::string tls_client_ca_file;  // empty: clients need no certificate
  std::string model_name;          // empty: chord.json's, else the folder's
  std::string prompt_wrapper;      // "auto", "none" or "json"
};

// CONFIG_INVALID names the field and what it must be.
absl::StatusOr<Settings> CheckSettings(const config::v1::Gateway& config);

}  // namespace chord::gateway
