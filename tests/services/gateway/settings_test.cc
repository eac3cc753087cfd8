#include "services/gateway/settings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "common/base/errors.h"
#include "common/base/limits.h"

namespace chord::gateway {
namespace {

using config::v1::Gateway;

Gateway Good() {
  Gateway config;
  config.set_model_dir("/models/m");
  config.add_vision_workers()->set_name("v");
  config.mutable_vision_workers(0)->set_address("unix:/v");
  config.add_language_workers()->set_name("l");
  config.mutable_language_workers(0)->set_address("host:1");
  return config;
}

TEST(GatewaySettings, HaveDefaults) {
  const auto settings = CheckSettings(Good());
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->http_address, "127.0.0.1:8080");
  EXPECT_EQ(settings->grpc_address, "127.0.0.1:50051");
  EXPECT_EQ(settings->max_image_bytes, limits::kDefaultImageBytes);
  EXPECT_EQ(settings->default_new_tokens, limits::kDefaultNewTokens);
  EXPECT_EQ(settings->default_deadline, absl::Seconds(60));
  EXPECT_EQ(settings->prompt_wrapper, "auto");
  EXPECT_EQ(settings->image_store_bytes, 256 << 20);
  EXPECT_EQ(settings->image_ttl, absl::Minutes(10));
  EXPECT_EQ(settings->max_sessions, 1000);
  EXPECT_EQ(settings->client_requests, 32);
  EXPECT_EQ(settings->max_batch, 64);
  EXPECT_EQ(settings->dns_every, absl::Seconds(5));
  EXPECT_TRUE(settings->cors_origins.empty());
}

TEST(GatewaySettings, ADefaultNeverExceedsItsLimit) {
  Gateway config = Good();
  config.set_max_new_tokens(9);
  config.set_max_deadline_seconds(2);
  config.set_max_in_flight(4);
  const auto settings = CheckSettings(config);
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->default_new_tokens, 9);
  EXPECT_EQ(settings->default_deadline, absl::Seconds(2));
  EXPECT_EQ(settings->client_requests, 4);
}

TEST(GatewaySettings, NameTheFieldThatIsWrong) {
  const struct {
    const char* field;
    std::function<void(Gateway&)> spoil;
  } cases[] = {
      {"model_dir", [](Gateway& c) { c.clear_model_dir(); }},
      {"vision_workers", [](Gateway& c) { c.clear_vision_workers(); }},
      {"language_workers", [](Gateway& c) { c.mutable_language_workers(0)->set_name("A b"); }},
      {"language_workers", [](Gateway& c) { c.mutable_language_workers(0)->clear_address(); }},
      {"vision_workers", [](Gateway& c) { *c.add_vision_workers() = c.vision_workers(0); }},
      {"max_image_bytes",
       [](Gateway& c) { c.set_max_image_bytes(limits::kCeilingImageBytes + 1); }},
      {"max_image_pixels", [](Gateway& c) { c.set_max_image_pixels(-1); }},
      {"max_prompt_bytes", [](Gateway& c) { c.set_max_prompt_bytes(1 << 30); }},
      {"max_new_tokens", [](Gateway& c) { c.set_max_new_tokens(5000); }},
      {"default_new_tokens",
       [](Gateway& c) {
         c.set_max_new_tokens(8);
         c.set_default_new_tokens(9);
       }},
      {"max_deadline_seconds", [](Gateway& c) { c.set_max_deadline_seconds(NAN); }},
      {"default_deadline_seconds", [](Gateway& c) { c.set_default_deadline_seconds(-1); }},
      {"max_in_flight", [](Gateway& c) { c.set_max_in_flight(-1); }},
      {"advice_threshold", [](Gateway& c) { c.set_advice_threshold(1.5); }},
      {"review_threshold", [](Gateway& c) { c.set_review_threshold(-0.1); }},
      {"image_store_bytes", [](Gateway& c) { c.set_image_store_bytes(-1); }},
      {"image_ttl_seconds", [](Gateway& c) { c.set_image_ttl_seconds(86'401); }},
      {"max_sessions", [](Gateway& c) { c.set_max_sessions(limits::kCeilingSessions + 1); }},
      {"client_requests", [](Gateway& c) { c.set_client_requests(65); }},
      {"max_batch", [](Gateway& c) { c.set_max_batch(-1); }},
      {"dns_seconds", [](Gateway& c) { c.set_dns_seconds(-1); }},
      {"vision_workers", [](Gateway& c) { c.mutable_vision_workers(0)->set_address("dns:host"); }},
      {"cors_allowed_origins",
       [](Gateway& c) { c.add_cors_allowed_origins("https://app.example/path"); }},
      {"cors_allowed_origins", [](Gateway& c) { c.add_cors_allowed_origins(""); }},
      {"prompt_wrapper", [](Gateway& c) { c.set_prompt_wrapper("xml"); }}};
  for (const auto& c : cases) {
    Gateway config = Good();
    c.spoil(config);
    const absl::Status status = CheckSettings(config).status();
    EXPECT_EQ(ErrorReason(status), "CONFIG_INVALID") << c.field;
    EXPECT_NE(status.message().find(c.field), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace chord::gateway
