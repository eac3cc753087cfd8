#include "services/llm_worker/settings.h"

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::llm_worker {

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
  number("max_sequences", config.max_sequences(), 1, 1024, &out.max_sequences);
  number("max_sequence_tokens", config.max_sequence_tokens(), 64, 1 << 20,
         &out.max_sequence_tokens);
  number("max_queue", config.max_queue(), 1, 4096, &out.max_queue);
  number("ticket_ttl_seconds", config.ticket_ttl_seconds(), 0.1, 3600, &ttl);
  number("drain_seconds", config.drain_seconds(), 0.1, 3600, &drain);
  if (!wrong.ok()) return wrong;
  out.ticket_ttl = absl::Seconds(ttl);
  out.drain = absl::Seconds(drain);
  return out;
}

}  // namespace chord::llm_worker
