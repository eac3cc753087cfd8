#include "services/llm_worker/settings.h"

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::llm_worker {
namespace {

// The folder of the setting; "" for none.
std::string PackedCacheDir(const std::string& setting) {
  if (setting == "none") return "";
  if (!setting.empty()) return setting;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && cache[0] == '/') {
    return absl::StrCat(cache, "/chord/packed");
  }
  const char* home = std::getenv("HOME");
  return home != nullptr && home[0] == '/' ? absl::StrCat(home, "/.cache/chord/packed") : "";
}

}  // namespace

absl::StatusOr<Settings> CheckSettings(const config::v1::LlmWorker& config) {
  Settings out;
  absl::Status wrong;
  // 0 is a field that was not given.
  auto number = [&wrong](absl::string_view name, double value, double low, double high,
                         auto* field) {
    if (value == 0) return;
    if (value >= low && value <= high) {
      *field = static_cast<std::decay_t<decltype(*field)>>(value);
    } else if (wrong.ok()) {
      wrong = errors::ConfigInvalid(
          absl::StrCat(name, " must be from ", low, " to ", high, ", not ", value, "."));
    }
  };
  auto text = [](const std::string& value, absl::string_view otherwise) {
    return value.empty() ? std::string(otherwise) : value;
  };
  if (config.model_dir().empty()) {
    return errors::ConfigInvalid("model_dir is missing: name the folder of the model.");
  }
  out.model_dir = config.model_dir();
  out.address = text(config.address(), "127.0.0.1:50062");
  out.metrics_address = config.metrics_address();
  out.device = text(config.device(), "auto");
  out.dtype = text(config.dtype(), "auto");
  double ttl = absl::ToDoubleSeconds(out.ticket_ttl), drain = absl::ToDoubleSeconds(out.drain);
  number("threads", config.threads(), 1, 1024, &out.threads);
  double image_ttl = absl::ToDoubleSeconds(out.image_ttl);
  number("max_sequences", config.max_sequences(), 1, 256, &out.max_sequences);
  number("kv_tokens", config.kv_tokens(), 64, 1 << 24, &out.kv_tokens);
  number("prefill_tokens", config.prefill_tokens(), 16, 1 << 16, &out.prefill_tokens);
  number("image_cache_bytes", static_cast<double>(config.image_cache_bytes()), 1, 1LL << 40,
         &out.image_cache_bytes);
  number("image_ttl_seconds", config.image_ttl_seconds(), 0.1, 86'400, &image_ttl);
  if (config.kv_dtype() == "int8") {
    out.kv_type = engine::KvType::kInt8;
  } else if (!config.kv_dtype().empty() && config.kv_dtype() != "auto") {
    return errors::ConfigInvalid("kv_dtype must be auto (the model's dtype) or int8.");
  }
  CHORD_ASSIGN_OR_RETURN(out.attention, engine::ParseAttention(config.attention()));
  out.packed_cache.dir = PackedCacheDir(config.packed_cache_dir());
  number("packed_cache_bytes", static_cast<double>(config.packed_cache_bytes()), 1, 1LL << 44,
         &out.packed_cache.max_bytes);
  number("max_sequence_tokens", config.max_sequence_tokens(), 64, 1 << 20,
         &out.max_sequence_tokens);
  number("max_queue", config.max_queue(), 1, 4096, &out.max_queue);
  number("ticket_ttl_seconds", config.ticket_ttl_seconds(), 0.1, 3600, &ttl);
  number("drain_seconds", config.drain_seconds(), 0.1, 3600, &drain);
  if (!wrong.ok()) return wrong;
  out.ticket_ttl = absl::Seconds(ttl);
  out.drain = absl::Seconds(drain);
  out.image_ttl = absl::Seconds(image_ttl);
  return out;
}

}  // namespace chord::llm_worker
