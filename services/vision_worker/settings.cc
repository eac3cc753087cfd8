#include "services/vision_worker/settings.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/rpc/peers.h"

namespace chord::vision_worker {
namespace {

bool IsPeerName(absl::string_view name) {
  if (name.empty() || name.size() > 64) return false;
  for (char c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<Settings> CheckSettings(const config::v1::VisionWorker& config) {
  Settings out;
  absl::Status wrong;
  // 0 is a field that was not given.
  auto number = [&wrong](absl::string_view name, double value, double low, double high,
                         auto* field) {
    if (value == 0) return;
    if (value >= low && value <= high) {
      *field = static_cast<std::decay_t<decltype(*field)>>(value);
    } else if (wrong.ok()) {
      wrong = errors::ConfigInvalid(absl::StrCat(name, " must be from ", static_cast<int64_t>(low),
                                                 " to ", static_cast<int64_t>(high), "."));
    }
  };
  auto text = [](const std::string& value, absl::string_view otherwise) {
    return value.empty() ? std::string(otherwise) : value;
  };
  if (config.model_dir().empty()) {
    return errors::ConfigInvalid("model_dir is missing: name the folder of the model.");
  }
  out.model_dir = config.model_dir();
  out.address = text(config.address(), "127.0.0.1:50061");
  out.metrics_address = config.metrics_address();
  out.device = text(config.device(), "auto");
  out.dtype = text(config.dtype(), "auto");
  double drain = absl::ToDoubleSeconds(out.drain);
  number("threads", config.threads(), 1, 1024, &out.threads);
  number("max_image_bytes", static_cast<double>(config.max_image_bytes()), 1,
         limits::kCeilingImageBytes, &out.max_image_bytes);
  number("max_image_pixels", static_cast<double>(config.max_image_pixels()), 1,
         limits::kCeilingImagePixels, &out.max_image_pixels);
  number("max_image_metadata_bytes", static_cast<double>(config.max_image_metadata_bytes()), 1,
         limits::kCeilingImageMetadataBytes, &out.max_image_metadata_bytes);
  number("max_queue", config.max_queue(), 1, 4096, &out.max_queue);
  number("max_pixels_in_flight", static_cast<double>(config.max_pixels_in_flight()), 1, 1e12,
         &out.max_pixels_in_flight);
  number("max_batch_patches", static_cast<double>(config.max_batch_patches()), 1, 262'144,
         &out.max_batch_patches);
  number("drain_seconds", config.drain_seconds(), 0, 3600, &drain);
  if (!wrong.ok()) return wrong;
  CHORD_ASSIGN_OR_RETURN(out.attention, engine::ParseAttention(config.attention()));
  out.drain = absl::Seconds(drain);
  for (const auto& peer : config.language_workers()) {
    if (!IsPeerName(peer.name())) {
      return errors::ConfigInvalid(
          "A name in language_workers must be 1 to 64 of a-z, 0-9 and '-'.");
    }
    if (peer.address().empty()) {
      return errors::ConfigInvalid(
          absl::StrCat("The language worker \"", peer.name(), "\" has no address."));
    }
    if (absl::StartsWith(peer.address(), "dns:") && !rpc::SplitDnsAddress(peer.address())) {
      return errors::ConfigInvalid(absl::StrCat("The address of the language worker \"",
                                                peer.name(),
                                                "\" must be of the form dns:HOST:PORT."));
    }
    if (!out.language_workers.emplace(peer.name(), peer.address()).second) {
      return errors::ConfigInvalid(
          absl::StrCat("The language worker \"", peer.name(), "\" is named twice."));
    }
  }
  if (out.language_workers.empty()) {
    return errors::ConfigInvalid(
        "language_workers is missing: name at least one, as NAME=ADDRESS.");
  }
  return out;
}

}  // namespace chord::vision_worker
